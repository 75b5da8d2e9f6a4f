/** The owner's view of what the bot did not know, alike questions together, each with a form to answer it. */

import { answerForm } from "./answer-form.js";
import { el } from "./dom.js";
import { say } from "./words.js";

const MOST_SHOWN = 6; // questions of a group

export async function showUnanswered(view) {
  const list = el("ol", { class: "rows" }, el("li", { class: "hint", word: "loading" }));
  view.part.append(el("p", { class: "view-text", word: "unansweredText" }), list);
  try {
    const { groups } = await view.api.unanswered(view.bot);
    list.replaceChildren(...groups.map((group) => row(view, group)));
    if (!groups.length) list.append(el("li", { class: "hint", word: "noneUnanswered" }));
  } catch {
    list.replaceChildren(el("li", { class: "problem", word: "loadFailed" }));
  }
}

function row(view, group) {
  const questions = group.questions.slice(0, MOST_SHOWN).map(({ question, count }) =>
    el("li", {}, question, count > 1 ? say(el("span", { class: "hint" }), "times", { n: count }) : null),
  );
  const size = say(el("span", { class: "badge warn" }), group.size > 1 ? "groupSize" : "groupSizeOne", { n: group.size });
  const rest = group.questions.length - MOST_SHOWN;
  const near = group.near.length
    ? el("p", { class: "hint" }, el("span", { word: "nearItems" }), `: ${group.near.slice(0, 2).join(" · ")}`)
    : null;
  const [first, ...others] = group.questions;
  const start = { bot: view.bot, question: first.question, answer: "", isNew: true, others };
  return el(
    "li",
    { class: "row group" },
    el("div", { class: "row-top" }, size),
    el("ul", { class: "group-questions" }, ...questions, rest > 0 ? el("li", { class: "hint" }, `+ ${rest}`) : null),
    near,
    answerForm(view, "writeAnswer", start, view.changed),
  );
}
