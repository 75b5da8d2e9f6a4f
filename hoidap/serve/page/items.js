/** The owner's view of the items that the bot knows, each with a form to correct its answer. */

import { answerForm } from "./answer-form.js";
import { searchField } from "./asked.js";
import { addRows, clearRows, el, wordButton } from "./dom.js";
import { say } from "./words.js";

const A_PAGE = 50;

export function showItems(view) {
  let asked = 0;
  const list = el("ol", { class: "rows" });
  const more = el("div", { class: "more" });
  const show = (found, from) => {
    const { items, total } = found;
    const shown = Math.min(items.length, from + A_PAGE);
    addRows(list, items.slice(from, shown).map((item) => row(view, item)));
    const isCut = shown === items.length; // by the server: it does not give out more at a time
    more.replaceChildren();
    if (shown < total) more.append(say(el("p", { class: "hint" }), isCut ? "itemsCut" : "itemsShown", { shown, total }));
    if (!isCut) more.append(wordButton("more", () => show(found, shown)));
  };
  const load = async () => {
    asked += 1;
    const mine = asked;
    try {
      const found = await view.api.items(view.bot, search.querySelector("input").value.trim());
      if (mine !== asked) return;
      clearRows(list);
      show(found, 0);
      if (!found.items.length) list.append(el("li", { class: "hint", word: "noItems" }));
    } catch {
      if (mine !== asked) return;
      clearRows(list);
      more.replaceChildren(el("p", { class: "problem", word: "loadFailed" }), wordButton("retry", load));
    }
  };
  const search = searchField("searchItems", load);
  view.part.append(el("p", { class: "view-text", word: "itemsText" }), search, list, more);
  load();
}

function row(view, item) {
  const answer = el("p", { class: "row-answer" }, item.answer);
  const badges = [
    item.corrected && el("span", { class: "badge", word: "badgeCorrected" }),
    item.added && el("span", { class: "badge", word: "badgeAdded" }),
  ].filter(Boolean);
  const start = { bot: view.bot, question: item.question, answer: item.answer, isNew: false };
  const saved = (_, said) => {
    answer.textContent = said;
  };
  return el(
    "li",
    { class: "row", "data-key": `${item.question}\n${item.answer}` },
    el("p", { class: "row-question" }, item.question),
    answer,
    badges.length ? el("div", { class: "row-top" }, ...badges) : null,
    answerForm(view, "correct", start, saved),
  );
}
