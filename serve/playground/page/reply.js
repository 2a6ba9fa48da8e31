// One reply as it grows: events of a stream are folded into it. Pure; times are given, in ms.

/**
 * @typedef {{strategy?: string, n: number, counted: number, share: number,
 *   answers: {answer: string, count: number}[]}} Votes
 * @typedef {{message: string, code?: string, status?: number}} Failure
 * @typedef {{
 *   thinking: string, answer: string, model: string, preset: string | null, numVotes: number,
 *   votes: Votes | null, usage: any, r1: any, finish: string | null,
 *   failure: Failure | null, stopped: boolean, over: boolean,
 *   seen: {thinking: number, answer: number},
 *   startMs: number, firstMs: number | null, answerMs: number | null, endMs: number | null,
 * }} Reply
 */

/**
 * @param {{model: string, preset?: string | null, votes?: number}} asked
 * @param {number} nowMs
 * @returns {Reply}
 */
export function newReply(asked, nowMs) {
  return {
    thinking: "",
    answer: "",
    model: asked.model,
    preset: asked.preset ?? null,
    numVotes: asked.votes ?? 1,
    votes: null,
    usage: null,
    r1: null,
    finish: null,
    failure: null,
    stopped: false,
    over: false,
    seen: { thinking: 0, answer: 0 },
    startMs: nowMs,
    firstMs: null,
    answerMs: null,
    endMs: null,
  };
}

const VOTES = "r1.votes ";

/**
 * @param {Reply} reply
 * @param {import("./sse.js").SseEvent} event
 * @param {number} nowMs
 */
export function addEvent(reply, event, nowMs) {
  if ("comment" in event) {
    if (event.comment.startsWith(VOTES)) reply.votes = JSON.parse(event.comment.slice(VOTES.length));
    return;
  }
  if (event.data === "[DONE]") return;
  const chunk = JSON.parse(event.data);
  if (chunk.error) {
    reply.failure = { message: chunk.error.message, code: chunk.error.code };
    return;
  }
  if (chunk.usage) reply.usage = chunk.usage;
  if (chunk.r1) reply.r1 = { ...reply.r1, ...chunk.r1 };
  if (chunk.r1?.votes) reply.votes = chunk.r1.votes;
  for (const choice of chunk.choices ?? []) {
    addDelta(reply, choice.delta ?? {}, nowMs);
    reply.seen[reply.answer ? "answer" : "thinking"] += choice.token_ids?.length ?? 0;
    if (choice.finish_reason) reply.finish = choice.finish_reason;
  }
}

/**
 * @param {Reply} reply
 * @param {{reasoning_content?: string, reasoning?: string, content?: string}} delta
 * @param {number} nowMs
 */
function addDelta(reply, delta, nowMs) {
  const thought = delta.reasoning_content ?? delta.reasoning;
  if (thought) {
    reply.firstMs ??= nowMs;
    reply.thinking += thought;
  }
  if (delta.content) {
    reply.firstMs ??= nowMs;
    reply.answerMs ??= nowMs;
    reply.answer += delta.content;
  }
}

/**
 * @param {Reply} reply
 * @param {number} nowMs
 */
export function endReply(reply, nowMs) {
  reply.over = true;
  reply.endMs = nowMs;
}

/** @param {Reply} reply */
export function phaseOf(reply) {
  if (reply.over) return "over";
  if (reply.answer) return "answering";
  if (reply.thinking) return "thinking";
  return reply.numVotes > 1 ? "voting" : "waiting";
}

/**
 * Tokens of the trace and of the answer. Until the server has told, those that have come are counted,
 * the tags among them.
 *
 * @param {Reply} reply
 * @returns {{thinking: number, answer: number, exact: boolean}}
 */
export function tokensOf(reply) {
  if (!reply.usage) return { ...reply.seen, exact: false };
  const thinking = reply.usage.completion_tokens_details?.reasoning_tokens ?? 0;
  return { thinking, answer: reply.usage.completion_tokens - thinking, exact: true };
}

/**
 * Seconds; null where there is nothing to tell.
 *
 * @param {Reply} reply
 * @param {number} nowMs
 */
export function timesOf(reply, nowMs) {
  const end = reply.endMs ?? nowMs;
  const { thinking, answer } = tokensOf(reply);
  const first = reply.firstMs;
  return {
    first: first === null ? null : (first - reply.startMs) / 1000,
    thinking: ((reply.answerMs ?? end) - reply.startMs) / 1000,
    total: (end - reply.startMs) / 1000,
    /** Tokens per second after the first; of votes, of all samples together. */
    rate: first === null || end - reply.startMs < 200 ? null
      : (thinking + answer) / ((end - (reply.numVotes > 1 ? reply.startMs : first)) / 1000 || 1),
  };
}
