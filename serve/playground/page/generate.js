// One reply: asked for, waited for where the server says when, and folded together as it comes.

import { ApiError, chatEvents } from "./api.js";
import { addEvent, endReply } from "./reply.js";

const MAX_TRIES = 6;

/** @typedef {{untilMs: number, code: string | null}} Wait code: with what the server put it off */

/**
 * Returns when the reply is over, however it ends; what went wrong stands in it.
 *
 * A server that is full gives an appointment to these very bytes, so they are sent again as they were.
 *
 * @param {import("./reply.js").Reply} reply
 * @param {object} request
 * @param {{key?: string, signal: AbortSignal, changed: () => void,
 *   waiting: (wait: Wait | null) => void}} options
 */
export async function generate(reply, request, { key, signal, changed, waiting }) {
  const body = JSON.stringify(request);
  try {
    for (let tries = 1; ; tries += 1) {
      try {
        await stream(reply, body, { key, signal, changed });
        break;
      } catch (error) {
        const after = error instanceof ApiError && !reply.firstMs ? error.retryAfterS : null;
        if (after === null || tries === MAX_TRIES) throw error;
        waiting({ untilMs: Date.now() + after * 1000, code: /** @type {ApiError} */ (error).code });
        await sleep(after * 1000, signal);
        waiting(null);
        reply.startMs = Date.now();
      }
    }
  } catch (error) {
    if (signal.aborted) reply.stopped = true;
    else {
      const { message, code, status } = error instanceof ApiError ? error : new ApiError(String(error), { code: "page" });
      reply.failure = { message, code: code ?? undefined, status };
    }
  } finally {
    endReply(reply, Date.now());
    changed();
  }
}

/**
 * @param {import("./reply.js").Reply} reply
 * @param {string} body
 * @param {{key?: string, signal: AbortSignal, changed: () => void}} options
 */
async function stream(reply, body, { key, signal, changed }) {
  for await (const events of chatEvents(body, { key, signal })) {
    for (const event of events) addEvent(reply, event, Date.now());
    changed();
  }
  if (!reply.finish && !reply.failure) throw new ApiError("the stream ended early", { code: "stream_broken" });
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 */
function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}
