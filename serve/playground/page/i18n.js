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
  return text.replace(/\{(\w+)\}/g, (whole, key) => (key in values ? shown(values[key]) : whole));
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
  const ms = Math.round(seconds * 1000);
  if (ms < 1000) return `${number(ms)} ms`;
  if (ms < 59_950) return `${number(ms / 1000, 1)} s`;
  const whole = Math.round(seconds);
  return `${number(Math.floor(whole / 60))} min ${whole % 60} s`;
}

/** @param {number} ms */
export function day(ms) {
  const date = new Date(ms);
  const today = new Date().toDateString() === date.toDateString();
  return new Intl.DateTimeFormat(language.value, today ? { timeStyle: "short" } : { dateStyle: "medium" }).format(date);
}
