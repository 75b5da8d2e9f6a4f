/** A form in which the owner writes an answer; what is saved is served at once. */

import { el, icon, wordButton } from "./dom.js";
import { say, word } from "./words.js";

const MOST_ANSWER = 32_768; // characters, as the server takes
let count = 0;

/**
 * @typedef {{question: string, same: boolean}} Other
 * @typedef {{question: string, answer: string, isNew: boolean, bot: string, others?: Other[]}} Start
 */

/**
 * Makes a button that opens the form below it.
 *
 * @param {object} view the page's
 * @param {string} label name of the word on the button
 * @param {Start} start what stands in the form; a new question may be put into other words, and be answered with others
 * @param {(question: string, answer: string) => void} saved
 */
export function answerForm(view, label, start, saved) {
  const place = el("div", { class: "answer-place" });
  const open = () => {
    place.replaceChildren(form(view, start, saved, close));
    place.querySelector(start.isNew && !start.question ? ".question-field" : ".answer-field").focus();
  };
  const button = el("button", { type: "button", class: "text-button", onclick: open }, icon("edit"));
  button.append(el("span", { word: label }));
  const close = () => {
    place.replaceChildren(button);
    button.focus();
  };
  place.append(button);
  return place;
}

function form(view, start, saved, close) {
  count += 1;
  const [questionId, answerId] = [`question-${count}`, `answer-${count}`];
  const question = el("textarea", { id: questionId, class: "field question-field", rows: 2, maxlength: 4000 });
  question.readOnly = !start.isNew;
  const answer = el("textarea", { id: answerId, class: "field answer-field", rows: 4, maxlength: MOST_ANSWER });
  const problem = el("p", { class: "problem", role: "alert" });
  const submit = el("button", { class: "button primary", word: "saveAnswer" });
  const others = otherQuestions(start.others ?? []);
  question.value = start.question;
  answer.value = start.answer;
  const save = async (event) => {
    event.preventDefault();
    const [asked, said] = [question.value.trim(), answer.value.trim()];
    if (!asked || !said) return void say(problem, "emptyAnswer");
    submit.disabled = true;
    let name;
    try {
      name = (await view.api.answer(start.bot, asked, said, others.chosen())).served ? "saved" : "savedLater";
    } catch (error) {
      submit.disabled = false;
      return void say(problem, "notSaved", { message: error.message });
    }
    node.replaceWith(el("p", { class: "saved", word: name }));
    view.tell(word(name));
    saved(asked, said);
  };
  const node = el(
    "form",
    { class: "answer-form", onsubmit: save },
    el("label", { for: questionId, word: "itemQuestion" }),
    question,
    el("label", { for: answerId, word: "itemAnswer" }),
    answer,
    others.node,
    problem,
    el("div", { class: "form-buttons" }, submit, wordButton("cancel", close)),
  );
  node.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });
  return node;
}

/** Lets the owner tick which other questions an answer is for. @param {Other[]} others */
function otherQuestions(others) {
  const boxes = others.map(({ same }) => el("input", { type: "checkbox", checked: same }));
  const row = ({ question }, n) => el("li", {}, el("label", { class: "other" }, boxes[n], el("span", {}, question)));
  const tickAll = () => boxes.forEach((box) => (box.checked = true));
  const parts = [
    el("legend", { word: "alsoFor" }),
    el("p", { class: "hint", word: "alsoForText" }),
    el("ul", {}, ...others.map(row)),
    el("button", { type: "button", class: "text-button", word: "tickAll", onclick: tickAll, hidden: others.length < 2 }),
  ];
  return {
    node: others.length ? el("fieldset", { class: "others" }, ...parts) : null,
    chosen: () => others.filter((_, n) => boxes[n].checked).map(({ question }) => question),
  };
}
