/** The owner's view of what was asked: filters, search, page by page, and a form to correct. */

import { answerForm } from "./answer-form.js";
import { addRows, clearRows, el, icon, wordButton } from "./dom.js";
import { say, seconds, time } from "./words.js";

const FILTERS = {
  all: "filterAll",
  declined: "filterDeclined",
  down: "filterDown",
  slow: "filterSlow",
  corrected: "filterCorrected",
};
const A_PAGE = 20;
export const SEARCH_PAUSE_MS = 250;

/** A field that searches when the writer pauses. */
export function searchField(label, search) {
  let pause;
  const field = el("input", { class: "field", type: "search", label, hint: label, autocomplete: "off", maxlength: 200 });
  field.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(search, SEARCH_PAUSE_MS);
  });
  return el("div", { class: "search" }, icon("search"), field);
}

export function showAsked(view) {
  let filter = "all";
  let asked = 0;
  const list = el("ol", { class: "rows" });
  const more = el("div", { class: "more" });

  const load = async (before) => {
    asked += 1;
    const mine = asked;
    if (!before) {
      clearRows(list);
      list.append(el("li", { class: "hint", word: "loading" }));
    }
    more.replaceChildren();
    try {
      const found = await view.api.asked({ bot: view.bot, filter, search: searched(), before, limit: A_PAGE });
      if (mine !== asked) return;
      if (!before) clearRows(list);
      addRows(list, found.turns.map((turn) => row(view, turn)));
      if (!before && !found.turns.length) list.append(el("li", { class: "hint", word: "noneAsked" }));
      if (found.next) more.append(wordButton("more", () => load(found.next)));
    } catch {
      if (mine !== asked) return;
      if (!before) clearRows(list);
      more.replaceChildren(
        el("p", { class: "problem", word: "loadFailed" }),
        wordButton("retry", () => load(before)),
      );
    }
  };
  const search = searchField("searchAsked", () => load(null));
  const searched = () => search.querySelector("input").value.trim();
  const choices = Object.entries(FILTERS).map(([value, name]) => {
    const choose = () => {
      filter = value;
      load(null);
    };
    const radio = el("input", { type: "radio", name: "filter", value, checked: value === filter, onchange: choose });
    return el("label", { class: "choice" }, radio, el("span", { word: name }));
  });
  const filters = el("fieldset", { class: "choices" }, el("legend", { class: "unseen", word: "filter" }), ...choices);
  view.part.append(filters, search, list, more);
  load(null);
}

function row(view, turn) {
  const badges = [
    turn.declined && el("span", { class: "badge warn", word: "badgeDeclined" }),
    turn.rating < 0 && el("span", { class: "badge bad", word: "badgeDown" }),
    turn.rating > 0 && el("span", { class: "badge", word: "badgeUp" }),
    turn.corrected && el("span", { class: "badge", word: "badgeCorrected" }),
  ].filter(Boolean);
  const waited = turn.first_seconds === null ? null : say(el("span"), "seconds", { n: seconds(turn.first_seconds) });
  const answer = turn.declined ? turn.answer.split("\n", 1)[0] : turn.answer;
  const isKnown = Boolean(turn.source) && !turn.declined;
  const now = turn.corrected ? turn.answer : turn.source?.answer;
  const start = isKnown
    ? { bot: turn.bot, question: turn.source.question, answer: now, isNew: false }
    : { bot: turn.bot, question: turn.question, answer: turn.declined ? "" : turn.answer, isNew: true };
  return el(
    "li",
    { class: "row", "data-key": turn.id },
    el("div", { class: "row-top" }, time(turn.created), waited, ...badges),
    el("p", { class: "row-question" }, turn.question),
    el("p", { class: "row-answer" }, answer),
    isKnown && turn.source.question !== turn.question
      ? say(el("p", { class: "hint" }), "fromItem", { question: turn.source.question })
      : null,
    turn.comment ? say(el("p", { class: "row-comment" }), "comment", { comment: turn.comment }) : null,
    answerForm(view, turn.declined ? "writeAnswer" : "correct", start, view.changed),
  );
}
