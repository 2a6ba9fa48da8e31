import { useEffect, useLayoutEffect } from "../vendor/vendor.js";
import { stop } from "../actions.js";
import { t } from "../i18n.js";
import {
  askServer, current, keepsNothing, keyAsked, optionsOpen, overlay, place, server, sidebarOpen, useChanges,
} from "../state.js";
import { Chat } from "./chat.js";
import { Fleet } from "./fleet.js";
import { html } from "./html.js";
import { IconButton } from "./icons.js";
import { KeyDialog } from "./key.js";
import { Options } from "./options.js";
import { Sidebar } from "./sidebar.js";

export function App() {
  useEffect(() => {
    const onKey = (/** @type {KeyboardEvent} */ event) => {
      const target = /** @type {Element} */ (event.target);
      if (event.key !== "Escape" || event.isComposing || target.closest("dialog, .menu, .editing, [type=search]")) return;
      if (overlay.value === "sidebar") sidebarOpen.value = false;
      else if (overlay.value === "options") optionsOpen.value = false;
      else stop();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  const over = overlay.value;
  useLayoutEffect(() => {
    if (!over) return undefined;
    const before = /** @type {HTMLElement | null} */ (document.activeElement);
    /** @type {HTMLElement | null} */ (document.querySelector(`.${over} button`))?.focus();
    return () => before?.focus();
  }, [over]);
  const fleet = place.value === "#/fleet";
  return html`
    <a class="skip" href="#question" onClick=${toQuestion}>${t("skip")}</a>
    <div class="app">
      <${Sidebar} />
      <div class="main" inert=${over !== null}>
        <${Bar} fleet=${fleet} />
        <${Notice} />
        ${fleet ? html`<${Fleet} />` : html`<${Chat} />`}
      </div>
      ${!fleet && optionsOpen.value && html`<${Options} />`}
    </div>
    ${keyAsked.value && html`<${KeyDialog} />`}`;
}

/** @param {{fleet: boolean}} props */
function Bar({ fleet }) {
  useChanges();
  return html`<header class="bar">
    <${IconButton} icon="menu" label=${t("menu")} class="icon-button narrow"
      aria-expanded=${sidebarOpen.value} onClick=${() => { sidebarOpen.value = !sidebarOpen.value; }} />
    <h1>${fleet ? t("fleet") : current.value?.title || t("newChat")}</h1>
    ${!fleet && html`<${IconButton} icon="sliders" label=${t("options")}
      aria-expanded=${optionsOpen.value} onClick=${() => { optionsOpen.value = !optionsOpen.value; }} />`}
  </header>`;
}

/** @param {Event} event */
function toQuestion(event) {
  event.preventDefault();
  document.getElementById("question")?.focus();
}

/** What is wrong with the server, if anything. */
function Notice() {
  const state = server.value;
  if (state === "ready" || state === "asking") {
    return keepsNothing.value && html`<div class="notice" role="status">${t("noStorage")}</div>`;
  }
  return html`<div class="notice" role="status">
    <span>${t(`server_${state}`)}</span>
    ${state === "locked"
      ? html`<button type="button" onClick=${() => { keyAsked.value = true; }}>${t("enterKey")}</button>`
      : html`<button type="button" onClick=${askServer}>${t("retry")}</button>`}
  </div>`;
}
