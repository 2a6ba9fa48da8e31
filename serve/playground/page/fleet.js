// How the fleet does, of looks at /metrics. Pure.

import { quantile, sum } from "./prometheus.js";

export const LOOK_EVERY_S = 2;
/** What rates and quantiles are taken over: requests count when they end, so a short one jumps. */
export const WINDOW_S = 30;
export const KEPT_S = 300;

/**
 * @typedef {{atMs: number, samples: import("./prometheus.js").Samples}} Look
 * @typedef {{atMs: number, inFlight: number, queued: number, tokenRate: number | null,
 *   requestRate: number | null, failedShare: number | null, ttft: Quantiles, duration: Quantiles}} Glance
 * @typedef {{p50: number | null, p95: number | null}} Quantiles seconds
 */

/**
 * @param {Look[]} looks from the oldest on
 * @returns {Glance}
 */
export function glanceOf(looks) {
  const now = looks[looks.length - 1];
  const then = looks.find(({ atMs }) => now.atMs - atMs <= WINDOW_S * 1000 + 500) ?? now;
  const seconds = (now.atMs - then.atMs) / 1000;
  const grown = (/** @type {string} */ name, /** @type {Record<string, string>} */ labels = {}) =>
    sum(now.samples, name, labels) - sum(then.samples, name, labels);
  const rate = (/** @type {number} */ count) => (seconds > 0 ? Math.max(0, count) / seconds : null);
  const quantiles = (/** @type {string} */ name) => ({
    p50: quantile(then.samples, now.samples, name, 0.5),
    p95: quantile(then.samples, now.samples, name, 0.95),
  });
  const requests = grown("r1_requests_total");
  const well = grown("r1_requests_total", { outcome: "ok" }) + grown("r1_requests_total", { outcome: "client_gone" });
  return {
    atMs: now.atMs,
    inFlight: sum(now.samples, "r1_in_flight"),
    queued: sum(now.samples, "r1_queue_depth"),
    tokenRate: rate(grown("r1_tokens_total", { kind: "reasoning" }) + grown("r1_tokens_total", { kind: "answer" })),
    requestRate: rate(requests),
    failedShare: requests > 0 ? 1 - well / requests : null,
    ttft: quantiles("r1_time_to_first_token_seconds"),
    duration: quantiles("r1_request_seconds"),
  };
}
