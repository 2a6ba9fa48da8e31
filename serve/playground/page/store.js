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

/**
 * @param {string} id
 * @returns {Promise<import("./conversations.js").Conversation | undefined>}
 */
export async function readConversation(id) {
  return (await database()).get(CONVERSATIONS, id);
}

/** @param {import("./conversations.js").Conversation} conversation */
export async function keepConversation(conversation) {
  await (await database()).put(CONVERSATIONS, conversation);
}

/** @param {string} id */
export async function forgetConversation(id) {
  await (await database()).delete(CONVERSATIONS, id);
}

/** @typedef {"localStorage" | "sessionStorage"} Where which some browsers deny, or have full */

/**
 * @template T
 * @param {string} name
 * @param {T} otherwise
 * @param {Where} [where]
 * @returns {T}
 */
export function readSetting(name, otherwise, where = "localStorage") {
  try {
    return JSON.parse(window[where].getItem(`r1-serve.${name}`) ?? "null") ?? otherwise;
  } catch {
    return otherwise;
  }
}

/**
 * @param {string} name
 * @param {unknown} value null forgets it
 * @param {Where} [where]
 */
export function keepSetting(name, value, where = "localStorage") {
  try {
    if (value === null) window[where].removeItem(`r1-serve.${name}`);
    else window[where].setItem(`r1-serve.${name}`, JSON.stringify(value));
  } catch {
    // It holds until the page is closed.
  }
}
