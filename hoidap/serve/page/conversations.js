/** The list of conversations: open, search, rename, download, delete. */

import * as api from "./api.js";
import { bindMenu, confirmed, download, el, icon, iconButton } from "./dom.js";
import { word } from "./words.js";

const SEARCH_PAUSE_MS = 250;
const DAY_MS = 86_400_000;

/**
 * @typedef {object} Page
 * @property {HTMLElement} list
 * @property {HTMLInputElement} search
 * @property {() => string | null} current the open conversation's id
 * @property {(id: string) => void} open
 * @property {(id: string) => void} removed
 * @property {(name: string) => void} toast
 */

/** @param {Page} page */
export function bindConversations(page) {
  let asked = 0;
  let pause;

  const refresh = async () => {
    asked += 1;
    const mine = asked;
    const search = page.search.value.trim();
    let found;
    try {
      found = (await api.getConversations(search)).conversations;
    } catch {
      if (mine === asked) page.list.replaceChildren(el("p", { class: "hint", word: "chatsFailed" }));
      return;
    }
    if (mine !== asked || page.list.querySelector("form")) return; // asked again meanwhile, or a name is being written
    page.list.replaceChildren(...sections(found, page, refresh));
    if (!found.length) page.list.append(el("p", { class: "hint", word: search ? "noneFound" : "noChats" }));
  };
  page.search.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(refresh, SEARCH_PAUSE_MS);
  });
  return {
    refresh,
    /** Marks the conversation that is open. */
    mark: () => {
      const current = page.current();
      for (const button of page.list.querySelectorAll(".chat-open")) setCurrent(button, button.dataset.id === current);
    },
  };
}

function setCurrent(button, isCurrent) {
  if (isCurrent) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
}

/** Cuts the list into days, newest first. */
function sections(conversations, page, refresh) {
  const groups = new Map();
  for (const conversation of conversations) {
    const name = dayOf(conversation.updated);
    groups.set(name, [...(groups.get(name) ?? []), row(conversation, page, refresh)]);
  }
  return [...groups].map(([name, rows]) => el("section", {}, el("h2", { word: name }), el("ul", {}, ...rows)));
}

function dayOf(updated) {
  const date = new Date(typeof updated === "number" ? updated * 1000 : updated);
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (date >= midnight) return "today";
  if (date >= midnight - DAY_MS) return "yesterday";
  return date >= midnight - 7 * DAY_MS ? "thisWeek" : "older";
}

function row(conversation, page, refresh) {
  const { id, title } = conversation;
  const open = el("button", { type: "button", class: "chat-open", "data-id": id, onclick: () => page.open(id) }, title);
  setCurrent(open, id === page.current());
  const more = iconButton("dots", "chatMenu", () => {}, { class: "icon-button chat-more" });
  const menu = el("div", { class: "menu" });
  const node = el("li", { class: "chat" }, open, more, menu);
  const close = bindMenu(more, menu);
  const item = (name, picture, does, kind = "") => {
    const press = () => {
      close();
      does();
    };
    const named = [icon(picture), el("span", { word: name })];
    return el("button", { type: "button", class: `menu-item ${kind}`, onclick: press }, ...named);
  };
  menu.append(
    item("rename", "edit", () => showRename(node, conversation, page, refresh)),
    item("exportChat", "file", () => save(conversation, page)),
    item("remove", "bin", () => removeOne(conversation, page, refresh), "danger"),
  );
  return node;
}

function showRename(node, { id, title }, page, refresh) {
  const field = el("input", { class: "field", label: "newName", maxlength: 200, autocomplete: "off" });
  field.value = title;
  const leave = () => {
    form.remove();
    return refresh().then(() => page.list.querySelector(`[data-id="${CSS.escape(id)}"]`)?.focus());
  };
  const save = async (event) => {
    event.preventDefault();
    const name = field.value.trim();
    if (name && name !== title) await api.rename(id, name).catch(() => page.toast("actionFailed"));
    await leave();
  };
  const form = el("form", { class: "rename", onsubmit: save }, field, el("button", { class: "button", word: "save" }));
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    leave();
  });
  node.replaceChildren(form);
  field.select();
}

async function save({ id, title }, page) {
  try {
    const { turns } = await api.exportConversation(id);
    const said = turns.map((turn) => `${word("youAsked")}: ${turn.question}\n${word("answered")}: ${turn.answer}\n`);
    download(new Blob([`${title}\n\n${said.join("\n")}`], { type: "text/plain;charset=utf-8" }), `${fileName(title)}.txt`);
  } catch {
    page.toast("actionFailed");
  }
}

/** A title without what file systems do not take. */
function fileName(title) {
  return title.replace(/[\\/:*?"<>|\p{C}]/gu, " ").replace(/\s+/g, " ").trim().slice(0, 80) || "hoidap";
}

async function removeOne({ id, title }, page, refresh) {
  if (!(await confirmed("removeTitle", "removeText", "remove", { title }))) return;
  try {
    await api.remove(id);
  } catch (error) {
    if (error.status !== 404) return void page.toast("actionFailed");
  }
  page.removed(id);
  page.toast("removed");
  await refresh();
}
