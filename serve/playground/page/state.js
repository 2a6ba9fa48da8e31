// What the page knows, as signals: what is shown follows from it.

import { computed, effect, signal } from "./vendor/vendor.js";
import { ApiError, getJson } from "./api.js";
import { unfinishedIn } from "./conversations.js";
import { controlsOf } from "./options.js";
import { keepSetting, readSetting } from "./store.js";

/**
 * @typedef {import("./conversations.js").Conversation} Conversation
 * @typedef {import("./options.js").Preset} Preset
 * @typedef {{abort: AbortController, reply: import("./reply.js").Reply, wait: import("./generate.js").Wait | null}} Live
 */

const PAINT_EVERY_MS = 50;

/** @param {string} name @param {any} otherwise */
function setting(name, otherwise) {
  const kept = signal(readSetting(name, otherwise));
  effect(() => keepSetting(name, kept.value));
  return kept;
}

const browserLanguage = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
/** The visitor's choice; null: as the browser says. */
export const chosenLanguage = setting("language", null);
export const language = computed(() => chosenLanguage.value ?? browserLanguage);
/** `auto`, `light` or `dark`. */
export const theme = setting("theme", "auto");
/** The preset's name; null: the server's default. */
export const presetName = setting("preset", null);
/** @type {{value: import("./options.js").Changes}} */
export const changes = setting("changes", {});
export const chosenModel = setting("model", null);

/** For this visit, unless the visitor wants it remembered. */
export const rememberKey = signal(readSetting("key", null) !== null);
export const key = signal(readSetting("key", readSetting("key", "", "sessionStorage")));
effect(() => {
  keepSetting("key", key.value || null, "sessionStorage");
  keepSetting("key", (rememberKey.value && key.value) || null);
});

/** `#/` or `#/fleet`. */
export const place = signal(location.hash);
addEventListener("hashchange", () => { place.value = location.hash; });

/** @param {string} query */
function media(query) {
  const list = matchMedia(query);
  const matches = signal(list.matches);
  list.addEventListener("change", () => { matches.value = list.matches; });
  return matches;
}

// As in style.css: below them history, and options, lie over the conversation.
const overHistory = media("(max-width: 799px)");
const overOptions = media("(max-width: 1099px)");
export const sidebarOpen = signal(false);
export const optionsOpen = signal(!overOptions.value && readSetting("optionsOpen", true));
effect(() => { if (!overOptions.value) keepSetting("optionsOpen", optionsOpen.value); });
overOptions.subscribe((over) => { if (over) optionsOpen.value = false; });
/** What lies over the rest and takes the keyboard: `sidebar`, `options`, or nothing. */
export const overlay = computed(() => {
  if (overHistory.value && sidebarOpen.value) return "sidebar";
  if (overOptions.value && optionsOpen.value && place.value !== "#/fleet") return "options";
  return null;
});
export const keyAsked = signal(false);

/** @type {{value: Conversation[]}} the latest first */
export const conversations = signal([]);
/** @type {{value: Conversation | null}} null: a new one */
export const current = signal(null);
const LAST = "current";
const lastId = readSetting(LAST, null, "sessionStorage");
effect(() => {
  document.title = current.value?.title ? `${current.value.title} · r1-serve` : "r1-serve playground";
  keepSetting(LAST, current.value?.id ?? null, "sessionStorage");
});

/** The conversation that this tab showed before it was loaded again. */
export function comeBack() {
  current.value ??= conversations.value.find(({ id }) => id === lastId) ?? null;
}

/** Goes up with each change inside a conversation or a reply: those are changed in place. */
export const painted = signal(0);
let due = false;
let lastMs = 0;

/** Shows what has changed, a little later where it has just been shown: words come faster than eyes. */
export function paint() {
  if (due) return;
  due = true;
  setTimeout(() => {
    due = false;
    lastMs = performance.now();
    painted.value += 1;
  }, Math.max(0, lastMs + PAINT_EVERY_MS - performance.now()));
}

/** Shows the component that calls it again whenever a conversation or a reply has changed. */
export function useChanges() {
  return painted.value;
}

/** @type {{value: Map<string, Live>}} the replies under way, by conversation */
export const lives = signal(new Map());
export const currentLive = computed(() => (current.value && lives.value.get(current.value.id)) || null);

/** Whether this browser keeps no history, as some do in private windows. */
export const keepsNothing = signal(false);

/** `asking`, `ready`, `unready` (no engine), `unreachable`, `locked` (no key that it takes). */
export const server = signal("asking");
/** @type {{value: Preset[]}} */
export const presets = signal([]);
export const defaultPreset = signal("chat");
/** @type {{value: {id: string, max_model_len: number}[]}} plain, without presets */
export const models = signal([]);

export const preset = computed(() => {
  const all = presets.value;
  return all.find(({ id }) => id === presetName.value) ?? all.find(({ id }) => id === defaultPreset.value);
});
export const model = computed(() =>
  models.value.find(({ id }) => id === chosenModel.value) ?? models.value[0]);
export const controls = computed(() =>
  preset.value ? controlsOf(preset.value, model.value?.max_model_len ?? 4096) : []);

/** Whether a question can be sent, or asked again: not while a reply grows, here or in another tab. */
export const canAsk = computed(() => {
  painted.value;
  const busy = current.value && (lives.value.has(current.value.id) || unfinishedIn(current.value).length > 0);
  return server.value === "ready" && !busy && Boolean(model.value && preset.value);
});

/** Asks the server what it has; what came of it stands in `server`. */
export async function askServer() {
  try {
    const [book, cards] = await Promise.all(["v1/presets", "v1/models"].map((path) => getJson(path, key.value)));
    presets.value = book.data;
    defaultPreset.value = book.default;
    const names = new Set(book.data.map((/** @type {Preset} */ it) => it.id));
    models.value = cards.data.filter((/** @type {{id: string}} */ { id }) => !names.has(id.split(":").at(-1) ?? "") || !id.includes(":"));
    server.value = models.value.length > 0 ? "ready" : "unready";
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    server.value = error.status === 401 ? "locked" : "unreachable";
    if (error.status === 401) keyAsked.value = true;
  }
}
