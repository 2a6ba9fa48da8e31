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
 * @param {Conversation} conversation
 * @returns {Reply[]} that are still growing
 */
export function unfinishedIn({ turns }) {
  return turns.flatMap((turn) => (turn.role === "assistant" ? turn.variants.filter(({ over }) => !over) : []));
}

/**
 * The turns as the API wants them. Thinking stays here; a question without an answer is left out, unless
 * it is the last.
 *
 * @param {Turn[]} turns
 * @returns {{role: string, content: string}[]}
 */
export function messagesOf(turns) {
  const answers = turns.map((turn) => (turn.role === "user" ? turn.content : shownOf(turn).answer));
  return turns.flatMap(({ role }, index) => {
    const answered = role === "assistant" || index === turns.length - 1 || answers[index + 1];
    return answers[index] && answered ? [{ role, content: answers[index] }] : [];
  });
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

const number = (/** @type {unknown} */ value) => (typeof value === "number" && Number.isFinite(value) ? value : null);
const text = (/** @type {unknown} */ value) => (typeof value === "string" ? value : "");

/**
 * Only what is of the right kind is taken over: the file may be anybody's.
 *
 * @param {any} it
 * @returns {Reply}
 */
function readReply(it) {
  const asked = { model: text(it?.model), preset: text(it?.preset) || null, votes: number(it?.numVotes) ?? 1 };
  const startMs = number(it?.startMs) ?? 0;
  return {
    ...newReply(asked, startMs),
    thinking: text(it?.thinking ?? it?.reasoning_content),
    answer: text(it?.answer ?? it?.content),
    usage: readUsage(it?.usage),
    votes: readVotes(it?.votes),
    r1: it?.r1 ? { recovered: text(it.r1.recovered), failovers: number(it.r1.failovers) } : null,
    finish: text(it?.finish) || null,
    failure: it?.failure ? { message: text(it.failure.message), code: text(it.failure.code) } : null,
    stopped: it?.stopped === true,
    firstMs: number(it?.firstMs),
    answerMs: number(it?.answerMs),
    endMs: number(it?.endMs) ?? startMs,
    over: true,
  };
}

/** @param {any} it */
function readUsage(it) {
  const completion_tokens = number(it?.completion_tokens);
  const reasoning_tokens = number(it?.completion_tokens_details?.reasoning_tokens) ?? 0;
  return completion_tokens === null ? null : { completion_tokens, completion_tokens_details: { reasoning_tokens } };
}

const MAX_ANSWERS = 64;

/**
 * @param {any} it
 * @returns {import("./reply.js").Votes | null}
 */
function readVotes(it) {
  if (!Array.isArray(it?.answers)) return null;
  const answers = it.answers.slice(0, MAX_ANSWERS).map((/** @type {any} */ one) => ({ answer: text(one?.answer), count: number(one?.count) ?? 0 }));
  return { n: number(it.n) ?? 0, counted: number(it.counted) ?? 0, share: number(it.share) ?? 0, answers };
}

const LAST_DATE_MS = 8.64e15; // of ECMAScript

/**
 * @param {unknown} value ms, or a date as text
 * @param {number} otherwise
 */
function timeOf(value, otherwise) {
  const time = number(typeof value === "string" ? Date.parse(value) : value);
  return time !== null && Math.abs(time) <= LAST_DATE_MS ? time : otherwise;
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
