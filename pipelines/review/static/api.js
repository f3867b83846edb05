// Requests to the server, and what is known of the label set.

import { toast } from "./dom.js";

export const app = { set: null, classes: [], names: "", undo: [], redo: [] };
const listeners = new Map();

export function on(event, work) { listeners.set(event, [...(listeners.get(event) ?? []), work]); }
export function emit(event, value) { for (const work of listeners.get(event) ?? []) work(value); }

async function answer(response) {
  const document = await response.json().catch(() => ({ error: `status ${response.status}` }));
  if (!response.ok) throw new Error(document.error ?? `status ${response.status}`);
  return document;
}

export async function get(path, values = {}) {
  const query = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return answer(await fetch(query.size ? `${path}?${query}` : path));
}

export async function post(path, document) {
  return answer(await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(document) }));
}

/** Shows an error of `work` and answers undefined then. */
export async function tried(work) {
  try {
    return await work();
  } catch (error) {
    toast(error.message, { error: true });
    return undefined;
  }
}

export async function loadSet() {
  app.set = await get("/api/set");
  app.classes = app.set.classes;
  emit("set");
}

/** Stores corrections, all or none; they can be taken back together. */
export async function correct(corrections, text, { remember = true } = {}) {
  const result = await tried(() => post("/api/corrections", { set: app.set.fingerprint, corrections }));
  if (!result) return null;
  if (remember) {
    app.undo.push({ text, items: result.keys.map((key, i) => ({ key, image: corrections[i].image })) });
    app.redo = [];
  }
  emit("corrected", result.images);
  tried(loadSet);
  return result;
}

async function takeBack(from, to, word) {
  const last = from.pop();
  if (!last) { toast(`nothing to ${word}`); return null; }
  const corrections = last.items.map(({ key, image }) => ({ image, kind: "undo", target: key }));
  const result = await correct(corrections, last.text, { remember: false });
  if (!result) { from.push(last); return null; }
  to.push({ text: last.text, items: result.keys.map((key, i) => ({ key, image: last.items[i].image })) });
  toast(`${word === "undo" ? "undone" : "done again"}: ${last.text}`);
  return result;
}

export const undo = () => takeBack(app.undo, app.redo, "undo");
/** Taking an undo back does again what it took back. */
export const redo = () => takeBack(app.redo, app.undo, "redo");

const url = (path, values) => `${path}?${new URLSearchParams(values)}`;
// What browsers keep is kept for one run of the server: masks and roots are other ones in the next.
const version = (tile) => `${app.set.session}-${tile.version}`;
export const photoUrl = (tile, thumbnail) => url(`/api/images/${tile.n}/photo.jpg`, { v: app.set.session, ...(thumbnail ? { size: "thumbnail" } : {}) });
export const overlayUrl = (tile) => url(`/api/images/${tile.n}/overlay.png`, { v: version(tile), names: app.names });
export const mapUrl = (tile, kind) => url(`/api/images/${tile.n}/${kind}.png`, { v: version(tile), names: kind === "truth" ? "" : app.names });
export const cropUrl = (row) => url(`/api/segments/${row}/crop.jpg`, { v: app.set.session });

/** The class of an id; the ignored id is "unknown". */
export function classOf(id) {
  return app.classes[id] ?? { id, name: "unknown", raw: null, colour: "#888888", none: true };
}
