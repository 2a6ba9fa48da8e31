// Conversations in the browser's own database, and what the visitor has set in its storage.

import { openDB } from "./vendor/vendor.js";

const CONVERSATIONS = "conversations";

/** @type {Promise<any> | undefined} */
let opened;

function database() {
  opened ??= openDB("r1-serve", 1, {
    upgrade(db) {
      db.createObjectStore(CONVERSATIONS, { keyPath: "id" });
    },
  });
  return opened;
}

/** @returns {Promise<import("./conversations.js").Conversation[]>} the latest first */
export async function readConversations() {
  const all = await (await database()).getAll(CONVERSATIONS);
  return all.sort((/** @type {any} */ a, /** @type {any} */ b) => b.updated - a.updated);
}

/** @param {import("./conversations.js").Conversation} conversation */
export async function keepConversation(conversation) {
  await (await database()).put(CONVERSATIONS, conversation);
}

/** @param {string} id */
export async function forgetConversation(id) {
  await (await database()).delete(CONVERSATIONS, id);
}

/**
 * @template T
 * @param {string} name
 * @param {T} otherwise
 * @param {Storage} [storage]
 * @returns {T}
 */
export function readSetting(name, otherwise, storage = localStorage) {
  try {
    return JSON.parse(storage.getItem(`r1-serve.${name}`) ?? "null") ?? otherwise;
  } catch {
    return otherwise;
  }
}

/**
 * @param {string} name
 * @param {unknown} value null forgets it
 * @param {Storage} [storage]
 */
export function keepSetting(name, value, storage = localStorage) {
  if (value === null) storage.removeItem(`r1-serve.${name}`);
  else storage.setItem(`r1-serve.${name}`, JSON.stringify(value));
}
