/** The owner's page: signs in, shows the figures and one of three views, hands out the data. */

import { getSite } from "./api.js";
import { OwnerApi } from "./owner-api.js";
import { showAsked } from "./asked.js";
import { showItems } from "./items.js";
import { showUnanswered } from "./unanswered.js";
import { bindMenu, download, drawIcons, el } from "./dom.js";
import { passing } from "./memory.js";
import { bindTheme } from "./theme.js";
import { language, number, onLanguage, say, seconds, setLanguage, translate } from "./words.js";

const TOAST_MS = 6000;
const VIEWS = { asked: showAsked, unanswered: showUnanswered, items: showItems };
const find = (id) => document.getElementById(id);
const tabs = Object.keys(VIEWS).map((name) => find(`tab-${name}`));

/** @type {OwnerApi | null} */
let api = null;
let bot = "";
let hideToast;

function toast(name, values = {}) {
  clearTimeout(hideToast);
  say(find("toast"), name, values);
  find("toast").hidden = false;
  hideToast = setTimeout(() => (find("toast").hidden = true), TOAST_MS);
}

function showSignIn(problem = "") {
  api = null;
  passing.set("key", null);
  find("book").hidden = true;
  find("view").replaceChildren();
  find("sign-in").hidden = false;
  if (problem) say(find("sign-in-failure"), problem);
  else find("sign-in-failure").replaceChildren();
  find("key").value = "";
  find("key").focus();
}

/** Passes on what a request gave, and signs out where the key is refused. */
async function guarded(promise) {
  try {
    return await promise;
  } catch (error) {
    if (error.status === 401 || error.status === 403) showSignIn("wrongKey");
    throw error;
  }
}

async function signIn(key) {
  const trial = new OwnerApi(key, guarded);
  try {
    await trial.summary("", Number(find("days").value));
  } catch (error) {
    if (error.status !== 401 && error.status !== 403) showSignIn("loadFailed");
    return;
  }
  api = trial;
  passing.set("key", key);
  await showBots();
  find("sign-in").hidden = true;
  find("book").hidden = false;
  showSummary();
  showView("asked");
}

async function showBots() {
  const { bots } = await getSite().catch(() => ({ bots: [] }));
  find("bot").replaceChildren(...bots.map(({ id, name }) => el("option", { value: id }, name)));
  find("bot").hidden = bots.length < 2;
  bot = bots[0]?.id ?? "";
}

let figures = null;
async function showSummary() {
  figures = await api.summary(bot, Number(find("days").value)).catch(() => null);
  drawSummary();
}

function drawSummary() {
  const { asked, answered, declined, up, down } = figures ?? {};
  const tile = (name, value, kind = "", values = {}) =>
    el("div", { class: `tile ${kind}` }, say(el("dt"), name, values), el("dd", {}, value));
  const share = (count) => ({ percent: asked ? number((100 * count) / asked) : "0" });
  const shown = (value) => (value === null ? "–" : seconds(value));
  const rows = figures && [
    tile("sumAsked", number(asked)),
    tile("sumAnswered", number(answered), "", share(answered)),
    tile("sumDeclined", number(declined), declined ? "warn" : "", share(declined)),
    tile("sumUp", number(up)),
    tile("sumDown", number(down), down ? "bad" : ""),
    tile("sumFirst", say(el("span"), "seconds", { n: shown(figures.median_first_seconds) }), "", {
      slow: shown(figures.p95_first_seconds),
    }),
  ];
  find("summary").replaceChildren(...(rows ?? []));
}

/** @param {keyof typeof VIEWS} name */
function showView(name) {
  for (const tab of tabs) {
    const isChosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
  }
  find("view").setAttribute("aria-labelledby", `tab-${name}`);
  const part = el("div");
  find("view").replaceChildren(part);
  VIEWS[name]({ part, api, bot, toast, tell: (text) => (find("status").textContent = text), changed: showSummary });
}

const chosenView = () => tabs.find((tab) => tab.getAttribute("aria-selected") === "true").id.slice("tab-".length);

async function exportData() {
  const button = find("export");
  button.disabled = true;
  try {
    const { blob, name } = await api.exported(bot);
    download(blob, name);
    toast("exportDone");
  } catch {
    toast("actionFailed");
  }
  button.disabled = false;
}

function bindTabs() {
  for (const [n, tab] of tabs.entries()) {
    tab.addEventListener("click", () => showView(tab.id.slice("tab-".length)));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(n + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  }
}

function bind() {
  const close = bindMenu(find("settings"), find("settings-menu"));
  find("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    signIn(find("key").value.trim());
  });
  find("sign-out").addEventListener("click", () => (close(), showSignIn()));
  find("language").addEventListener("click", () => setLanguage(language() === "vi" ? "en" : "vi"));
  find("days").addEventListener("change", showSummary);
  find("bot").addEventListener("change", () => {
    bot = find("bot").value;
    showSummary();
    showView(chosenView());
  });
  find("export").addEventListener("click", exportData);
  bindTabs();
  bindTheme(find("settings-menu"));
  onLanguage(() => figures && drawSummary());
}

drawIcons(document);
translate(document);
document.documentElement.classList.add("ready");
bind();
const kept = passing.get("key");
if (kept) signIn(kept);
else showSignIn();
