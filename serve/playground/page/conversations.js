// Conversations as data: their turns, what of them goes to the server, and files of them. Pure.

import { newReply } from "./reply.js";

/**
 * @typedef {import("./reply.js").Reply} Reply
 * @typedef {{role: "user", content: string}} UserTurn
 * @typedef {{role: "assistant", variants: Reply[], shown: number}} AssistantTurn
 * @typedef {UserTurn | AssistantTurn} Turn
 * @typedef {{id: string, title: string, created: number, updated: number, turns: Turn[]}} Conversation
 *   times in ms
 */

const TITLE_LENGTH = 60;

/**
 * @param {string} id
 * @param {number} nowMs
 * @returns {Conversation}
 */
export function newConversation(id, nowMs) {
  return { id, title: "", created: nowMs, updated: nowMs, turns: [] };
}

/** @param {string} text */
export function titleOf(text) {
  const line = text.trim().replace(/\s+/g, " ");
  const characters = [...line];
  return characters.length <= TITLE_LENGTH ? line : `${characters.slice(0, TITLE_LENGTH - 1).join("")}…`;
}

/** @param {AssistantTurn} turn */
export function shownOf(turn) {
  return turn.variants[turn.shown];
}

/**
 * The turns as the API wants them. Thinking stays here, and a turn without an answer says nothing.
 *
 * @param {Turn[]} turns
 * @returns {{role: string, content: string}[]}
 */
export function messagesOf(turns) {
  return turns
    .map((turn) => (turn.role === "user" ? turn : { role: turn.role, content: shownOf(turn).answer }))
    .filter(({ content }) => content)
    .map(({ role, content }) => ({ role, content }));
}

/**
 * @param {Conversation} conversation
 * @param {string} words
 * @returns {string | null} what was found with a little around it; null: not all of the words occur
 */
export function findIn(conversation, words) {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = [conversation.title, ...conversation.turns.map(textOf)];
  const whole = texts.join("\n").toLowerCase();
  if (!wanted.every((word) => whole.includes(word))) return null;
  const text = texts.slice(1).find((it) => it.toLowerCase().includes(wanted[0])) ?? "";
  const at = Math.max(0, text.toLowerCase().indexOf(wanted[0]) - 20);
  return text.slice(at, at + 80).replace(/\s+/g, " ");
}

/** @param {Turn} turn */
function textOf(turn) {
  if (turn.role === "user") return turn.content;
  return turn.variants.map(({ thinking, answer }) => `${answer}\n${thinking}`).join("\n");
}

// --- files ----------------------------------------------------------------------------------------

const FORMAT = 1;

/**
 * @param {Conversation[]} conversations
 * @returns {string} JSON that `readFile` takes; its messages are in the API's form, so that other
 *   programs can read them
 */
export function toFile(conversations) {
  const data = conversations.map(({ turns, ...rest }) => ({
    ...rest,
    messages: turns.map((turn) => {
      if (turn.role === "user") return turn;
      const { answer, thinking } = shownOf(turn);
      return { role: turn.role, content: answer, reasoning_content: thinking, variants: turn.variants, shown: turn.shown };
    }),
  }));
  return `${JSON.stringify({ r1_serve: FORMAT, conversations: data }, null, 1)}\n`;
}

/**
 * @param {string} text
 * @param {() => string} makeId
 * @param {number} nowMs
 * @returns {Conversation[]}
 * @throws {Error} with what is wrong with it
 */
export function readFile(text, makeId, nowMs) {
  const data = JSON.parse(text);
  if (data?.r1_serve !== FORMAT || !Array.isArray(data.conversations)) {
    throw new Error(`no {"r1_serve": ${FORMAT}, "conversations": […]}`);
  }
  return data.conversations.map((/** @type {any} */ it, /** @type {number} */ index) => {
    if (!Array.isArray(it?.messages)) throw new Error(`conversations[${index}] has no messages`);
    const turns = it.messages.map((/** @type {any} */ message, /** @type {number} */ at) =>
      readTurn(message, `conversations[${index}].messages[${at}]`));
    const first = turns.find((/** @type {Turn} */ turn) => turn.role === "user");
    return {
      id: makeId(),
      title: typeof it.title === "string" && it.title ? it.title : titleOf(first?.content ?? ""),
      created: timeOf(it.created, nowMs),
      updated: timeOf(it.updated, nowMs),
      turns,
    };
  });
}

/**
 * @param {any} message
 * @param {string} where
 * @returns {Turn}
 */
function readTurn(message, where) {
  if (message?.role === "user" && typeof message.content === "string") {
    return { role: "user", content: message.content };
  }
  if (message?.role !== "assistant") throw new Error(`${where} is of neither user nor assistant`);
  const variants = Array.isArray(message.variants) ? message.variants : [message];
  const shown = Number.isInteger(message.shown) && variants[message.shown] ? message.shown : 0;
  if (variants.length === 0) throw new Error(`${where} says nothing`);
  return { role: "assistant", variants: variants.map(readReply), shown };
}

/**
 * Only what is of the right kind is taken over: the file may be anybody's.
 *
 * @param {any} it
 * @returns {Reply}
 */
function readReply(it) {
  const number = (/** @type {any} */ value) => (Number.isFinite(value) ? value : null);
  const text = (/** @type {any} */ value) => (typeof value === "string" ? value : "");
  const reply = newReply({ model: text(it?.model), preset: text(it?.preset) || null, votes: number(it?.numVotes) ?? 1 }, number(it?.startMs) ?? 0);
  reply.thinking = text(it?.thinking ?? it?.reasoning_content);
  reply.answer = text(it?.answer ?? it?.content);
  if (Number.isFinite(it?.usage?.completion_tokens)) reply.usage = it.usage;
  if (Array.isArray(it?.votes?.answers)) reply.votes = it.votes;
  if (it?.r1 && typeof it.r1 === "object") reply.r1 = it.r1;
  reply.finish = text(it?.finish) || null;
  reply.stopped = it?.stopped === true;
  reply.firstMs = number(it?.firstMs);
  reply.answerMs = number(it?.answerMs);
  reply.endMs = number(it?.endMs) ?? reply.startMs;
  reply.over = true;
  return reply;
}

/**
 * @param {any} value ms, or a date as text
 * @param {number} otherwise
 */
function timeOf(value, otherwise) {
  const time = typeof value === "string" ? Date.parse(value) : value;
  return Number.isFinite(time) ? time : otherwise;
}

/**
 * @param {Conversation} conversation
 * @param {{you: string, thinking: string}} words
 * @returns {string} Markdown, thinking in folded blocks
 */
export function toMarkdown(conversation, words) {
  const parts = conversation.turns.map((turn) => {
    if (turn.role === "user") return `**${words.you}**\n\n${turn.content}`;
    const { thinking, answer, model } = shownOf(turn);
    const trace = thinking && `<details><summary>${words.thinking}</summary>\n\n${thinking}\n\n</details>\n\n`;
    return `**${model}**\n\n${trace}${answer}`;
  });
  return `# ${conversation.title}\n\n${parts.join("\n\n")}\n`;
}
