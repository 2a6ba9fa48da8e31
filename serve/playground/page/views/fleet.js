import { useEffect, useState } from "../vendor/vendor.js";
import { ApiError, getJson, getText } from "../api.js";
import { KEPT_S, LOOK_EVERY_S, WINDOW_S, glanceOf } from "../fleet.js";
import { duration, number, t } from "../i18n.js";
import { parseMetrics } from "../prometheus.js";
import { key } from "../state.js";
import { html } from "./html.js";
import { Spark } from "./spark.js";

/**
 * @typedef {import("../fleet.js").Glance} Glance
 * @typedef {{url: string, ready: boolean, state: string, model: string | null, in_flight: number,
 *   running: number | null, waiting: number | null, kv_cache_usage: number | null,
 *   ejections: Record<string, number>, last_error: string | null}} Replica
 */

export function Fleet() {
  const [seen, setSeen] = useState(/** @type {{glances: Glance[], replicas: Replica[]} | null} */ (null));
  const [failed, setFailed] = useState("");
  useEffect(() => watch(setSeen, setFailed), [key.value]);
  const now = seen?.glances.at(-1);
  return html`<main class="fleet" tabindex="-1">
    <p class="quiet">${t("fleetMore", { seconds: LOOK_EVERY_S, window: WINDOW_S })}</p>
    ${failed && html`<p class="failure" role="alert">${t(failed)}</p>`}
    ${seen && now && html`<${Cards} now=${now} glances=${seen.glances} replicas=${seen.replicas} /><${Engines} replicas=${seen.replicas} />`}
  </main>`;
}

/**
 * Looks until told to stop, while the page can be seen.
 *
 * @param {(seen: {glances: Glance[], replicas: Replica[]}) => void} show
 * @param {(words: string) => void} fail
 * @returns {() => void}
 */
function watch(show, fail) {
  /** @type {import("../fleet.js").Look[]} */
  let looks = [];
  /** @type {Glance[]} */
  let glances = [];
  let going = true;
  let asking = false;
  const once = async () => {
    if (document.hidden || asking) return;
    asking = true;
    try {
      const [metrics, replicas] = await Promise.all([getText("metrics", key.value), getJson("replicas", key.value)]);
      if (!going) return;
      const latest = { atMs: Date.now(), samples: parseMetrics(metrics) };
      looks = [...looks, latest].filter(({ atMs }) => latest.atMs - atMs <= (WINDOW_S + 2 * LOOK_EVERY_S) * 1000);
      glances = [...glances, glanceOf(looks)].filter(({ atMs }) => latest.atMs - atMs <= KEPT_S * 1000);
      fail("");
      show({ glances, replicas: replicas.data });
    } catch (error) {
      const down = error instanceof ApiError && error.status === 0;
      if (going) fail(down ? "server_unreachable" : "noMetrics");
    } finally {
      asking = false;
    }
  };
  once();
  const clock = setInterval(once, LOOK_EVERY_S * 1000);
  return () => {
    going = false;
    clearInterval(clock);
  };
}

/** @param {{now: Glance, glances: Glance[], replicas: Replica[]}} props */
function Cards({ now, glances, replicas }) {
  const ready = replicas.filter((replica) => replica.ready).length;
  const quantiles = (/** @type {import("../fleet.js").Quantiles} */ { p50, p95 }) =>
    t("p50p95", { p50: duration(p50), p95: duration(p95) });
  const cards = [
    ["replicas", t("ofThem", { count: ready, all: replicas.length }), null],
    ["inFlight", number(now.inFlight), (/** @type {Glance} */ it) => it.inFlight],
    ["queued", number(now.queued), (/** @type {Glance} */ it) => it.queued],
    ["tokenRate", number(now.tokenRate, 0), (/** @type {Glance} */ it) => it.tokenRate],
    ["requestRate", number(now.requestRate, 1), (/** @type {Glance} */ it) => it.requestRate],
    ["ttft", quantiles(now.ttft), (/** @type {Glance} */ it) => it.ttft.p95],
    ["duration", quantiles(now.duration), (/** @type {Glance} */ it) => it.duration.p95],
    ["failedShare", now.failedShare === null ? "–" : `${number(100 * now.failedShare, 1)} %`, (/** @type {Glance} */ it) => it.failedShare],
  ];
  return html`<dl class="cards">${cards.map(([name, value, line]) => html`<div class="card" key=${name} data-figure=${name}>
    <dt>${t(/** @type {string} */ (name))}</dt>
    <dd>${value}</dd>
    ${line && html`<dd><${Spark} values=${glances.map(/** @type {any} */ (line))} label=${`${t(/** @type {string} */ (name))}, ${t("lastMinutes", { minutes: KEPT_S / 60 })}`} /></dd>`}
  </div>`)}</dl>`;
}

/** @param {Replica[]} replicas */
function worstFirst(replicas) {
  return [...replicas].sort((a, b) => Number(a.ready) - Number(b.ready));
}

/** @param {{replicas: Replica[]}} props */
function Engines({ replicas }) {
  if (replicas.length === 0) return html`<p>${t("noEngines")}</p>`;
  const columns = ["engine", "state", "model", "inFlight", "running", "waitingThere", "cache", "ejections", "lastError"];
  return html`<div class="table" tabindex="0" role="region" aria-label=${t("fleet")}><table>
    <thead><tr>${columns.map((name) => html`<th key=${name} scope="col">${t(name)}</th>`)}</tr></thead>
    <tbody>${worstFirst(replicas).map((it) => html`<tr key=${it.url}>
      <th scope="row">${it.url.replace(/^https?:\/\//, "")}</th>
      <td><span class=${it.ready ? "state ready" : "state"}>${t(`state_${it.state}`)}</span></td>
      <td>${it.model ?? "–"}</td>
      <td>${number(it.in_flight)}</td>
      <td>${number(it.running)}</td>
      <td>${number(it.waiting)}</td>
      <td><${Share} value=${it.kv_cache_usage} /></td>
      <td>${number(Object.values(it.ejections).reduce((total, count) => total + count, 0))}</td>
      <td>${it.last_error ?? ""}</td>
    </tr>`)}</tbody>
  </table></div>`;
}

/** @param {{value: number | null}} props */
function Share({ value }) {
  if (value === null) return "–";
  return html`<span class="share"><meter min="0" max="1" value=${value} aria-label=${t("cache")} /> ${number(100 * value, 0)} %</span>`;
}
