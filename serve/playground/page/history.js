// The conversations of this browser: read at the start, kept as they grow, shared with its other tabs.

import { batch } from "./vendor/vendor.js";
import { findIn, readFile, toFile, toMarkdown, unfinishedIn } from "./conversations.js";
import { t } from "./i18n.js";
import { comeBack, conversations, current, keepsNothing, lives, paint } from "./state.js";
import {
  forgetConversation, keepConversation, readConversation, readConversations,
} from "./store.js";

/** @typedef {import("./conversations.js").Conversation} Conversation */

/** A reply that grows is kept every second; one that isn't for so long has lost its page. */
const ABANDONED_MS = 5000;
/** Carries what has changed: its id, and its title, null where it is gone. */
const tabs = new BroadcastChannel("r1-serve");

/** (`crypto.randomUUID` is for pages over TLS or on this machine only.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), (it) => it.toString(16).padStart(2, "0")).join("");
}

export async function restore() {
  const kept = (await readConversations().catch(noStorage)) ?? [];
  const known = new Set(conversations.value.map(({ id }) => id));
  conversations.value = [...conversations.value, ...kept.filter(({ id }) => !known.has(id))];
  comeBack();
  endAbandoned();
  tabs.onmessage = async ({ data }) => take(data, await readConversation(data.id).catch(noStorage));
}

/**
 * What another tab has changed; of what this one is writing, only its name and its end.
 *
 * @param {{id: string, title: string | null}} change
 * @param {Conversation | void} kept
 */
function take({ id, title }, kept) {
  if (keepsNothing.value) return;
  const ours = conversations.value.find((it) => it.id === id);
  if (ours && lives.value.has(id)) {
    if (title === null) remove(ours);
    else retitle(ours, title);
    return;
  }
  batch(() => {
    const others = conversations.value.filter((it) => it !== ours);
    conversations.value = kept ? [kept, ...others] : others;
    if (current.value?.id === id) current.value = kept ?? null;
  });
}

/** Replies whose page was closed are over. */
export function endAbandoned() {
  const before = Date.now() - ABANDONED_MS;
  for (const conversation of conversations.value) {
    const { id, updated } = conversation;
    if (updated > before || lives.value.has(id)) continue;
    const left = unfinishedIn(conversation);
    for (const reply of left) Object.assign(reply, { over: true, stopped: true, endMs: updated });
    if (left.length > 0) paint();
  }
}

/** @param {Conversation} conversation */
export async function keep(conversation) {
  conversation.updated = Date.now();
  paint();
  if (!conversations.value.includes(conversation)) return;
  await keepConversation(conversation).then(() => tell(conversation.id, conversation.title), noStorage);
}

/** The other tabs. @param {string} id @param {string | null} title */
function tell(id, title) {
  tabs.postMessage({ id, title });
}

/** A chat goes on without. @param {unknown} error */
function noStorage(error) {
  console.info("no history is kept:", error);
  keepsNothing.value = true;
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
  retitle(conversation, title.trim() || conversation.title);
  await keep(conversation);
}

/** @param {Conversation} conversation @param {string} title */
function retitle(conversation, title) {
  conversation.title = title;
  conversations.value = [...conversations.value];
}

/** @param {Conversation} conversation */
export async function remove(conversation) {
  lives.value.get(conversation.id)?.abort.abort();
  batch(() => {
    conversations.value = conversations.value.filter((it) => it !== conversation);
    if (current.value === conversation) current.value = null;
  });
  await forgetConversation(conversation.id).then(() => tell(conversation.id, null), noStorage);
}

export function exportAll() {
  download("r1-serve-conversations.json", "application/json", toFile(conversations.value));
}

/** @param {Conversation} conversation */
export function exportOne(conversation) {
  const words = { you: t("you"), thinking: t("thinking") };
  const name = conversation.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "conversation";
  download(`${name}.md`, "text/markdown", toMarkdown(conversation, words));
}

/**
 * @param {File} file
 * @returns {Promise<string>} what came of it, for the visitor
 */
export async function importFile(file) {
  try {
    const read = readFile(await file.text(), newId, Date.now());
    await Promise.all(read.map(keepConversation)).catch(noStorage);
    conversations.value = [...read, ...conversations.value];
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
