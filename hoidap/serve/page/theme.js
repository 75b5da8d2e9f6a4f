/** Light or dark: as the system says, unless chosen. */

import { lasting } from "./memory.js";

const system = matchMedia("(prefers-color-scheme: dark)");

/** @returns {"system" | "light" | "dark"} */
export function theme() {
  const chosen = lasting.get("theme");
  return chosen === "light" || chosen === "dark" ? chosen : "system";
}

/** @param {"system" | "light" | "dark"} chosen */
export function setTheme(chosen) {
  lasting.set("theme", chosen === "system" ? null : chosen);
  show();
}

function show() {
  const chosen = theme();
  document.documentElement.dataset.theme = chosen === "system" ? (system.matches ? "dark" : "light") : chosen;
}

system.addEventListener("change", show);

/** Makes a set of radio buttons choose the theme. @param {ParentNode} radios */
export function bindTheme(radios) {
  for (const radio of radios.querySelectorAll("input[name=theme]")) {
    radio.checked = radio.value === theme();
    radio.addEventListener("change", () => setTheme(radio.value));
  }
}
