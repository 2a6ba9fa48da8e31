import { useLayoutEffect, useState } from "../vendor/vendor.js";
import { send, stop } from "../actions.js";
import { t } from "../i18n.js";
import { changes, currentLive, optionsOpen, preset, server } from "../state.js";
import { html, useElement } from "./html.js";
import { Icon } from "./icons.js";

export function Composer() {
  const [text, setText] = useState("");
  const area = useElement();
  const live = currentLive.value;
  const canSend = !live && text.trim() !== "" && server.value === "ready";
  useLayoutEffect(() => {
    area.current.style.height = "auto";
    area.current.style.height = `${area.current.scrollHeight}px`;
  }, [text]);
  useLayoutEffect(() => {
    if (matchMedia("(hover: hover)").matches) area.current.focus();
  }, []);

  const submit = (/** @type {Event} */ event) => {
    event.preventDefault();
    if (live) stop();
    else if (canSend) {
      setText("");
      send(text.trim());
    }
  };
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    // Enter that only ends a word of an input method (Chinese, Japanese) is no Enter.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!live) submit(event);
  };
  return html`<form class="composer" onSubmit=${submit}>
    <label class="unseen" for="question">${t("question")}</label>
    <textarea id="question" ref=${area} rows="1" placeholder=${t("placeholder")} value=${text}
      onInput=${(/** @type {any} */ event) => setText(event.target.value)} onKeyDown=${onKeyDown} />
    <div class="row">
      <button type="button" class="chip" aria-expanded=${optionsOpen.value}
        onClick=${() => { optionsOpen.value = !optionsOpen.value; }}>
        <${Icon} name="sliders" /> ${preset.value?.id ?? t("preset")}${Object.keys(changes.value).length > 0 ? " *" : ""}
      </button>
      ${live
        ? html`<button type="submit" class="main-button round" aria-label=${t("stop")} title=${t("stop")}><${Icon} name="stop" /></button>`
        : html`<button type="submit" class="main-button round" aria-label=${t("send")} title=${t("send")} disabled=${!canSend}><${Icon} name="send" /></button>`}
    </div>
  </form>`;
}
