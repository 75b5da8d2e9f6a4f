// Runs before the first paint, so that neither theme nor language flashes; everything else is in modules.
(() => {
  const read = (name) => {
    try {
      return localStorage.getItem(`hoidap.${name}`);
    } catch {
      return null; // storage is off
    }
  };
  const root = document.documentElement;
  const asked = new URLSearchParams(location.search);
  const theme = read("theme");
  const isDark = theme === "dark" || (theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.dataset.theme = isDark ? "dark" : "light";
  root.lang = (read("language") ?? asked.get("language")) === "en" ? "en" : "vi";
  root.classList.toggle("embedded", asked.get("embedded") === "1");
})();
