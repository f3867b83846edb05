// One image: loads its layers, and turns what a person does into corrections.

import { app, classOf, correct, emit, get, giveClass, mapUrl, on, photoUrl, post, redo, tried, undo } from "./api.js";
import { $, percent, plural, toast } from "./dom.js";
import { neighbour, returnToGrid } from "./grid.js";
import { bitmap, numbers, owners } from "./layers.js";
import { bars, showImage } from "./panel.js";
import { encodeMask } from "./rle.js";
import { close, offer } from "./spread.js";
import { current, mark, redraw, repaint, setImage, view } from "./stage.js";
import { select, tools } from "./tools.js";

let round = 0;

export function setUpViewer() {
  on("name", ({ id }) => nameSelected(id));
  on("split", ({ id, mask }) => splitOff(id, mask));
  on("painted", paint);
  on("act", act);
  on("undo", (one) => correct([{ image: current().n, kind: "undo", target: one.key }], `undo of ${one.kind}`));
  on("corrected", (images) => { if (images.some((tile) => tile.n === current()?.n)) reload(); });
  on("names", () => { if (current()) reload(); });
  on("similar", () => { if (current()) reload(); });
  on("mode", (name) => { if (name === "confidence") loadMap("confidence"); if (name === "truth" || name === "difference") loadMap("truth"); });
  on("hover", showTip);
  $("back").addEventListener("click", () => { location.hash = "#/"; });
  $("previous-image").addEventListener("click", () => step(-1));
  $("next-image").addEventListener("click", () => step(1));
  $("good").addEventListener("click", () => act("good"));
}

/** Opens an image by its number, and selects the segment with a segment_id. */
export async function open(number, segment) {
  if (current()?.n === number && segment !== undefined) { close(); choosePart(segment); return; }
  $("browse").hidden = true;
  $("look").hidden = false;
  close();
  view.selected = new Set();
  setImage(null);
  $("image-name").textContent = "";
  showImage();
  await load(number, false);
  if (current()?.n === number && segment !== undefined) choosePart(segment);
  $("canvas").focus({ preventScroll: true });
}

function choosePart(segment) { select(current().parts.findIndex((part) => part.number === segment) + 1); }

/** Back to the grid. */
export function leave() {
  if ($("look").hidden) return;
  round++;
  close();
  setImage(null);
  $("look").hidden = true;
  $("browse").hidden = false;
  returnToGrid();
}

const reload = () => load(current().n, true);

async function load(number, keepView) {
  const mine = ++round;
  const tile = await tried(() => get(`/api/images/${number}`, { names: app.names, similar: app.names || app.similar }));
  if (mine !== round) return;
  notice(tile ? "" : "This image has no label.");
  if (!tile) return;
  const before = keepView ? current() : null;
  const [label, photo] = await Promise.all([numbers(mapUrl(tile, "label")), before?.photo ?? bitmap(photoUrl(tile)).catch((error) => { notice(error.message); return null; })]);
  if (mine !== round) return;
  const image = { ...tile, label, photo, confidence: null, truth: before?.truth ?? null, owner: before?.owner ?? owners(tile.parts, tile.width, tile.height) };
  view.stroke = view.lasso = null;
  $("tip").hidden = true;
  setImage(image, { keepView });
  if (view.mode === "confidence") loadMap("confidence");
  if (view.mode === "truth" || view.mode === "difference") loadMap("truth");
  showHead(tile);
  showImage();
  mark();
  emit("shown", tile);
}

async function loadMap(kind) {
  const image = current();
  if (!image || image[kind]) return;
  const found = await tried(() => numbers(mapUrl(image, kind)));
  if (found && current() === image) { image[kind] = found; repaint(); }
}

function showHead(tile) {
  $("image-name").textContent = tile.id;
  document.title = `${tile.id} - segray`;
  const facts = [`${tile.width} × ${tile.height}`, plural(tile.segments, "segment"), `confidence ${percent(tile.confidence)}`];
  if (tile.errors !== null) facts.push(`${percent(tile.errors, 1)} wrong`);
  if (tile.disagreement !== null) facts.push(`${percent(tile.disagreement, 1)} different`);
  $("image-facts").textContent = facts.join("  ·  ");
  $("good").setAttribute("aria-pressed", tile.good);
  $("good").firstChild.textContent = tile.good ? "★ Good " : "Mark as good ";
}

function notice(text) { $("notice").hidden = !text; $("notice").textContent = text; }

function selected() { return [...view.selected].map((place) => current().parts[place - 1]); }

async function nameSelected(id) {
  const parts = selected(), image = current();
  if (!parts.length) return;
  const segments = parts.map((part) => part.number);
  const done = await correct([giveClass(image.n, segments, id)], `${plural(parts.length, "segment")}: ${classOf(id).name}`);
  if (!done) return;
  $("canvas").focus({ preventScroll: true });
  offer(parts[0], id);
}

async function splitOff(id, mask) {
  const [part] = selected(), image = current();
  const done = await correct([{ image: image.n, kind: "split", segments: [part.number], class: classOf(id).raw, mask: encodeMask(mask, image.width, image.height) }], `part of segment ${part.number}: ${classOf(id).name}`);
  if (done) select(0);
  $("canvas").focus({ preventScroll: true });
}

async function paint(mask) {
  const image = current();
  const done = await correct([{ image: image.n, kind: "paint", class: classOf(tools.brushClass).raw, mask: encodeMask(mask, image.width, image.height) }], `painted ${classOf(tools.brushClass).name}`);
  if (!done) { view.stroke = null; redraw(); }
}

/** What buttons and keys do: erase, merge, good, undo, redo. */
export async function act(name) {
  const image = current();
  if (name === "undo") return undoLast(image);
  if (name === "redo") return redo();
  if (!image) return null;
  if (name === "good") return markGood(image);
  const parts = selected(), segments = parts.map((part) => part.number);
  if (name === "erase") return parts.length ? nameSelected(0) : toast("select a segment first");
  if (name === "merge" && parts.length > 1) return correct([{ image: image.n, kind: "merge", segments, class: classOf(parts[0].class).raw }], `merged ${parts.length} segments`);
  return toast("hold Shift and click the segments to merge");
}

/** The last of this page's; else the image's own last one, of an earlier visit or another person. */
function undoLast(image) {
  const last = image?.history.filter((one) => one.kind !== "undo" && !one.undone).at(-1);
  if (app.undo.length || !last) return undo();
  return correct([{ image: image.n, kind: "undo", target: last.key }], `undo of ${last.kind}`);
}

function markGood(image) {
  const mark = image.history.filter((one) => one.kind === "good" && !one.undone).at(-1);
  return image.good && mark ? correct([{ image: image.n, kind: "undo", target: mark.key }], "not good any more") : correct([{ image: image.n, kind: "good" }], "marked as good");
}

/** The image before or after, in the order of the grid. */
export async function step(by) {
  const found = await neighbour(current()?.n, by);
  if (found) location.hash = `#/image/${found.n}`;
  else toast(by > 0 ? "this is the last image" : "this is the first image");
}

/** Opens the segment whose correction gains most; without segments, an image that nobody has corrected. */
export async function next() {
  const ask = () => tried(() => app.set.next ? post("/api/next", {}) : nextImage());
  const isOpen = (one) => one.image !== null && location.hash === placeOf(one);
  const first = await ask();
  // What is open may have its turn again before another.
  const again = first && isOpen(first), found = again ? await ask() : first;
  if (!found) return;
  if (!found.ready) { toast("choosing what is next ..."); setTimeout(next, 1000); }
  else if (isOpen(found) || (again && found.image === null)) toast("only this segment is left to correct");
  else if (found.image === null) toast("nothing is left to correct");
  else location.hash = placeOf(found);
}

const placeOf = ({ image, segment }) => `#/image/${image}${segment === null ? "" : `/${segment}`}`;

async function nextImage() {
  const found = await get("/api/images", { sort: "margin", state: "open", limit: 2 });
  return { image: found.images.find((one) => one.n !== current()?.n)?.n ?? null, segment: null, ready: true };
}

function showTip({ part, event }) {
  const image = current(), tip = $("tip"), one = image?.parts?.[part - 1];
  if (!one || !event || event.buttons) { tip.hidden = true; return; }
  const title = document.createElement("b");
  title.textContent = `${classOf(one.class).name} · segment ${one.number}`;
  tip.replaceChildren(title, bars(one, 3));
  tip.hidden = false;
  const box = $("canvas-box"), x = event.offsetX, y = event.offsetY;
  tip.style.left = `${x + 18 + tip.offsetWidth > box.clientWidth ? x - 14 - tip.offsetWidth : x + 18}px`;
  tip.style.top = `${Math.min(y + 16, box.clientHeight - tip.offsetHeight - 8)}px`;
}
