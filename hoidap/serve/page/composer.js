/** The box where questions are written. */

import { lasting } from "./memory.js";
import { isComposing } from "./turn.js";
import { sayLabel } from "./words.js";

/**
 * @param {HTMLFormElement} form
 * @param {{send: (question: string) => boolean, stop: () => void}} does `send` says whether it was taken
 */
export function bindComposer(form, does) {
  const field = form.querySelector("textarea");
  const [send, stop] = [form.querySelector(".send"), form.querySelector(".stop")];

  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${field.scrollHeight}px`;
    send.disabled = !field.value.trim();
  };
  const put = (text) => {
    field.value = text;
    lasting.set("draft", text || null);
    fit();
  };

  field.addEventListener("input", () => {
    lasting.set("draft", field.value || null);
    fit();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || isComposing(event)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const question = field.value.trim();
    if (question && does.send(question)) put("");
    field.focus();
  });
  stop.addEventListener("click", () => {
    does.stop();
    field.focus();
  });
  sayLabel(field, "question");
  put(lasting.get("draft") ?? "");

  return {
    focus: () => field.focus({ preventScroll: true }),
    clear: () => put(""),
    /** While an answer is written, the button that sends is the one that stops. @param {boolean} isBusy */
    setBusy(isBusy) {
      send.hidden = isBusy;
      stop.hidden = !isBusy;
    },
  };
}
