// What a visitor asks of the model.

import { batch } from "./vendor/vendor.js";
import { messagesOf, newConversation, titleOf } from "./conversations.js";
import { generate } from "./generate.js";
import { keep, newId } from "./history.js";
import { allowed, requestOf } from "./options.js";
import { newReply } from "./reply.js";
import {
  askServer, canAsk, changes, controls, conversations, current, key, keyAsked, lives, model, paint,
  preset,
} from "./state.js";

/** @typedef {import("./conversations.js").Conversation} Conversation */

const KEEP_EVERY_MS = 1000;

/** @param {string} text */
export async function send(text) {
  if (!canAsk.value) return;
  const now = Date.now();
  const conversation = current.value ?? { ...newConversation(newId(), now), title: titleOf(text) };
  conversation.turns.push({ role: "user", content: text });
  await answer(conversation);
}

/** Another reply to the last question, beside those there are. */
export async function regenerate() {
  if (canAsk.value && current.value) await answer(current.value);
}

/**
 * The question, said otherwise; what followed it goes.
 *
 * @param {number} index
 * @param {string} text
 */
export async function ask(index, text) {
  const conversation = current.value;
  if (!canAsk.value || !conversation) return;
  conversation.turns.splice(index, Infinity, { role: "user", content: text });
  await answer(conversation);
}

export function stop() {
  const live = current.value && lives.value.get(current.value.id);
  live?.abort.abort();
}

/** @param {Conversation} conversation whose last question is to be answered */
async function answer(conversation) {
  const { id } = /** @type {{id: string}} */ (model.value);
  const book = /** @type {import("./options.js").Preset} */ (preset.value);
  const last = conversation.turns.at(-1);
  const asked = allowed(changes.value, controls.value);
  const reply = newReply({ model: id, preset: book.id, votes: asked.votes ?? book.votes }, Date.now());
  if (last?.role === "assistant") last.shown = last.variants.push(reply) - 1;
  else conversation.turns.push({ role: "assistant", variants: [reply], shown: 0 });
  await follow(conversation, reply, requestOf(id, book.id, asked, messagesOf(conversation.turns.slice(0, -1))));
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
    current.value = conversation;
  });
  keep(conversation);
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
