// The service: asked with the caller's key, its problems as errors that people can read.

import { ofTab } from "/playground/storage.js";

const KEY = "safemargin.key";

/** What the service refused, or could not do. */
export class Problem extends Error {
  constructor(status, body, after = null) {
    const fields = (body.errors ?? []).filter((error) => error.detail !== body.detail || error.pointer);
    const places = fields.map(({ pointer, detail }) => (pointer ? `${detail} (${pointer})` : detail));
    const again = after ? `try again in ${after} s` : null;
    super([body.detail ?? body.title ?? `status ${status}`, ...places, again].filter(Boolean).join("; "));
    this.status = status;
  }
}

/** The key of this tab; empty where there is none. */
export function key() {
  return ofTab.get(KEY) ?? "";
}

/** Use a key from now on in this tab; an empty one is forgotten. */
export function useKey(text) {
  if (text) ofTab.set(KEY, text);
  else ofTab.forget(KEY);
}

/** Where a job is, or a part of it; the id may be whatever stood in the page's address. */
export function placeOf(id, part = "") {
  return `/jobs/${encodeURIComponent(id)}${part}`;
}

/** An answer; throws a `Problem` for any but success. */
export async function ask(path, { method = "GET", json, body, headers = {}, signal } = {}) {
  const sent = new Headers(headers);
  if (key()) sent.set("Authorization", `Bearer ${key()}`);
  if (json !== undefined) sent.set("Content-Type", "application/json");
  let response;
  try {
    response = await fetch(path, {
      method,
      body: json === undefined ? body : JSON.stringify(json),
      headers: sent,
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "the service cannot be reached" });
  }
  if (!response.ok) {
    const after = response.headers.get("Retry-After");
    throw new Problem(response.status, await response.json().catch(() => ({})), after);
  }
  return response;
}

/** The JSON of an answer; of work that takes longer than a request may, once its job is over. */
export async function askJson(path, options) {
  const response = await ask(path, options);
  if (response.status !== 202 || path.startsWith("/jobs")) return response.json();
  const place = response.headers.get("Location");
  for (;;) {
    const job = await (await ask(`${place}?wait=20`)).json();
    if (job.status !== "in_progress") break;
  }
  return (await ask(`${place}/results`, { headers: { Accept: "application/json" } })).json();
}

/** Save what the service answers as a file: a plain link could send no key. */
export async function download(path, name, headers = {}) {
  save(await (await ask(path, { headers })).blob(), name);
}

/** Save a blob as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
