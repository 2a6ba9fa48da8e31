import { useEffect, useLayoutEffect, useState } from "../vendor/vendor.js";
import { duration, t } from "../i18n.js";
import { phaseOf, timesOf, tokensOf } from "../reply.js";
import { useChanges } from "../state.js";
import { html, useElement } from "./html.js";
import { Text } from "./text.js";

/**
 * The trace: open while the model thinks, folded when it answers, unless the visitor says otherwise.
 *
 * @param {{reply: import("../reply.js").Reply}} props
 */
export function Thinking({ reply }) {
  useChanges();
  const thinking = phaseOf(reply) === "thinking";
  const [wanted, want] = useState(/** @type {boolean | null} */ (null));
  const box = useElement();
  useEffect(() => want(null), [reply]);
  const open = wanted ?? thinking;
  useLayoutEffect(() => {
    if (thinking && box.current) box.current.scrollTop = box.current.scrollHeight;
  });
  const { thinking: count, exact } = tokensOf(reply);
  const time = duration(timesOf(reply, Date.now()).thinking);
  const toggle = (/** @type {Event} */ event) => {
    event.preventDefault();
    want(!open);
  };
  return html`<details class=${thinking ? "thinking now" : "thinking"} open=${open}>
    <summary onClick=${toggle}>
      <span>${thinking ? t("thinking") : t("thoughtFor", { time })}</span>
      <span class="quiet">${thinking && `${time} · `}${t(exact ? "tokens" : "about", { count })}</span>
    </summary>
    ${open && html`<div class="trace" ref=${box} tabindex="0"><${Text} text=${reply.thinking} /></div>`}
  </details>`;
}
