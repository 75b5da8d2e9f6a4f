/** The visitor's page: puts its parts together. */

import * as api from "./api.js";
import { Chat } from "./chat.js";
import { bindComposer } from "./composer.js";
import { bindConversations } from "./conversations.js";
import { bindMenu, confirmed, drawIcons, el } from "./dom.js";
import { forgetVisitor, passing } from "./memory.js";
import { bindTheme } from "./theme.js";
import { language, say, setLanguage, translate } from "./words.js";

const TOAST_MS = 6000;
const root = document.documentElement;
const isEmbedded = root.classList.contains("embedded");
const find = (id) => document.getElementById(id);

let hideToast;
/** Says something in passing. @param {string} name of a word */
function toast(name) {
  clearTimeout(hideToast);
  say(find("toast"), name);
  find("toast").hidden = false;
  hideToast = setTimeout(() => (find("toast").hidden = true), TOAST_MS);
}

const chat = new Chat({
  log: find("log"),
  scroller: find("scroller"),
  toEnd: find("to-end"),
  status: find("status"),
  toast,
  setBusy: (isBusy) => composer.setBusy(isBusy),
  rest: () => rest(),
  setEmpty: (isEmpty) => root.classList.toggle("empty", isEmpty),
  changed: () => (isEmbedded ? null : conversations.refresh()),
});

const composer = bindComposer(find("composer"), {
  send: (question) => chat.ask(question),
  stop: () => chat.stop(),
});

const conversations = bindConversations({
  list: find("chats"),
  search: find("chat-search"),
  current: () => chat.conversation,
  open: async (id) => {
    setDrawer(false);
    await chat.open(id);
    find("bot").value = chat.bot;
    conversations.mark();
    rest();
  },
  removed: (id) => {
    if (id === chat.conversation) begin();
  },
  toast,
});

function begin() {
  chat.clear();
  chat.bot = find("bot").value || null;
  conversations.mark();
  setDrawer(false);
  rest();
}

/** Puts the focus into the box, ready to write; not under a finger, where a keyboard would rise over half of the page. */
function rest() {
  if (matchMedia("(hover: hover)").matches) composer.focus();
  else find("scroller").focus({ preventScroll: true });
}

/** Opens or closes the list of conversations where it lies over the page (on phones). @param {boolean} isOpen */
function setDrawer(isOpen) {
  const wasOpen = root.classList.contains("drawer-open");
  root.classList.toggle("drawer-open", isOpen);
  find("main").inert = isOpen;
  find("skip").inert = isOpen; // it leads there
  find("open-drawer").setAttribute("aria-expanded", String(isOpen));
  if (isOpen) find("close-drawer").focus();
  else if (wasOpen) find("open-drawer").focus();
}

function showSite(site) {
  const bots = new Map(site.bots.map((bot) => [bot.id, bot]));
  const choice = find("bot");
  choice.replaceChildren(...site.bots.map(({ id, name }) => el("option", { value: id }, name)));
  choice.hidden = bots.size < 2;
  choice.onchange = () => {
    begin();
    showBot(bots.get(choice.value));
  };
  showBot(site.bots[0]);
  if (bots.size === 1) {
    find("name").textContent = site.bots[0].name;
    delete find("name").dataset.word;
    document.title = site.bots[0].name;
  }
  find("name").hidden = bots.size > 1;
}

/** Shows what belongs to one assistant before it was asked anything. */
function showBot(bot) {
  chat.bot = bot?.id ?? null;
  chat.contact = bot?.contact ?? "";
  const starters = bot?.starters ?? [];
  const ask = (question) => () => {
    chat.ask(question);
    rest();
  };
  const buttons = starters.map((question) =>
    el("li", {}, el("button", { type: "button", class: "starter", onclick: ask(question) }, question)),
  );
  find("starters").replaceChildren(...buttons);
  find("starter-title").hidden = !starters.length;
}

async function load() {
  find("site-failure").hidden = true;
  try {
    showSite(await api.getSite());
  } catch {
    find("site-failure").hidden = false;
    return;
  }
  const last = passing.get("conversation");
  if (last) await chat.open(last);
  if (chat.bot) find("bot").value = chat.bot;
  if (!isEmbedded && !last) conversations.refresh();
}

async function removeAll() {
  if (!(await confirmed("removeAllTitle", "removeAllText", "removeAllAction"))) return;
  chat.stop();
  try {
    await api.forgetMe();
  } catch {
    toast("actionFailed");
    return;
  }
  forgetVisitor();
  composer.clear();
  begin();
  conversations.refresh();
  toast("removedAll");
}

/** Asks the page that the widget stands on to close it. */
const closeWidget = () => window.parent.postMessage({ hoidap: "close" }, "*");

function onEscape() {
  if (chat.isBusy) chat.stop();
  else if (root.classList.contains("drawer-open")) setDrawer(false);
  else if (isEmbedded) closeWidget();
}

function bind() {
  const closeSettings = bindMenu(find("settings"), find("settings-menu"));
  find("new-chat").addEventListener("click", begin);
  find("new-chat-top").addEventListener("click", begin);
  find("language").addEventListener("click", () => setLanguage(language() === "vi" ? "en" : "vi"));
  find("remove-all").addEventListener("click", () => (closeSettings(), removeAll()));
  find("open-drawer").addEventListener("click", () => setDrawer(true));
  find("close-drawer").addEventListener("click", () => setDrawer(false));
  find("backdrop").addEventListener("click", () => setDrawer(false));
  find("close-widget").addEventListener("click", closeWidget);
  find("site-retry").addEventListener("click", load);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) onEscape();
  });
  window.addEventListener("message", (event) => {
    if (event.source === window.parent && event.data?.hoidap === "open") rest();
  });
  const showOffline = () => (find("offline").hidden = navigator.onLine);
  window.addEventListener("online", showOffline);
  window.addEventListener("offline", showOffline);
  showOffline();
  bindTheme(find("settings-menu"));
}

drawIcons(document);
translate(document);
root.classList.add("ready", "empty");
bind();
load();
if (!isEmbedded && matchMedia("(hover: hover)").matches) composer.focus();
