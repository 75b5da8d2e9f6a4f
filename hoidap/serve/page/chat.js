/** The conversation on the page: asks, shows answers as they are written, stops, asks again. */

import * as api from "./api.js";
import { passing } from "./memory.js";
import { Turn } from "./turn.js";
import { word } from "./words.js";

const NEAR_END_PX = 80;
const LONGEST_TO_BEGIN_MS = 1500; // that a stopped answer waits to learn the turn's id
const MOST_RETRIES = 4; // by itself; after that the visitor says when
const LONGEST_WAIT_S = 120;

/**
 * @typedef {object} Page
 * @property {HTMLElement} log where turns are shown
 * @property {HTMLElement} scroller what scrolls it
 * @property {HTMLElement} toEnd the button that goes to the end
 * @property {HTMLElement} status what screen readers are told
 * @property {(isBusy: boolean) => void} setBusy
 * @property {() => void} rest puts the focus where the next question is written
 * @property {(name: string) => void} toast
 * @property {() => void} changed a conversation began, or went on
 * @property {(isEmpty: boolean) => void} setEmpty
 */

/** An answer on its way, until it ends or is stopped. */
class Running {
  isStopped = false;
  #controller = new AbortController();
  #hasBegun = false;

  get signal() {
    return this.#controller.signal;
  }

  /** The server has told under which ids the turn is kept. */
  begun() {
    this.#hasBegun = true;
    if (this.isStopped) this.#controller.abort();
  }

  /** Stops it, though not before the turn's ids are known, a moment after it was asked: another may take its place. */
  stop() {
    this.isStopped = true;
    if (this.#hasBegun) this.#controller.abort();
    else setTimeout(() => this.#controller.abort(), LONGEST_TO_BEGIN_MS);
  }
}

export class Chat {
  /** @param {Page} page */
  constructor(page) {
    this.page = page;
    this.conversation = null;
    this.bot = null;
    this.contact = "";
    /** @type {Turn[]} */
    this.turns = [];
    this.#follow();
  }

  /** @type {Running | null} */
  #running = null;
  #opening = 0;

  get isBusy() {
    return this.#running !== null;
  }

  /** Keeps the end in view while the reader is there, and nobody who has scrolled up is moved. */
  #follow() {
    const { scroller, log, toEnd } = this.page;
    let isAtEnd = true;
    let top = 0;
    this.goToEnd = () => {
      isAtEnd = true;
      scroller.scrollTop = scroller.scrollHeight;
    };
    scroller.addEventListener("scroll", () => {
      const isNear = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < NEAR_END_PX;
      // What has grown since is no reason to stay: only the reader scrolls up.
      if (isNear || scroller.scrollTop < top) isAtEnd = isNear;
      top = scroller.scrollTop;
      toEnd.hidden = isAtEnd;
    });
    const grown = new ResizeObserver(() => {
      if (isAtEnd) this.goToEnd();
      else toEnd.hidden = false;
    });
    grown.observe(log);
    grown.observe(scroller);
    toEnd.addEventListener("click", () => this.goToEnd());
  }

  /** Says something once to screen readers. @param {string} text */
  #announce(text) {
    this.page.status.textContent = text;
  }

  /** @type {import("./turn.js").Actions} */
  #actions = {
    again: (turn) => this.#askFromButton(turn.question, turn),
    edit: (turn, question) => this.#askFromButton(question, turn),
    ask: (question) => this.#askFromButton(question, null),
    tell: (name) => this.#announce(word(name)),
    isLast: (turn) => this.turns.at(-1) === turn,
    rate: async (turn, rating, comment) => {
      try {
        await api.rate(turn.id, rating, comment);
        return true;
      } catch {
        this.#announce(word("notRated"));
        this.page.toast("notRated");
        return false;
      }
    },
  };

  /**
   * Asks a question; false if another is being answered.
   *
   * @param {string} question
   * @param {Turn | null} [replaced] the turn in whose place, and all behind it
   */
  ask(question, replaced = null) {
    if (this.isBusy) return false;
    const at = replaced ? this.turns.indexOf(replaced) : this.turns.length;
    for (const dropped of this.turns.splice(at)) {
      dropped.giveUp();
      dropped.node.remove();
    }
    for (const before of this.turns) before.giveUp();
    const turn = this.#add(question);
    this.goToEnd();
    this.#run(turn, replaced?.id ?? null, 0);
    return true;
  }

  /** What was pressed goes away with its turn, or scrolls away; the focus does not. */
  #askFromButton(question, replaced) {
    if (this.ask(question, replaced)) this.page.rest();
  }

  #add(question) {
    const turn = new Turn(question, this.#actions);
    this.turns.push(turn);
    this.page.log.append(turn.node);
    this.page.setEmpty(false);
    return turn;
  }

  async #run(turn, replaces, nRetries) {
    const running = new Running();
    this.#running = running;
    this.page.setBusy(true);
    this.#announce(word("writing"));
    let isStored = true;
    let isEnded = false;
    try {
      const asked = { bot: this.bot, conversation: this.conversation, question: turn.question, replaces };
      for await (const event of api.ask(asked, running.signal)) {
        if (event.type === "turn") {
          isStored = this.#begun(turn, event);
          running.begun();
        }
        if (running.isStopped) break;
        if (event.type === "text") turn.write(event.text);
        else if (event.type === "end") {
          turn.end({ ...event, contact: event.contact ?? this.contact }, isStored && event.stored !== false);
          isEnded = true;
        } else if (event.type === "error") {
          const { message, code, retry_after: retryAfter } = event;
          throw new api.ApiError(message, { status: retryAfter ? 503 : 500, code, retryAfter });
        }
      }
      if (!isEnded) throw new api.ApiError("the stream ended early", { code: "broken" });
    } catch (error) {
      if (running.isStopped && !isEnded) turn.end(CANCELLED, isStored);
      else if (!isEnded) this.#failed(turn, error, turn.id ?? replaces, nRetries);
    }
    if (this.#running !== running) return; // another conversation was opened meanwhile
    this.#running = null;
    this.page.setBusy(false);
    if (this.turns.includes(turn) && turn.node.querySelector(".actions")) this.#announce(turn.spoken);
    this.page.changed();
  }

  #begun(turn, event) {
    turn.id = event.turn;
    if (!this.turns.includes(turn)) return event.stored;
    this.conversation = event.conversation ?? this.conversation;
    passing.set("conversation", this.conversation);
    return event.stored;
  }

  #failed(turn, error, replaces, nRetries) {
    const reason = reasonOf(error);
    const isWaiting = error.status === 429 || error.status === 503;
    const seconds = Math.max(1, error.retryAfter ?? 2 ** (nRetries + 1));
    const isByItself = isWaiting && nRetries < MOST_RETRIES && seconds <= LONGEST_WAIT_S;
    const isGone = error.status === 404; // deleted elsewhere: asked again, it begins another
    if (isGone) this.conversation = null;
    const retry = () => {
      if (this.isBusy || !this.turns.includes(turn)) return;
      const fresh = this.#replace(turn);
      this.#run(fresh, isGone ? null : replaces, isByItself ? nRetries + 1 : 0);
    };
    turn.fail(reason, isByItself ? seconds : null, retry);
    this.#announce(word(reason));
  }

  /** Puts a fresh turn of the same question in a turn's place. */
  #replace(turn) {
    const fresh = new Turn(turn.question, this.#actions);
    turn.giveUp();
    turn.node.replaceWith(fresh.node);
    this.turns[this.turns.indexOf(turn)] = fresh;
    return fresh;
  }

  /** Stops the answer that is being written. */
  stop() {
    this.#running?.stop();
  }

  /** Clears the page for a new conversation. */
  clear() {
    this.#opening += 1;
    this.stop();
    this.#running = null;
    this.page.setBusy(false);
    for (const turn of this.turns) turn.giveUp();
    this.turns = [];
    this.conversation = null;
    passing.set("conversation", null);
    this.page.log.replaceChildren();
    this.page.toEnd.hidden = true;
    this.page.setEmpty(true);
  }

  /** Shows a conversation. @param {string} id */
  async open(id) {
    this.clear();
    const opening = this.#opening;
    let found;
    try {
      found = await api.getConversation(id);
    } catch (error) {
      if (opening === this.#opening) this.page.toast(error.status === 404 ? "gone" : "chatFailed");
      return;
    }
    if (opening !== this.#opening) return; // another was opened meanwhile
    this.conversation = found.id;
    this.bot = found.bot;
    passing.set("conversation", found.id);
    for (const kept of found.turns) {
      const turn = this.#add(kept.question);
      turn.id = kept.id;
      turn.rating = kept.rating ?? 0;
      turn.answer = kept.answer ?? "";
      turn.end({ ...CANCELLED, ...kept, finish_reason: kept.finish_reason ?? "cancelled", contact: this.contact }, true);
    }
    this.goToEnd();
    this.page.changed();
  }
}

const TOO_LONG = new Set(["too_long", "context_length_exceeded"]);
const CANCELLED = {
  finish_reason: "cancelled",
  declined: false,
  corrected: false,
  confidence: 0,
  source: null,
  near: [],
  contact: null,
};

/** Returns the name of the word that says what went wrong. @param {ApiError} error */
function reasonOf(error) {
  if (error.status === 429) return "tooOften";
  if (error.status === 503) return "busy";
  if (error.status === 413 || TOO_LONG.has(error.code)) return "tooLong";
  if (error.code === "conversation_full") return "full";
  if (error.status === 404) return "gone";
  if (error.code === "network") return "noNetwork";
  return error.code === "broken" ? "brokenOff" : "failed";
}
