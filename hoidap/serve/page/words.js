/** What the pages say, Vietnamese first; and numbers and dates as either language writes them. */

import { lasting } from "./memory.js";
import { WORDS } from "./vocabulary.js";

const root = document.documentElement;
const listeners = new Set();

/** @returns {"vi" | "en"} */
export function language() {
  return root.lang === "en" ? "en" : "vi";
}

/** @param {"vi" | "en"} chosen */
export function setLanguage(chosen) {
  lasting.set("language", chosen);
  root.lang = chosen;
  translate(document);
  for (const listener of listeners) listener();
}

/** @param {() => void} listener called when the language has changed */
export function onLanguage(listener) {
  listeners.add(listener);
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} [values] what stands in braces; whole numbers as the language writes them
 */
export function word(name, values = {}) {
  const text = WORDS[name][language() === "vi" ? 0 : 1];
  const put = (value) => (typeof value === "number" ? number(value) : value);
  return text.replace(/\{(\w+)\}/g, (_, key) => put(values[key]));
}

/** Makes a word an element's text, in whatever language is chosen later. */
export function say(node, name, values = {}) {
  node.dataset.word = name;
  node.dataset.values = JSON.stringify(values);
  node.textContent = word(name, values);
  return node;
}

/** The same for the name that a button without text is called by. */
export function sayLabel(node, name) {
  node.dataset.label = name;
  node.setAttribute("aria-label", word(name));
  if (node.tagName === "BUTTON") node.title = word(name);
  return node;
}

/** The same for what stands in an empty field. */
export function sayHint(node, name) {
  node.dataset.hint = name;
  node.placeholder = word(name);
  return node;
}

/** Says a time, and again when the language changes. @param {string | number} value seconds since 1970, or ISO 8601 */
export function time(value) {
  const node = document.createElement("time");
  const date = new Date(typeof value === "number" ? value * 1000 : value);
  node.dateTime = Number.isNaN(date.getTime()) ? "" : date.toISOString();
  node.textContent = spokenTime(node.dateTime);
  return node;
}

function spokenTime(iso) {
  if (!iso) return "";
  const date = new Date(iso);
  const isToday = date.toDateString() === new Date().toDateString();
  const form = isToday ? { timeStyle: "short" } : { dateStyle: "short", timeStyle: "short" };
  return new Intl.DateTimeFormat(language(), form).format(date);
}

/** Seconds as one says them: the shorter, the finer. @param {number} value */
export function seconds(value) {
  return number(value, value < 1 ? 2 : 1);
}

/** A number as the language writes it. @param {number} value @param {number} [digits] after the point */
export function number(value, digits = 0) {
  const form = { minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(language(), form).format(value);
}

/** Says all words of a part of the page in the chosen language. @param {ParentNode} part */
export function translate(part) {
  for (const node of part.querySelectorAll("[data-word]")) {
    node.textContent = word(node.dataset.word, JSON.parse(node.dataset.values ?? "{}"));
  }
  for (const node of part.querySelectorAll("[data-label]")) sayLabel(node, node.dataset.label);
  for (const node of part.querySelectorAll("[data-hint]")) sayHint(node, node.dataset.hint);
  for (const node of part.querySelectorAll("time")) node.textContent = spokenTime(node.dateTime);
}
