/** What the browser keeps: who the visitor is, choices, the draft. Where storage is off, it lasts as long as the page. */

const PREFIX = "hoidap.";

/** @param {() => Storage} storage */
function shelf(storage) {
  const spare = new Map();
  return {
    /** @param {string} name @returns {string | null} */
    get(name) {
      try {
        return storage().getItem(PREFIX + name) ?? spare.get(name) ?? null;
      } catch {
        return spare.get(name) ?? null;
      }
    },
    /** @param {string} name @param {string | null} value null forgets it */
    set(name, value) {
      spare.delete(name);
      try {
        if (value === null) storage().removeItem(PREFIX + name);
        else storage().setItem(PREFIX + name, value);
      } catch {
        if (value !== null) spare.set(name, value);
      }
    },
  };
}

/** Lasts in this browser. */
export const lasting = shelf(() => localStorage);
/** Lasts as long as this tab. */
export const passing = shelf(() => sessionStorage);

/** Returns the visitor's number, 128 random bits; it is made at the first question and known to this browser alone. */
export function visitor() {
  const known = lasting.get("visitor");
  if (known && /^[0-9a-f]{32}$/.test(known)) return known;
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const made = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  lasting.set("visitor", made);
  return made;
}

/** Forgets who the visitor was and all that was typed; language and theme are no data of theirs and stay. */
export function forgetVisitor() {
  for (const name of ["visitor", "draft"]) lasting.set(name, null);
  passing.set("conversation", null);
}
