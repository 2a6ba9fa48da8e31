// What a visitor does, and what it changes.

import { batch } from "./vendor/vendor.js";
import {
  findIn, messagesOf, newConversation, readFile, titleOf, toFile, toMarkdown,
} from "./conversations.js";
import { generate } from "./generate.js";
import { t } from "./i18n.js";
import { allowed, requestOf } from "./options.js";
import { newReply } from "./reply.js";
import {
  askServer, changes, controls, conversations, current, keepsNothing, key, keyAsked, lives, model, painted, preset,
} from "./state.js";
import { forgetConversation, keepConversation, readConversations } from "./store.js";

/** @typedef {import("./conversations.js").Conversation} Conversation */

const KEEP_EVERY_MS = 1000;
const PAINT_EVERY_MS = 50;

/** (`crypto.randomUUID` is for pages over TLS or on this machine only.) */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (it) => it.toString(16).padStart(2, "0")).join("");
}

/** @param {string} text */
export async function send(text) {
  let conversation = current.value;
  if (!conversation) {
    conversation = { ...newConversation(newId(), Date.now()), title: titleOf(text) };
    current.value = conversation;
  }
  conversation.turns.push({ role: "user", content: text });
  await answer(conversation);
}

/** Another reply to the last question, beside those there are. */
export async function regenerate() {
  if (current.value) await answer(current.value);
}

/**
 * The question, said otherwise; what followed it goes.
 *
 * @param {number} index
 * @param {string} text
 */
export async function ask(index, text) {
  const conversation = current.value;
  if (!conversation) return;
  conversation.turns.splice(index, Infinity, { role: "user", content: text });
  await answer(conversation);
}

export function stop() {
  const live = current.value && lives.value.get(current.value.id);
  live?.abort.abort();
}

/** @param {Conversation} conversation */
async function answer(conversation) {
  if (lives.value.has(conversation.id) || !model.value || !preset.value) return;
  const last = conversation.turns.at(-1);
  const asked = allowed(changes.value, controls.value);
  const reply = newReply(
    { model: model.value.id, preset: preset.value.id, votes: asked.votes ?? preset.value.votes }, Date.now());
  if (last?.role === "assistant") last.shown = last.variants.push(reply) - 1;
  else conversation.turns.push({ role: "assistant", variants: [reply], shown: 0 });
  const messages = messagesOf(conversation.turns.slice(0, -1));
  const request = requestOf(model.value.id, preset.value.id, asked, messages);
  await follow(conversation, reply, request);
}

/**
 * @param {Conversation} conversation
 * @param {import("./reply.js").Reply} reply
 * @param {object} request
 */
async function follow(conversation, reply, request) {
  const abort = new AbortController();
  const live = { abort, reply, wait: /** @type {import("./generate.js").Wait | null} */ (null) };
  batch(() => {
    lives.value = new Map(lives.value).set(conversation.id, live);
    conversations.value = [conversation, ...conversations.value.filter((it) => it !== conversation)];
  });
  await keep(conversation);
  const keeping = setInterval(() => keep(conversation), KEEP_EVERY_MS);
  const waiting = (/** @type {typeof live.wait} */ wait) => {
    live.wait = wait;
    paint();
  };
  try {
    await generate(reply, request, { key: key.value, signal: abort.signal, changed: paint, waiting });
  } finally {
    clearInterval(keeping);
    const left = new Map(lives.value);
    left.delete(conversation.id);
    lives.value = left;
    await keep(conversation);
  }
  if (reply.failure?.status === 401) keyAsked.value = true;
  if (reply.failure?.status === 0) await askServer();
}

let due = false;
let lastMs = 0;

/** Shows what has changed, a little later where it has just been shown: words come faster than eyes. */
export function paint() {
  if (due) return;
  due = true;
  setTimeout(() => {
    due = false;
    lastMs = performance.now();
    painted.value += 1;
  }, Math.max(0, lastMs + PAINT_EVERY_MS - performance.now()));
}

/** @param {Conversation} conversation */
async function keep(conversation) {
  conversation.updated = Date.now();
  paint();
  if (conversations.value.includes(conversation)) await keepConversation(conversation).catch(noStorage);
}

// --- history --------------------------------------------------------------------------------------

/** A chat goes on without. @param {unknown} error */
function noStorage(error) {
  console.info("no history is kept:", error);
  keepsNothing.value = true;
}

/** Reads what is kept; replies that a closed page left unfinished are over. */
export async function restore() {
  const open = new Set(lives.value.keys());
  const all = await readConversations().catch(noStorage);
  if (!all) return;
  const kept = all.filter(({ id }) => !open.has(id));
  for (const { turns } of kept) {
    for (const turn of turns) {
      if (turn.role === "assistant") turn.variants.filter(({ over }) => !over).forEach(interrupted);
    }
  }
  const running = conversations.value.filter(({ id }) => open.has(id));
  batch(() => {
    conversations.value = [...running, ...kept];
    current.value = conversations.value.find(({ id }) => id === current.value?.id) ?? null;
  });
}

/** @param {import("./reply.js").Reply} reply */
function interrupted(reply) {
  Object.assign(reply, { over: true, stopped: true, endMs: reply.endMs ?? reply.startMs });
}

/** @param {string} words */
export function search(words) {
  return conversations.value.flatMap((conversation) => {
    const found = findIn(conversation, words);
    return found === null ? [] : [{ conversation, found }];
  });
}

/** @param {Conversation} conversation @param {string} title */
export async function rename(conversation, title) {
  conversation.title = title.trim() || conversation.title;
  paint();
  await keepConversation(conversation).catch(noStorage);
}

/** @param {Conversation} conversation */
export async function remove(conversation) {
  lives.value.get(conversation.id)?.abort.abort();
  batch(() => {
    conversations.value = conversations.value.filter((it) => it !== conversation);
    if (current.value === conversation) current.value = null;
  });
  await forgetConversation(conversation.id).catch(noStorage);
}

export function exportAll() {
  download("r1-serve-conversations.json", "application/json", toFile(conversations.value));
}

/** @param {Conversation} conversation */
export function exportOne(conversation) {
  const words = { you: t("you"), thinking: t("thinking") };
  download("conversation.md", "text/markdown", toMarkdown(conversation, words));
}

/**
 * @param {File} file
 * @returns {Promise<string>} what came of it, for the visitor
 */
export async function importFile(file) {
  try {
    const read = readFile(await file.text(), newId, Date.now());
    await Promise.all(read.map(keepConversation));
    await restore();
    return t("imported", { count: read.length });
  } catch (error) {
    return t("notImported", { file: file.name, why: error instanceof Error ? error.message : String(error) });
  }
}

/** @param {string} name @param {string} type @param {string} text */
function download(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
