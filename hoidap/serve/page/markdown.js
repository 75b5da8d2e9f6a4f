/**
 * The little Markdown that answers hold, made into elements: paragraphs, line breaks, lists, bold, code and links.
 * Everything else, HTML too, stays the text that it is.
 */

import { el } from "./dom.js";

const SCHEMES = new Set(["http:", "https:", "mailto:", "tel:"]);
const BULLET = /^ {0,3}[-*•–+] +(.*)$/;
const NUMBERED = /^ {0,3}(\d{1,3})[.)] +(.*)$/;
// Every repeat has a limit, so that no text takes more than its length times a constant.
const INLINE = new RegExp(
  [
    String.raw`\*\*(?<bold>[^*\n]{1,1000})\*\*`,
    "`(?<code>[^`\\n]{1,1000})`",
    String.raw`(?<!!)\[(?<label>[^\[\]\n]{1,300})\]\((?<target>[^\s()]{1,1000})\)`,
    String.raw`(?<url>https?://[^\s<>"'“”]{1,1000})`,
    String.raw`(?<![\w.+-])(?<mail>[\w.+-]{1,64}@[\w-]{1,64}(?:\.[\w-]{1,64}){1,5})`,
    // A Vietnamese number: 0900 000 216, (028) 3820 0000, +84 28 3820 0000, 1900 6035; not what a sum of money begins with.
    String.raw`(?<![\w.,+-])(?<phone>(?:\+84|0)(?:[ .-]?\d){8,10}|\(0\d{2,3}\)(?:[ .-]?\d){7,8}|` +
      String.raw`1[89]00[ .]\d(?:[ .-]?\d){3,5})` +
      String.raw`(?!\d|[ .,]?(?:đ|₫|k\b|vnd)|[.,-]\d)`,
  ].join("|"),
  "giu",
);

const shown = new WeakMap();

/**
 * Shows a text in an element. What was shown before and is the same still stays, so that a text that grows costs little
 * and what the reader has selected stays selected.
 *
 * @param {HTMLElement} node
 * @param {string} text
 */
export function showText(node, text) {
  const sources = blocks(text);
  const before = shown.get(node) ?? [];
  let same = 0;
  while (same < before.length && same < sources.length && before[same] === sources[same]) same += 1;
  while (node.childNodes.length > same) node.lastChild.remove();
  node.append(...sources.slice(same).map(block));
  shown.set(node, sources);
}

/** Cuts a text into paragraphs and lists. */
function blocks(text) {
  const found = [];
  let kind = "";
  for (const line of text.replace(/\r\n?/g, "\n").split("\n")) {
    const next = !line.trim() ? "" : BULLET.test(line) ? "ul" : NUMBERED.test(line) ? "ol" : "p";
    if (next && next === kind) found[found.length - 1] += `\n${line}`;
    else if (next) found.push(line);
    kind = next;
  }
  return found;
}

/** @param {string} source @returns {HTMLElement} */
function block(source) {
  const lines = source.split("\n");
  if (BULLET.test(lines[0])) return el("ul", {}, ...lines.map((line) => el("li", {}, ...inline(BULLET.exec(line)[1]))));
  const first = NUMBERED.exec(lines[0]);
  if (first) {
    const rows = lines.map((line) => el("li", {}, ...inline(NUMBERED.exec(line)[2])));
    return el("ol", { start: first[1] === "1" ? null : first[1] }, ...rows);
  }
  return el("p", {}, ...lines.flatMap((line, n) => (n ? [el("br"), ...inline(line)] : inline(line))));
}

/**
 * Makes a line into text, bold, code and links.
 *
 * @param {string} text
 * @returns {(Node | string)[]}
 */
export function inline(text) {
  const parts = [];
  let at = 0;
  for (const match of text.matchAll(INLINE)) {
    const [part, length] = inlinePart(match.groups, match[0]);
    parts.push(text.slice(at, match.index), part);
    at = match.index + length;
  }
  return [...parts, text.slice(at)].filter((part) => part !== "");
}

function inlinePart(groups, whole) {
  const { bold, code, label, target, url, mail, phone } = groups;
  if (bold !== undefined) return [el("strong", {}, ...inline(bold)), whole.length];
  if (code !== undefined) return [el("code", {}, code), whole.length];
  if (label !== undefined) return [link(target, label) ?? whole, whole.length];
  if (mail !== undefined) return [link(`mailto:${mail}`, mail) ?? mail, mail.length];
  if (phone !== undefined) return [link(`tel:${phone.replace(/[^\d+]/g, "")}`, phone) ?? phone, phone.length];
  const address = url.replace(/[.,;:!?)\]}»…*]+$/u, ""); // what ends a sentence is no part of an address
  return [link(address, address) ?? address, address.length];
}

/** A link, if the address is of a kind that a page may open. */
function link(target, text) {
  let address;
  try {
    address = new URL(target);
  } catch {
    return null;
  }
  if (!SCHEMES.has(address.protocol)) return null;
  const isPage = address.protocol.startsWith("http");
  return el("a", { href: address.href, target: isPage ? "_blank" : null, rel: "noopener noreferrer nofollow" }, text);
}
