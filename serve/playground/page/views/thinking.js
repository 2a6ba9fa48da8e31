import { useEffect, useState } from "../vendor/vendor.js";
import { duration, t } from "../i18n.js";
import { phaseOf, timesOf, tokensOf } from "../reply.js";
import { useChanges } from "../state.js";
import { html } from "./html.js";
import { useStick } from "./stick.js";
import { Text } from "./text.js";

/**
 * The trace: open while the model thinks, folded when it answers, unless the visitor says otherwise or is
 * reading further up.
 *
 * @param {{reply: import("../reply.js").Reply}} props
 */
export function Thinking({ reply }) {
  useChanges();
  const thinking = phaseOf(reply) === "thinking";
  const [wanted, want] = useState(/** @type {boolean | null} */ (null));
  const [reading, setReading] = useState(false);
  const open = wanted ?? (thinking || reading);
  const toggle = (/** @type {Event} */ event) => {
    event.preventDefault();
    want(!open);
  };
  const { thinking: count, exact } = tokensOf(reply);
  const seconds = timesOf(reply, Date.now()).thinking;
  const time = duration(seconds);
  return html`<details class=${thinking ? "thinking now" : "thinking"} open=${open}>
    <summary onClick=${toggle}>
      <span>${thinking || seconds <= 0 ? t("thinking") : t("thoughtFor", { time })}</span>
      <span class="quiet">${thinking && `${time} · `}${count > 0 && t(exact ? "tokens" : "about", { count })}</span>
    </summary>
    ${open && html`<${Trace} reply=${reply} follows=${thinking} onRead=${setReading} />`}
  </details>`;
}

/** @param {{reply: import("../reply.js").Reply, follows: boolean, onRead: (reading: boolean) => void}} props */
function Trace({ reply, follows, onRead }) {
  useChanges();
  const { element, onScroll, atEnd } = useStick(follows);
  useEffect(() => {
    if (follows) onRead(!atEnd);
  }, [follows, atEnd]);
  return html`<div class="trace" ref=${element} onScroll=${onScroll}
    tabindex="0" role="region" aria-label=${t("thinking")}>
    <${Text} text=${reply.thinking} />
  </div>`;
}
