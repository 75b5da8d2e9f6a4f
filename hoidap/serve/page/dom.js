/** Elements out of parts. What is text goes in as text: nothing here, or anywhere in these pages, reads HTML. */

import { say, sayLabel, sayHint } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";

// Drawn on 24 × 24, with lines 1.75 wide.
const ICONS = {
  send: "M12 19V5m-6 6 6-6 6 6",
  stop: "M7 7h10v10H7z",
  plus: "M12 5v14M5 12h14",
  menu: "M4 7h16M4 12h16M4 17h10",
  close: "m6 6 12 12M18 6 6 18",
  dots: "M5 12h.01M12 12h.01M19 12h.01",
  copy: "M9 9h10v11H9zM5 15V4h10",
  check: "m5 12.5 4.5 4.5L19 7.5",
  again: "M20 12a8 8 0 1 1-2.6-5.9M20 3v4.5h-4.5",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  up: "M7 10.5 11 3c1.5 0 2.5 1 2.5 2.5V9h5c1.2 0 2 1 1.8 2.2l-1.2 7c-.2 1-1 1.8-2 1.8H7m0-9.5H3.5V20H7m0-9.5V20",
  down: "M17 13.5 13 21c-1.5 0-2.5-1-2.5-2.5V15h-5c-1.2 0-2-1-1.8-2.2l1.2-7c.2-1 1-1.8 2-1.8H17m0 9.5h3.5V4H17m0 9.5V4",
  book: "M5 4.5h6c.6 0 1 .4 1 1V20c0-.8-.7-1.5-1.5-1.5H5zm14 0h-6c-.6 0-1 .4-1 1V20c0-.8.7-1.5 1.5-1.5H19z",
  search: "M11 18a7 7 0 1 1 0-14 7 7 0 0 1 0 14zm5-2 4.5 4.5",
  file: "M12 4v11m-4.5-4.5L12 15l4.5-4.5M5 19.5h14",
  bin: "M5 7h14M10 7V4.5h4V7m3 0-.7 12.5H7.7L7 7m3.5 4v5m3-5v5",
  bottom: "M12 5v13m-6-6 6 6 6-6",
  out: "M14 5H6v14h8M11 12h9m-3.5-3.5L20 12l-3.5 3.5",
};

/**
 * Builds an element. Attributes of their own: `word`, `label` and `hint` name words that follow the language (its text, its
 * spoken name, its placeholder); `on…` are listeners; false, null and undefined are left out; true is an empty attribute.
 *
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes]
 * @param {...(Node | string | null | undefined)} children strings become text
 * @returns {HTMLElement}
 */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "word") say(node, value);
    else if (name === "label") sayLabel(node, value);
    else if (name === "hint") sayHint(node, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows an icon and is named by a word. */
export function iconButton(name, label, onclick, attributes = {}) {
  return el("button", { type: "button", class: "icon-button", label, onclick, ...attributes }, icon(name));
}

/** A button that says a word. */
export function wordButton(word, onclick, kind = "") {
  return el("button", { type: "button", class: `button ${kind}`.trim(), word, onclick });
}

/** Empties a list, but for the rows in which somebody is writing. @param {HTMLElement} list */
export function clearRows(list) {
  for (const row of [...list.children]) if (!row.querySelector("form")) row.remove();
}

/** Adds the rows that a list does not have, by their `data-key`. @param {HTMLElement} list @param {HTMLElement[]} rows */
export function addRows(list, rows) {
  const there = new Set([...list.children].map((row) => row.dataset.key));
  list.append(...rows.filter((row) => !there.has(row.dataset.key)));
}

/** Puts the icons where a page names them. @param {ParentNode} root */
export function drawIcons(root) {
  for (const node of root.querySelectorAll("[data-icon]")) node.prepend(icon(node.dataset.icon));
}

/**
 * Makes a button open and close what belongs to it; Escape or a press elsewhere closes it too.
 *
 * @param {HTMLElement} button
 * @param {HTMLElement} panel
 * @returns {() => void} closes it
 */
export function bindMenu(button, panel) {
  const set = (isOpen) => {
    panel.hidden = !isOpen;
    if (isOpen) panel.scrollIntoView({ block: "nearest" });
    button.setAttribute("aria-expanded", String(isOpen));
    const listen = isOpen ? document.addEventListener : document.removeEventListener;
    listen.call(document, "pointerdown", elsewhere);
    listen.call(document, "keydown", escape, true);
    listen.call(document, "focusin", elsewhere);
  };
  const elsewhere = (event) => {
    if (!panel.contains(event.target) && !button.contains(event.target)) set(false);
  };
  const escape = (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    set(false);
    button.focus();
  };
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => set(panel.hidden));
  panel.hidden = true;
  return () => set(false);
}

/**
 * Asks whether to do what cannot be undone.
 *
 * @param {string} title name of a word
 * @param {string} text name of a word
 * @param {string} action name of the word on the button
 * @param {Record<string, string>} [values] that the words take
 * @returns {Promise<boolean>}
 */
export function confirmed(title, text, action, values = {}) {
  const heading = say(el("h2", { id: "confirm-title" }), title, values);
  const dialog = el(
    "dialog",
    { class: "confirm", "aria-labelledby": "confirm-title" },
    heading,
    say(el("p"), text, values),
    el(
      "div",
      { class: "confirm-buttons" },
      wordButton("cancel", () => dialog.close()),
      wordButton(action, () => dialog.close("yes"), "danger"),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
  });
}

/** Copies a text; without the clipboard's API (a page without TLS) through a field that is selected. */
export async function copy(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not allowed here: the older way may be
    }
  }
  const before = document.activeElement;
  const field = el("textarea", { class: "unseen", readonly: true, "aria-hidden": "true" });
  field.value = text;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  before?.focus();
  return isCopied;
}

/** Hands a file to the browser's downloads. @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
