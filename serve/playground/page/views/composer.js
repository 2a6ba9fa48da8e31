import { useLayoutEffect, useState } from "../vendor/vendor.js";
import { send, stop } from "../actions.js";
import { t } from "../i18n.js";
import { allowed } from "../options.js";
import { canAsk, changes, controls, current, currentLive, optionsOpen, preset } from "../state.js";
import { html, useElement } from "./html.js";
import { Icon } from "./icons.js";

/** Where none can, to focus opens a keyboard on the screen. */
const canHover = matchMedia("(hover: hover)").matches;
/** What was begun and not sent, by conversation. @type {Map<string | undefined, string>} */
const drafts = new Map();

export function Composer() {
  const id = current.value?.id;
  const [text, setText] = useState(drafts.get(id) ?? "");
  const area = useElement();
  const live = currentLive.value;
  const canSend = canAsk.value && text.trim() !== "";
  const changed = Object.keys(allowed(changes.value, controls.value)).length > 0;
  const write = (/** @type {string} */ to) => {
    setText(to);
    drafts.set(id, to);
  };
  useLayoutEffect(() => {
    area.current.style.height = "auto";
    area.current.style.height = `${area.current.scrollHeight}px`;
  }, [text]);
  useLayoutEffect(() => {
    if (canHover) area.current.focus();
  }, []);

  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (live) stop();
    else if (canSend) {
      write("");
      send(text.trim());
    }
    if (canHover) area.current.focus();
  };
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    // Enter that only ends a word of an input method (Chinese, Japanese) is no Enter; Safari says 229 then.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    if (!live) submit(event);
  };
  return html`<form class="composer" onSubmit=${submit}>
    <label class="unseen" for="question">${t("question")}</label>
    <textarea id="question" ref=${area} rows="1" placeholder=${t("placeholder")} dir="auto" value=${text}
      onInput=${(/** @type {any} */ event) => write(event.target.value)} onKeyDown=${onKeyDown} />
    <div class="row">
      <button type="button" class="chip" aria-expanded=${optionsOpen.value}
        onClick=${() => { optionsOpen.value = !optionsOpen.value; }}>
        <${Icon} name="sliders" /> ${preset.value?.id ?? t("preset")}${changed ? " *" : ""}
      </button>
      ${live
        ? html`<button type="submit" class="main-button round" aria-label=${t("stop")} title=${t("stop")}><${Icon} name="stop" /></button>`
        : html`<button type="submit" class="main-button round" aria-label=${t("send")} title=${t("send")} disabled=${!canSend}><${Icon} name="send" /></button>`}
    </div>
  </form>`;
}
