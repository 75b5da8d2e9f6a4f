/** What the owner's page asks the server, with the key that was given. */

import { request } from "./api.js";

export class OwnerApi {
  /**
   * @param {string} key
   * @param {<T>(promise: Promise<T>) => Promise<T>} guarded is handed every request
   */
  constructor(key, guarded) {
    // A header takes printable ASCII alone; any other key is wrong, and the server says so.
    this.headers = { Authorization: `Bearer ${/^[\x21-\x7e]+$/.test(key) ? key : "-"}` };
    this.guarded = guarded;
  }

  async #json(path, values, options = {}) {
    const response = await this.#send(path, values, options);
    return response.status === 204 ? null : response.json();
  }

  #send(path, values, options) {
    const given = Object.entries(values).filter(([, value]) => value !== "" && value !== null);
    const query = new URLSearchParams(given.map(([name, value]) => [name, String(value)]));
    const address = query.size ? `api/owner/${path}?${query}` : `api/owner/${path}`;
    return this.guarded(request(address, { ...options, headers: this.headers }));
  }

  summary(bot, days) {
    return this.#json("summary", { bot, days });
  }

  /** @param {{bot: string, filter: string, search: string, before: string | null, limit: number}} wanted */
  asked(wanted) {
    return this.#json("asked", wanted);
  }

  unanswered(bot) {
    return this.#json("unanswered", { bot });
  }

  items(bot, search) {
    return this.#json("items", { bot, search });
  }

  /** @param {string[]} wordings other questions that it answers */
  answer(bot, question, answer, wordings) {
    return this.#json("answers", {}, { method: "PUT", body: { bot, question, answer, wordings } });
  }

  /** @returns {Promise<{blob: Blob, name: string}>} */
  async exported(bot) {
    const response = await this.#send("export", { bot }, {});
    const told = /filename="([^"/\\]+)"/.exec(response.headers.get("Content-Disposition") ?? "");
    return { blob: await response.blob(), name: told?.[1] ?? "hoidap.csv" };
  }
}
