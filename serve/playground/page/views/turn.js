import { useEffect, useState } from "../vendor/vendor.js";
import { ask, regenerate } from "../actions.js";
import { shownOf } from "../conversations.js";
import { keep } from "../history.js";
import { duration, known, number, t } from "../i18n.js";
import { phaseOf, timesOf, tokensOf } from "../reply.js";
import { canAsk, current, currentLive, paint, useChanges } from "../state.js";
import { CopyButton } from "./copy.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";
import { Text } from "./text.js";
import { Thinking } from "./thinking.js";
import { Votes } from "./votes.js";

const CLOCK_MS = 100;

/** @param {{turn: import("../conversations.js").UserTurn, index: number}} props */
export function UserTurn({ turn, index }) {
  const [editing, setEditing] = useState(false);
  const [text, setText] = useState(turn.content);
  if (editing) {
    const submit = (/** @type {Event} */ event) => {
      event.preventDefault();
      if (!text.trim() || !canAsk.value) return;
      const later = (current.value?.turns.length ?? 0) - index - 2;
      if (later > 0 && !confirm(t("editSure", { count: later }))) return;
      setEditing(false);
      ask(index, text.trim());
    };
    const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape" && !event.isComposing) setEditing(false);
    };
    return html`<form class="turn user editing" onSubmit=${submit}>
      <textarea aria-label=${t("editing")} rows=${Math.min(12, text.split("\n").length + 1)} dir="auto" value=${text} onKeyDown=${onKeyDown} onInput=${(/** @type {any} */ event) => setText(event.target.value)}
        ref=${(/** @type {HTMLElement | null} */ it) => it?.focus()} />
      <div class="row">
        <button type="submit" class="main-button" disabled=${!canAsk.value}>${t("send")}</button>
        <button type="button" onClick=${() => setEditing(false)}>${t("cancel")}</button>
      </div>
    </form>`;
  }
  return html`<article class="turn user" aria-label=${t("you")}>
    <div class="bubble" dir="auto">${turn.content}</div>
    <div class="tools">
      <${CopyButton} text=${turn.content} />
      <${IconButton} icon="edit" label=${t("edit")} disabled=${!canAsk.value} onClick=${() => { setText(turn.content); setEditing(true); }} />
    </div>
  </article>`;
}

/** @param {{turn: import("../conversations.js").AssistantTurn, last: boolean}} props */
export function ReplyTurn({ turn, last }) {
  useChanges();
  const reply = shownOf(turn);
  const live = currentLive.value?.reply === reply ? currentLive.value : null;
  useClock(live !== null);
  return html`<article class="turn reply" aria-label=${reply.model} aria-busy=${live !== null}>
    ${live?.wait ? html`<${PutOff} ...${live.wait} />` : html`<${Begun} reply=${reply} />`}
    ${reply.answer && html`<${Text} text=${reply.answer} />`}
    <${Remarks} reply=${reply} last=${last} />
    ${reply.over && html`<${Tools} turn=${turn} last=${last} />`}
  </article>`;
}

/** Shows times that run. @param {boolean} running */
function useClock(running) {
  useEffect(() => {
    if (!running) return undefined;
    const clock = setInterval(paint, CLOCK_MS);
    return () => clearInterval(clock);
  }, [running]);
}

/** @param {{reply: import("../reply.js").Reply}} props */
function Begun({ reply }) {
  useChanges();
  const phase = phaseOf(reply);
  return html`
    ${(reply.votes || phase === "voting") && html`<${Votes} reply=${reply} />`}
    ${phase === "waiting" && html`<p class="quiet pulse">${t("waiting")} · ${duration(timesOf(reply, Date.now()).total)}</p>`}
    ${reply.thinking && html`<${Thinking} reply=${reply} />`}`;
}

/** @param {import("../generate.js").Wait} wait */
function PutOff(wait) {
  useChanges();
  return html`<p class="remark">${putOffUntil(wait)}</p>`;
}

/** @type {Record<string, string>} */
const PUT_OFF = { too_many_requests: "busy", rate_limit_exceeded: "limited" };

/** @param {import("../generate.js").Wait} wait */
export function putOffUntil({ untilMs, code }) {
  const seconds = Math.max(0, Math.ceil((untilMs - Date.now()) / 1000));
  return t(PUT_OFF[code ?? ""] ?? "unready", { time: duration(seconds) });
}

/** What happened on the way. @param {{reply: import("../reply.js").Reply, last: boolean}} props */
function Remarks({ reply, last }) {
  useChanges();
  const { r1, failure } = reply;
  const remarks = [
    r1?.recovered && t(`recovered_${r1.recovered}`),
    r1?.failovers && t("failovers", { count: r1.failovers }),
    reply.finish === "length" && t("length"),
    reply.stopped && t("stopped"),
  ].filter(Boolean);
  return html`
    ${remarks.map((remark) => html`<p class="remark" key=${remark}>${remark}</p>`)}
    ${failure && html`<div class="failure" role=${isNew(reply) ? "alert" : undefined}>
      <p>${toldOf(failure)}</p>
      ${last && html`<button type="button" disabled=${!canAsk.value} onClick=${regenerate}>${t("retry")}</button>`}
    </div>`}`;
}

/** Not one of an earlier visit, which nobody is to be alarmed with. @param {import("../reply.js").Reply} reply */
function isNew({ endMs }) {
  return (endMs ?? 0) > performance.timeOrigin;
}

/** In the visitor's language where the page knows the failure, else what the server said. @param {import("../reply.js").Failure} failure */
function toldOf({ message, code, status }) {
  const own = [`failed_${code}`, `failed_${status}`].find(known);
  return own ? t(own) : `${t("failed")} ${message}`;
}

/** @param {{turn: import("../conversations.js").AssistantTurn, last: boolean}} props */
function Tools({ turn, last }) {
  useChanges();
  const reply = shownOf(turn);
  const show = (/** @type {number} */ index) => {
    turn.shown = index;
    if (current.value) keep(current.value);
  };
  const count = turn.variants.length;
  return html`<div class="tools">
    ${count > 1 && html`<span class="variants">
      <${IconButton} icon="left" label=${t("previous")} disabled=${turn.shown === 0} onClick=${() => show(turn.shown - 1)} />
      <span>${t("variant", { at: turn.shown + 1, count })}</span>
      <${IconButton} icon="right" label=${t("next")} disabled=${turn.shown === count - 1} onClick=${() => show(turn.shown + 1)} />
    </span>`}
    ${reply.answer && html`<${CopyButton} text=${reply.answer} />`}
    ${last && html`<${IconButton} icon="again" label=${t("regenerate")} disabled=${!canAsk.value} onClick=${regenerate} />`}
    <span class="quiet figures">${figuresOf(reply)}</span>
  </div>`;
}

/** @param {import("../reply.js").Reply} reply */
function figuresOf(reply) {
  const { thinking, answer, exact } = tokensOf(reply);
  const { first, rate } = timesOf(reply, Date.now());
  return [
    reply.preset,
    thinking + answer > 0 && t(exact ? "tokens" : "about", { count: thinking + answer }),
    first !== null && t("firstToken", { time: duration(first) }),
    rate !== null && t("rate", { rate: number(rate, rate < 10 ? 1 : 0) }),
  ].filter(Boolean).join(" · ");
}
