// The page's words, in the visitor's language.

import { computed, effect } from "./vendor/vendor.js";
import { language } from "./state.js";
import en from "./words/en.js";
import zh from "./words/zh.js";

/** @type {Record<string, Record<string, string>>} */
const LANGUAGES = { en, zh };
export const LANGUAGE_NAMES = { en: "English", zh: "中文" };

const words = computed(() => LANGUAGES[language.value] ?? en);
const numbers = computed(() => new Intl.NumberFormat(language.value));
effect(() => { document.documentElement.lang = language.value === "zh" ? "zh-CN" : "en"; });

/**
 * @param {string} name
 * @param {Record<string, string | number>} [values] that stand in braces in the text
 */
export function t(name, values = {}) {
  const text = words.value[name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, key) => shown(values[key]));
}

/** @param {string} name */
export function known(name) {
  return name in words.value;
}

/** @param {string | number} value */
function shown(value) {
  return typeof value === "number" ? number(value) : value;
}

/**
 * @param {number | null} value
 * @param {number} [digits] after the point
 */
export function number(value, digits) {
  if (value === null || Number.isNaN(value)) return "–";
  if (digits === undefined) return numbers.value.format(value);
  return value.toLocaleString(language.value, { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** @param {number | null} seconds */
export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 1) return `${number(seconds * 1000, 0)} ms`;
  if (seconds < 60) return `${number(seconds, 1)} s`;
  return `${number(Math.floor(seconds / 60), 0)} min ${number(Math.round(seconds % 60), 0)} s`;
}

/** @param {number} ms */
export function day(ms) {
  const date = new Date(ms);
  const today = new Date().toDateString() === date.toDateString();
  return new Intl.DateTimeFormat(language.value, today ? { timeStyle: "short" } : { dateStyle: "medium" }).format(date);
}
