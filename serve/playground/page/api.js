// The router's public API, asked with the visitor's key. Every failure is an `ApiError`.

import { SseDecoder } from "./sse.js";

/** Of the router that served this page, whatever path a proxy put it under. */
const ROOT = new URL("..", document.baseURI);

export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string | null, retryAfterS?: number | null}} [more] status 0:
   *   the server could not be reached
   */
  constructor(message, { status = 0, code = null, retryAfterS = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    /** When to come back, where the server told. */
    this.retryAfterS = retryAfterS;
  }
}

/**
 * @param {string} path
 * @param {{key?: string, body?: string, signal?: AbortSignal}} [options]
 * @returns {Promise<Response>} one that is well
 */
async function ask(path, { key, body, signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  let response;
  try {
    response = await fetch(new URL(path, ROOT), { method, headers, body, signal });
  } catch (error) {
    throw unreachable(error);
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

/** @param {unknown} error */
function unreachable(error) {
  if (error instanceof DOMException && error.name === "AbortError") return error;
  return new ApiError(String(error));
}

/** @param {Response} response */
async function failureOf(response) {
  const { status, headers } = response;
  const told = await response.json().then((body) => body?.error, () => null);
  const after = Number.parseFloat(headers.get("retry-after") ?? "");
  return new ApiError(told?.message ?? `${status} ${response.statusText}`.trim(), {
    status,
    code: told?.code ?? null,
    retryAfterS: Number.isFinite(after) ? after : null,
  });
}

/**
 * @param {string} path
 * @param {string} [key]
 * @returns {Promise<any>}
 */
export async function getJson(path, key) {
  const response = await ask(path, { key });
  return response.json().catch((error) => { throw new ApiError(`${path}: ${error}`); });
}

/**
 * @param {string} path
 * @param {string} [key]
 */
export async function getText(path, key) {
  const response = await ask(path, { key });
  return response.text().catch((error) => { throw new ApiError(`${path}: ${error}`); });
}

/**
 * The events of a chat as they come. Leaving the loop, or the signal, closes the connection, with
 * which the engine's work ends.
 *
 * @param {string} body
 * @param {{key?: string, signal: AbortSignal}} options
 * @returns {AsyncGenerator<import("./sse.js").SseEvent[]>}
 */
export async function* chatEvents(body, { key, signal }) {
  const response = await ask("v1/chat/completions", { key, body, signal });
  const decoder = new SseDecoder();
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (response.body)
    .pipeThrough(new TextDecoderStream())
    .getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield decoder.decode(value);
    }
  } catch (error) {
    throw signal.aborted ? error : new ApiError(String(error), { code: "stream_broken" });
  } finally {
    reader.cancel().catch(() => {});
  }
}
