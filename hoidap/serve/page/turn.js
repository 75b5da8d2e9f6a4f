/** One question and its answer, as they stand on the page. */

import { copy, el, icon, iconButton, wordButton } from "./dom.js";
import { inline, showText } from "./markdown.js";
import { say, word } from "./words.js";

const ENDINGS = { length: "cut", cancelled: "stopped", deadline: "late", error: "failed" };
const COPIED_MS = 1500;

/**
 * @typedef {object} Ending what is known of a finished answer
 * @property {string} finish_reason
 * @property {boolean} declined
 * @property {boolean} corrected
 * @property {number} confidence
 * @property {{question: string, answer: string} | null} source
 * @property {string[]} near
 * @property {string | null} contact
 *
 * @typedef {object} Actions what the page does when something is pressed here
 * @property {(turn: Turn) => void} again
 * @property {(turn: Turn, question: string) => void} edit
 * @property {(question: string) => void} ask
 * @property {(turn: Turn, rating: number, comment: string) => Promise<boolean>} rate
 * @property {(text: string) => void} tell
 * @property {(turn: Turn) => boolean} isLast
 */

export class Turn {
  /** @param {string} question @param {Actions} actions */
  constructor(question, actions) {
    this.id = null;
    this.question = question;
    this.answer = "";
    this.rating = 0;
    this.actions = actions;
    this.asked = el("div", { class: "asked" });
    this.text = el("div", { class: "answer-text" });
    this.below = el("div", { class: "below" });
    this.reply = el(
      "div",
      { class: "answer" },
      el("h2", { class: "unseen", word: "answered" }),
      this.text,
      this.below,
    );
    this.node = el("article", { class: "turn" }, this.asked, this.reply);
    this.#showQuestion();
    this.#showWaiting();
  }

  #showQuestion() {
    const edit = iconButton("edit", "edit", () => this.#showEditor(), { class: "icon-button edit" });
    this.asked.replaceChildren(
      el("h2", { class: "unseen", word: "youAsked" }),
      el("p", { class: "question" }, this.question),
      edit,
    );
  }

  #showWaiting() {
    this.node.setAttribute("aria-busy", "true");
    this.text.replaceChildren(el("span", { class: "waiting", "aria-hidden": "true" }, el("i"), el("i"), el("i")));
  }

  #showEditor() {
    const field = el("textarea", { class: "field", label: "editField", rows: 3, maxlength: 4000 });
    field.value = this.question;
    const leave = () => {
      this.#showQuestion();
      this.asked.querySelector(".edit").focus();
    };
    const resend = (event) => {
      event.preventDefault();
      const question = field.value.trim();
      if (question) this.actions.edit(this, question);
    };
    const form = el(
      "form",
      { class: "editor", onsubmit: resend },
      field,
      this.actions.isLast(this) ? null : el("p", { class: "hint", word: "editDrops" }),
      wordButton("cancel", leave),
      el("button", { type: "submit", class: "button primary", word: "resend" }),
    );
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        leave();
      } else if (event.key === "Enter" && !event.shiftKey && event.target === field && !isComposing(event)) {
        event.preventDefault();
        form.requestSubmit();
      }
    });
    this.asked.replaceChildren(form);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  /** Adds what has been written. @param {string} text */
  write(text) {
    if (!this.answer) this.text.replaceChildren();
    this.answer += text;
    this.#paint ??= requestAnimationFrame(() => {
      this.#paint = null;
      showText(this.text, this.answer);
    });
  }

  /** @type {number | null} */
  #paint = null;

  /** Shows the answer as finished. @param {Ending} ending @param {boolean} isStored */
  end(ending, isStored) {
    this.#finish();
    const isDeclined = ending.declined;
    const shown = isDeclined ? withoutOffers(this.answer, ending.near, ending.contact) : this.answer;
    showText(this.text, shown);
    this.node.classList.toggle("declined", isDeclined);
    const note = ENDINGS[ending.finish_reason];
    this.below.replaceChildren(
      ...[
        note && el("p", { class: "note", word: note }),
        isDeclined && ending.near.length ? this.#offers(ending.near) : null,
        isDeclined && ending.contact ? contactCard(ending.contact) : null,
        isStored ? null : el("p", { class: "note", word: "notStored" }),
        this.#actionRow(ending, isStored),
      ].filter(Boolean),
    );
  }

  /** What a screen reader is told when the answer is complete. */
  get spoken() {
    const parts = [...this.text.querySelectorAll("p, li"), ...this.below.querySelectorAll(".note, .near, .contact")];
    return `${word("answered")}: ${parts.map((part) => part.innerText).join("\n")}`;
  }

  #finish() {
    if (this.#paint !== null) cancelAnimationFrame(this.#paint);
    this.#paint = null;
    this.node.removeAttribute("aria-busy");
  }

  #offers(near) {
    const buttons = near.map((question) => {
      const press = () => this.actions.ask(question);
      return el("li", {}, el("button", { type: "button", class: "offer", onclick: press }, question));
    });
    return el("div", { class: "near" }, el("p", { class: "near-title", word: "near" }), el("ul", {}, ...buttons));
  }

  #actionRow(ending, isStored) {
    const panel = el("div", { class: "panel" });
    const row = el("div", { class: "actions" });
    if (this.answer) row.append(this.#copyButton());
    row.append(iconButton("again", "again", () => this.actions.again(this), { class: "icon-button again" }));
    if (this.answer && isStored && this.id) row.append(...this.#thumbs(panel));
    if (ending.source) row.append(this.#sourceButton(ending, panel));
    if (ending.corrected) row.append(el("span", { class: "badge", word: "corrected" }));
    return el("div", {}, row, panel);
  }

  #copyButton() {
    const button = iconButton("copy", "copy", async () => {
      const isCopied = await copy(this.answer);
      this.actions.tell(isCopied ? "copied" : "notCopied");
      if (!isCopied) return;
      button.replaceChildren(icon("check"));
      setTimeout(() => button.replaceChildren(icon("copy")), COPIED_MS);
    });
    return button;
  }

  #sourceButton(ending, panel) {
    const { source, confidence } = ending;
    const label = el("span", { word: "source" });
    const button = el("button", { type: "button", class: "text-button", "aria-expanded": "false" }, icon("book"), label);
    const card = () =>
      el(
        "section",
        { class: "source", label: "source" },
        el("p", { class: "source-title", word: "sourceTitle" }),
        el("p", { class: "source-question" }, source.question),
        el("p", { class: "source-answer" }, source.answer),
        say(el("p", { class: "hint" }), "sure", { percent: Math.min(99, Math.floor(100 * confidence)) }),
      );
    button.addEventListener("click", () => {
      const isOpen = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!isOpen));
      if (isOpen) panel.querySelector(".source")?.remove();
      else panel.append(card());
    });
    return button;
  }

  #thumbs(panel) {
    const buttons = [1, -1].map((rating) => {
      const [name, label] = rating > 0 ? ["up", "good"] : ["down", "bad"];
      return iconButton(name, label, () => press(rating));
    });
    const show = () => {
      for (const [n, rating] of [1, -1].entries()) buttons[n].setAttribute("aria-pressed", String(this.rating === rating));
    };
    const press = async (rating) => {
      const chosen = this.rating === rating ? 0 : rating;
      if (!(await this.actions.rate(this, chosen, ""))) return;
      this.rating = chosen;
      show();
      panel.querySelector(".comment")?.remove();
      if (chosen) panel.prepend(this.#commentForm());
    };
    show();
    return buttons;
  }

  #commentForm() {
    const hint = this.rating > 0 ? "commentGood" : "commentBad";
    const field = el("input", { class: "field", label: hint, hint, maxlength: 1000, autocomplete: "off" });
    const form = el("form", { class: "comment" }, field, el("button", { class: "button", word: "sendComment" }));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const comment = field.value.trim();
      if (!comment || !(await this.actions.rate(this, this.rating, comment))) return;
      form.replaceChildren(el("p", { class: "hint", word: "thanks" }));
      this.actions.tell("thanks");
    });
    return form;
  }

  /**
   * Shows that the answer did not come; counts down where the server said when to ask again.
   *
   * @param {string} reason name of a word
   * @param {number | null} seconds until it is asked again by itself; null: when the visitor says so
   * @param {() => void} retry
   */
  fail(reason, seconds, retry) {
    this.#finish();
    if (!this.answer) this.text.replaceChildren();
    const waiting = el("span", { class: "countdown" });
    const text = el("p", {}, el("span", { word: reason }), " ", waiting);
    const card = el("div", { class: seconds ? "failure is-waiting" : "failure" }, text);
    const again = (event) => {
      this.giveUp();
      retry(event);
    };
    card.append(wordButton(seconds ? "retryNow" : "retry", again));
    this.below.replaceChildren(card);
    if (!seconds) return;
    card.append(wordButton("cancel", () => this.fail(reason, null, retry)));
    let left = Math.ceil(seconds);
    say(waiting, "retryIn", { seconds: left });
    this.giveUp();
    this.#countdown = setInterval(() => {
      left -= 1;
      say(waiting, "retryIn", { seconds: left });
      if (left <= 0) again();
    }, 1000);
  }

  /** Asks no more by itself. */
  giveUp() {
    clearInterval(this.#countdown);
  }

  /** @type {number | undefined} */
  #countdown;
}

/** Telex and VNI write through a composition: the key that ends one is not a command. @param {KeyboardEvent} event */
export function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}

/** Leaves out of a declining answer what the page shows as buttons and as a card. */
function withoutOffers(answer, near, contact) {
  const offered = new Set(near.map((question) => `– ${question}`));
  const lines = answer.split("\n");
  const isShown = (line, n) =>
    !offered.has(line) && !(line.endsWith(":") && offered.has(lines[n + 1])) && !(contact && line.endsWith(contact));
  return lines.filter(isShown).join("\n");
}

function contactCard(contact) {
  const title = el("p", { class: "near-title", word: "contact" });
  return el("div", { class: "contact" }, title, el("p", {}, ...inline(contact)));
}
