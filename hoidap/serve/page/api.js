/** What the pages ask the server. */

import { visitor } from "./memory.js";

/** A request that did not succeed. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {{status?: number, code?: string | null, retryAfter?: number | null}} [known] status 0: no answer came
   */
  constructor(message, { status = 0, code = null, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/**
 * Sends a request and returns the response, or throws an ApiError; one that was aborted throws what `fetch` throws.
 *
 * @param {string} path relative to the page, so that a proxy may put the whole server under a folder
 * @param {{method?: string, body?: unknown, signal?: AbortSignal, headers?: Record<string, string>}} [options]
 */
export async function request(path, { method = "GET", body, signal, headers = {} } = {}) {
  const sent = body === undefined ? headers : { ...headers, "Content-Type": "application/json" };
  const payload = body === undefined ? undefined : JSON.stringify(body);
  let response;
  try {
    response = await fetch(path, { method, headers: sent, body: payload, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(String(error), { code: "network" });
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function failure(response) {
  const told = await response.json().catch(() => null);
  const error = told?.error ?? {};
  const retryAfter = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  return new ApiError(error.message ?? response.statusText, {
    status: response.status,
    code: error.code ?? null,
    retryAfter: Number.isFinite(retryAfter) ? retryAfter : null,
  });
}

const asVisitor = () => ({ "X-Hoidap-Visitor": visitor() });
const json = async (path, options = {}) => {
  const response = await request(path, { ...options, headers: asVisitor() });
  return response.status === 204 ? null : response.json();
};
const part = encodeURIComponent;

export const getSite = () => json("api/site");
export const getConversations = (search) => json(`api/conversations?search=${part(search)}`);
export const getConversation = (id) => json(`api/conversations/${part(id)}`);
export const exportConversation = (id) => json(`api/conversations/${part(id)}/export`);
export const rename = (id, title) => json(`api/conversations/${part(id)}`, { method: "PATCH", body: { title } });
export const remove = (id) => json(`api/conversations/${part(id)}`, { method: "DELETE" });
export const rate = (turn, rating, comment) =>
  json(`api/turns/${part(turn)}/rating`, { method: "PUT", body: { rating, comment } });
export const forgetMe = () => json("api/me", { method: "DELETE" });

/**
 * Asks a question; gives out the events of its answer.
 *
 * @param {{bot: string | null, conversation: string | null, question: string, replaces: string | null}} body
 * @param {AbortSignal} signal
 */
export async function* ask(body, signal) {
  const headers = { ...asVisitor(), Accept: "text/event-stream" };
  const response = await request("api/ask", { method: "POST", body, signal, headers });
  yield* events(response.body);
}

/** Reads server-sent events whose data is JSON. @param {ReadableStream<Uint8Array>} stream */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((error) => {
        if (error.name === "AbortError") throw error;
        throw new ApiError(String(error), { code: "broken" });
      });
      if (done) return;
      const parts = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = parts.pop();
      for (const event of parts) {
        const data = event.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
        if (data.length) yield JSON.parse(data.join("\n"));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
