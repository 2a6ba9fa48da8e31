import { useMemo, useState } from "../vendor/vendor.js";
import { exportAll, exportOne, importFile, remove, rename, search } from "../history.js";
import { LANGUAGE_NAMES, day, t } from "../i18n.js";
import {
  chosenLanguage, conversations, current, keyAsked, language, lives, overlay, place, sidebarOpen, theme,
} from "../state.js";
import { html, useElement } from "./html.js";
import { Icon, IconButton } from "./icons.js";

export function Sidebar() {
  const [words, setWords] = useState("");
  const all = conversations.value;
  const found = useMemo(() => (words.trim() ? search(words) : all.map((conversation) => ({ conversation, found: "" }))), [words, all]);
  return html`
    <aside class=${sidebarOpen.value ? "sidebar open" : "sidebar"} aria-label=${t("history")} inert=${overlay.value === "options"}>
      <div class="row">
        <strong class="brand"><img src="icon.svg" alt="" width="24" height="24" /> r1-serve</strong>
        <${IconButton} icon="close" label=${t("close")} class="icon-button narrow" onClick=${() => { sidebarOpen.value = false; }} />
      </div>
      <button type="button" class="wide" onClick=${() => go(null)}><${Icon} name="plus" /> ${t("newChat")}</button>
      <input type="search" placeholder=${t("search")} aria-label=${t("search")} value=${words}
        onInput=${(/** @type {any} */ event) => setWords(event.target.value)} />
      <nav class="history" aria-label=${t("history")}>
        ${found.length === 0 && html`<p class="quiet">${t(words ? "nothingFound" : "noHistory")}</p>`}
        <ul>${found.map((it) => html`<${Entry} key=${it.conversation.id} ...${it} title=${it.conversation.title} live=${lives.value.has(it.conversation.id)} />`)}</ul>
      </nav>
      <${Foot} />
    </aside>
    ${sidebarOpen.value && html`<div class="veil" onClick=${() => { sidebarOpen.value = false; }} />`}`;
}

/** @param {import("../conversations.js").Conversation | null} conversation */
function go(conversation) {
  current.value = conversation;
  sidebarOpen.value = false;
  location.hash = "#/";
}

/** @param {{conversation: import("../conversations.js").Conversation, found: string, title: string, live: boolean}} props */
function Entry({ conversation, found, title, live }) {
  const here = current.value === conversation && place.value !== "#/fleet";
  const menu = useElement();
  const act = (/** @type {() => void} */ action) => () => {
    menu.current.open = false;
    action();
  };
  const onRename = act(() => {
    const name = prompt(t("newName"), title);
    if (name !== null) rename(conversation, name);
  });
  const onDelete = act(() => {
    if (confirm(t("deleteSure", { title }))) remove(conversation);
  });
  return html`<li class=${here ? "entry here" : "entry"}>
    <button type="button" class="open" aria-current=${here ? "page" : undefined} onClick=${() => go(conversation)}>
      <span class="title">${live && html`<span class="dot pulse" role="img" aria-label=${t("answering")} />`}${title}</span>
      <span class="quiet">${found || day(conversation.updated)}</span>
    </button>
    <details class="menu" ref=${menu} onToggle=${() => menu.current?.open && menu.current.lastElementChild.scrollIntoView({ block: "nearest" })} onFocusOut=${(/** @type {FocusEvent} */ event) => {
      if (menu.current && !menu.current.contains(event.relatedTarget)) menu.current.open = false;
    }} onKeyDown=${(/** @type {KeyboardEvent} */ event) => { if (event.key === "Escape") menu.current.open = false; }}>
      <summary class="icon-button" aria-label=${t("actions", { title })} title=${t("actions", { title })}>⋯</summary>
      <div class="items">
        <button type="button" onClick=${onRename}><${Icon} name="edit" /> ${t("rename")}</button>
        <button type="button" onClick=${act(() => exportOne(conversation))}><${Icon} name="save" /> ${t("export")}</button>
        <button type="button" onClick=${onDelete}><${Icon} name="trash" /> ${t("delete")}</button>
      </div>
    </details>
  </li>`;
}

function Foot() {
  const file = useElement();
  const [told, tell] = useState("");
  const onFile = async () => {
    const [chosen] = file.current.files;
    if (chosen) tell(await importFile(chosen));
    file.current.value = "";
  };
  const fleet = place.value === "#/fleet";
  return html`<div class="foot">
    ${told && html`<p class="quiet" role="status">${told}</p>`}
    <div class="row">
      <button type="button" onClick=${exportAll} disabled=${conversations.value.length === 0}><${Icon} name="save" /> ${t("exportAll")}</button>
      <button type="button" onClick=${() => file.current.click()}><${Icon} name="open" /> ${t("import")}</button>
      <input type="file" class="unseen" accept=".json,application/json" tabindex="-1" aria-label=${t("import")} ref=${file} onChange=${onFile} />
    </div>
    <div class="row">
      <a href=${fleet ? "#/" : "#/fleet"} onClick=${() => { sidebarOpen.value = false; }}><${Icon} name=${fleet ? "chat" : "chart"} /> ${t(fleet ? "chat" : "fleet")}</a>
      <a href="../docs" target="_blank">${t("apiDocs")}</a>
    </div>
    <div class="row">
      <select aria-label=${t("language")} title=${t("language")} value=${language.value}
        onChange=${(/** @type {any} */ event) => { chosenLanguage.value = event.target.value; }}>
        ${Object.entries(LANGUAGE_NAMES).map(([code, name]) => html`<option key=${code} value=${code}>${name}</option>`)}
      </select>
      <select aria-label=${t("theme")} title=${t("theme")} value=${theme.value}
        onChange=${(/** @type {any} */ event) => { theme.value = event.target.value; }}>
        <option value="auto">${t("themeAuto")}</option>
        <option value="light">${t("themeLight")}</option>
        <option value="dark">${t("themeDark")}</option>
      </select>
      <${IconButton} icon="key" label=${t("key")} onClick=${() => { keyAsked.value = true; }} />
    </div>
  </div>`;
}
