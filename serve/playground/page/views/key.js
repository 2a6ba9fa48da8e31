import { useEffect, useState } from "../vendor/vendor.js";
import { t } from "../i18n.js";
import { askServer, key, keyAsked, rememberKey, server } from "../state.js";
import { html, useElement } from "./html.js";

export function KeyDialog() {
  const dialog = useElement();
  const [refused, setRefused] = useState(false);
  useEffect(() => dialog.current.showModal(), []);
  const submit = async (/** @type {any} */ event) => {
    event.preventDefault();
    const data = new FormData(event.target);
    rememberKey.value = data.has("remember");
    key.value = String(data.get("key"));
    setRefused(false);
    await askServer();
    if (server.value === "locked") setRefused(true);
    else dialog.current?.close();
  };
  return html`<dialog ref=${dialog} aria-labelledby="key-title" onClose=${() => { keyAsked.value = false; }}>
    <form onSubmit=${submit}>
      <h2 id="key-title">${t("key")}</h2>
      <p class="quiet">${t("keyMore")}</p>
      <input type="password" name="key" aria-label=${t("key")} autocomplete="off" spellcheck=${false}
        pattern="[!-~]*" title=${t("keyCharacters")} defaultValue=${key.value} />
      ${refused && html`<p class="failure" role="alert">${t("failed_401")}</p>`}
      <label><input type="checkbox" name="remember" defaultChecked=${rememberKey.value} /> ${t("remember")}</label>
      <div class="row">
        <button type="submit" class="main-button">${t("save")}</button>
        <button type="button" onClick=${() => dialog.current.close()}>${t("cancel")}</button>
      </div>
    </form>
  </dialog>`;
}
