import { useEffect } from "../vendor/vendor.js";
import { t } from "../i18n.js";
import { askServer, key, keyAsked, rememberKey } from "../state.js";
import { html, useElement } from "./html.js";

export function KeyDialog() {
  const dialog = useElement();
  useEffect(() => dialog.current.showModal(), []);
  const close = () => { keyAsked.value = false; };
  const submit = (/** @type {any} */ event) => {
    const data = new FormData(event.target);
    rememberKey.value = data.has("remember");
    key.value = String(data.get("key")).trim();
    askServer();
  };
  return html`<dialog ref=${dialog} aria-labelledby="key-title" onClose=${close}>
    <form method="dialog" onSubmit=${submit}>
      <h2 id="key-title">${t("key")}</h2>
      <p class="quiet">${t("keyMore")}</p>
      <input type="password" name="key" aria-label=${t("key")} autocomplete="off" spellcheck=${false} defaultValue=${key.value} />
      <label><input type="checkbox" name="remember" defaultChecked=${rememberKey.value} /> ${t("remember")}</label>
      <div class="row">
        <button type="submit" class="main-button">${t("save")}</button>
        <button type="button" onClick=${() => dialog.current.close()}>${t("cancel")}</button>
      </div>
    </form>
  </dialog>`;
}
