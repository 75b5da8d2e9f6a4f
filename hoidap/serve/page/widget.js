/*
 * The chat on another site: <script src="https://bot.shop.example/widget.js" async></script>
 * A button at the bottom right opens the page in a frame. It touches nothing of the site that it stands on, and its own
 * style lies in a shadow root, which works under a strict content security policy too.
 */
(() => {
  const script = document.currentScript;
  if (!script || document.querySelector("hoidap-chat")) return;
  const home = new URL(".", script.src);
  const isEnglish = document.documentElement.lang.toLowerCase().startsWith("en");
  const words = isEnglish
    ? { open: "Ask a question", close: "Close the chat", title: "Questions and answers" }
    : { open: "Hỏi đáp", close: "Đóng khung hỏi đáp", title: "Khung hỏi đáp" };
  const phone = matchMedia("(max-width: 40rem), (max-height: 30rem)");

  const STYLE = `
    :host { all: initial; }
    .button {
      position: fixed; z-index: 2147483000;
      right: calc(1rem + env(safe-area-inset-right)); bottom: calc(1rem + env(safe-area-inset-bottom));
      display: flex; align-items: center; gap: 8px; min-width: 56px; height: 56px; padding: 0 20px 0 16px;
      border: 0; border-radius: 28px; background: #0b6b5b; color: #fff;
      font: 600 16px/1 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
      box-shadow: 0 2px 6px rgb(0 0 0 / 20%), 0 8px 24px rgb(0 0 0 / 18%); cursor: pointer;
    }
    .button:hover { background: #085246; }
    .button:focus-visible { outline: 3px solid #fff; box-shadow: 0 0 0 6px #0b6b5b; }
    .button[aria-expanded="true"] { width: 56px; padding: 0; justify-content: center; }
    .button[aria-expanded="true"] span { position: absolute; width: 1px; height: 1px; overflow: hidden; }
    svg { width: 26px; height: 26px; flex: none; fill: none; stroke: currentColor; stroke-width: 2; }
    path { stroke-linecap: round; stroke-linejoin: round; }
    .panel {
      position: fixed; z-index: 2147483001;
      right: calc(1rem + env(safe-area-inset-right)); bottom: calc(5.25rem + env(safe-area-inset-bottom));
      width: 400px; height: min(660px, calc(100dvh - 6.5rem)); border-radius: 18px; overflow: hidden; background: #f5f7f4;
      box-shadow: 0 2px 8px rgb(0 0 0 / 18%), 0 16px 48px rgb(0 0 0 / 26%);
    }
    .panel[hidden] { display: none; }
    iframe { display: block; width: 100%; height: 100%; border: 0; color-scheme: normal; }
    @media (max-width: 40rem), (max-height: 30rem) {
      .panel { inset: 0; width: 100%; height: 100dvh; border-radius: 0; }
      .button[aria-expanded="true"] { visibility: hidden; }
    }
    @media print { .button, .panel { display: none; } }
  `;

  const make = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const drawing = () => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    svg.append(path);
    return [svg, path];
  };
  const CHAT = "M4 5.5h16v11h-9L6.5 20v-3.5H4zM8.5 9.5h7M8.5 12.7h4.5";
  const CROSS = "m6.5 6.5 11 11m0-11-11 11";

  const host = make("hoidap-chat", {});
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);
  root.adoptedStyleSheets = [sheet];

  const [svg, path] = drawing();
  const name = make("span", {}, words.open);
  const button = make("button", { type: "button", class: "button", "aria-expanded": "false" }, svg, name);
  const panel = make("div", { class: "panel", role: "dialog", "aria-label": words.title, hidden: "" });
  root.append(button, panel);

  let frame = null;
  let isLoaded = false;
  let overflow = "";

  const tellOpen = () => isLoaded && frame.contentWindow.postMessage({ hoidap: "open" }, home.origin);

  const load = () => {
    const address = new URL("?embedded=1", home);
    if (isEnglish) address.searchParams.set("language", "en");
    frame = make("iframe", {
      src: address.href,
      title: words.title,
      // Its own origin, so that it may talk to its server; it cannot send this page elsewhere.
      sandbox: "allow-scripts allow-same-origin allow-forms allow-popups allow-popups-to-escape-sandbox",
      allow: "clipboard-write",
    });
    frame.addEventListener("load", () => {
      isLoaded = true;
      if (!panel.hidden) tellOpen();
    });
    panel.append(frame);
  };

  const show = (isOpen) => {
    if (isOpen === !panel.hidden) return;
    panel.hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
    name.textContent = isOpen ? words.close : words.open;
    path.setAttribute("d", isOpen ? CROSS : CHAT);
    if (isOpen) {
      if (!frame) load();
      overflow = document.documentElement.style.overflow;
      if (phone.matches) document.documentElement.style.overflow = "hidden"; // the site behind does not scroll
      frame.focus();
      tellOpen();
    } else {
      document.documentElement.style.overflow = overflow;
      button.focus();
    }
  };

  path.setAttribute("d", CHAT);
  button.addEventListener("click", () => show(panel.hidden));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) show(false);
  });
  window.addEventListener("message", (event) => {
    const isOurs = frame && event.source === frame.contentWindow && event.origin === home.origin;
    if (isOurs && event.data?.hoidap === "close") show(false);
  });

  if (document.body) document.body.append(host);
  else document.addEventListener("DOMContentLoaded", () => document.body.append(host));
})();
