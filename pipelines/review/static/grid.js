// The grid: only the tiles that can be seen exist, and pages of their data are fetched as they come into view.

import { classOf, get, on, overlayUrl, photoUrl, tried } from "./api.js";
import { $, dot, el, later, percent, plural } from "./dom.js";
import { query } from "./filters.js";

const PAGE = 100, GAP = 12, CAPTION = 46, AHEAD = 2;
const grid = { total: 0, pages: new Map(), tiles: new Map(), spare: [], active: 0, columns: 1, width: 200, height: 200, ratio: 1, round: 0 };

export function setUpGrid() {
  on("query", reload);
  on("names", () => { for (const [place, node] of grid.tiles) fill(node, place); });
  on("corrected", replace);
  $("grid").addEventListener("scroll", () => requestAnimationFrame(draw), { passive: true });
  $("grid").addEventListener("keydown", move);
  $("grid").addEventListener("focus", () => draw());
  new ResizeObserver(() => layOut()).observe($("grid"));
  $("tile-size").addEventListener("input", () => layOut());
  $("tile-opacity").addEventListener("input", opacity);
  opacity();
}

function opacity() { $("grid").style.setProperty("--tile-opacity", Number($("tile-opacity").value) / 100); }

async function reload() {
  const round = ++grid.round;
  const first = await tried(() => get("/api/images", { ...query(), offset: 0, limit: PAGE }));
  if (!first || round !== grid.round) return;
  grid.total = first.total;
  grid.pages = new Map([[0, first.images]]);
  grid.active = 0;
  grid.ratio = usualRatio(first.images);
  $("grid").scrollTop = 0;
  $("found").textContent = plural(first.total, "image");
  $("empty").hidden = first.total > 0;
  layOut({ anew: true });
}

function usualRatio(images) {
  const ratios = images.filter((one) => one.height).map((one) => one.width / one.height).sort((a, b) => a - b);
  return Math.min(2, Math.max(0.75, ratios[ratios.length >> 1] ?? 1.33));
}

function layOut({ anew = false } = {}) {
  const box = $("grid").clientWidth - 40, wanted = Number($("tile-size").value);
  if (box <= 0) return;
  const before = Math.floor($("grid").scrollTop / (grid.height + GAP)) * grid.columns;
  grid.columns = Math.max(1, Math.floor((box + GAP) / (wanted + GAP)));
  grid.width = Math.floor((box - GAP * (grid.columns - 1)) / grid.columns);
  grid.height = Math.round(grid.width / grid.ratio) + CAPTION;
  $("sizer").style.height = `${Math.ceil(grid.total / grid.columns) * (grid.height + GAP) + 8}px`;
  if (!anew) $("grid").scrollTop = Math.floor(before / grid.columns) * (grid.height + GAP);
  for (const place of [...grid.tiles.keys()]) drop(place);
  draw();
}

function draw() {
  const row = grid.height + GAP, top = $("grid").scrollTop;
  const first = Math.max(0, Math.floor(top / row) - AHEAD) * grid.columns;
  const last = Math.min(grid.total, (Math.ceil((top + $("grid").clientHeight) / row) + AHEAD) * grid.columns);
  for (const place of [...grid.tiles.keys()]) if (place < first || place >= last) drop(place);
  for (let place = first; place < last; place++) if (!grid.tiles.has(place)) show(place);
  for (let page = Math.floor(first / PAGE); page * PAGE < last; page++) if (!grid.pages.has(page)) fetchWanted();
}

const fetchWanted = later(40, async () => {
  const round = grid.round, seen = [...new Set([...grid.tiles.keys()].map((place) => Math.floor(place / PAGE)))];
  for (const page of seen) {
    if (grid.pages.has(page)) continue;
    const found = await tried(() => get("/api/images", { ...query(), offset: page * PAGE, limit: PAGE }));
    if (!found || round !== grid.round) return;
    grid.pages.set(page, found.images);
    for (const [place, node] of grid.tiles) if (Math.floor(place / PAGE) === page) fill(node, place);
  }
});

const dataOf = (place) => grid.pages.get(Math.floor(place / PAGE))?.[place % PAGE];

function drop(place) {
  const node = grid.tiles.get(place);
  grid.tiles.delete(place);
  node.hidden = true;
  node.removeAttribute("id");
  grid.spare.push(node);
}

function show(place) {
  const node = grid.spare.pop() ?? make();
  grid.tiles.set(place, node);
  node.hidden = false;
  node.dataset.place = place;
  node.id = `tile-${place}`;
  node.setAttribute("aria-posinset", place + 1);
  node.setAttribute("aria-setsize", grid.total);
  const x = (place % grid.columns) * (grid.width + GAP), y = Math.floor(place / grid.columns) * (grid.height + GAP);
  Object.assign(node.style, { transform: `translate(${x}px, ${y}px)`, width: `${grid.width}px`, height: `${grid.height}px` });
  fill(node, place);
}

function make() {
  const node = el("div", { class: "tile", role: "option" },
    el("div", { class: "pictures" }, el("img", { alt: "", decoding: "async", class: "photo" }), el("img", { alt: "", decoding: "async", class: "over" }),
      el("div", { class: "problem", hidden: true }), el("div", { class: "badges" })),
    el("div", { class: "caption" }, el("span", { class: "id" }, el("bdi")), el("div", { class: "row" })));
  for (const image of node.querySelectorAll("img")) image.addEventListener("error", () => { image.hidden = true; });
  node.addEventListener("click", () => open(Number(node.dataset.place)));
  $("sizer").append(node);
  return node;
}

function fill(node, place) {
  const tile = dataOf(place), [photo, over] = node.querySelectorAll("img");
  mark(node, place);
  for (const image of [photo, over]) image.hidden = !tile || (image === over && tile.problem !== "");
  if (!tile) { photo.removeAttribute("src"); over.removeAttribute("src"); }
  node.querySelector(".problem").hidden = !tile?.problem;
  node.querySelector(".problem").textContent = tile?.problem ?? "";
  node.querySelector("bdi").textContent = tile?.id ?? "";
  node.querySelector(".row").replaceChildren(...(tile ? facts(tile) : []));
  node.querySelector(".badges").replaceChildren(...(tile ? badges(tile) : []));
  if (!tile) return;
  node.setAttribute("aria-label", describe(tile));
  setSource(photo, photoUrl(tile, true));
  if (!tile.problem) setSource(over, overlayUrl(tile));
}

function setSource(image, source) { if (image.getAttribute("src") !== source) image.src = source; }

function mark(node, place) {
  node.setAttribute("aria-selected", place === grid.active);
  if (place === grid.active) $("grid").setAttribute("aria-activedescendant", node.id);
}

function facts(tile) {
  return [...tile.classes.slice(0, 6).map(([id]) => { const node = dot(classOf(id)); node.title = classOf(id).name; return node; }),
    el("span", { class: "value", title: "mean confidence", text: tile.confidence === null ? "" : percent(tile.confidence) })];
}

function badges(tile) {
  const found = [];
  if (tile.errors !== null) found.push(el("span", { class: "badge errors", title: "wrong pixels against the masks", text: percent(tile.errors, tile.errors < 0.1 ? 1 : 0) }));
  if (tile.corrected) found.push(el("span", { class: "badge corrected", title: "corrected", text: "✓ corrected" }));
  if (tile.good) found.push(el("span", { class: "badge good", title: "marked as good", text: "★ good" }));
  return found;
}

function describe(tile) {
  const names = tile.classes.map(([id]) => classOf(id).name).join(", ");
  const state = [tile.corrected && "corrected", tile.good && "good"].filter(Boolean).join(", ");
  return `${tile.id}: ${tile.problem || names || "no class"}${state ? `; ${state}` : ""}; confidence ${percent(tile.confidence)}`;
}

function replace(images) {
  const changed = new Map(images.map((tile) => [tile.n, tile]));
  for (const page of grid.pages.values()) page.forEach((tile, i) => { if (changed.has(tile.n)) page[i] = changed.get(tile.n); });
  for (const [place, node] of grid.tiles) if (changed.has(dataOf(place)?.n)) fill(node, place);
}

function open(place) {
  activate(place);
  const tile = dataOf(place);
  if (tile) location.hash = `#/image/${tile.n}`;
}

function activate(place) {
  grid.active = Math.max(0, Math.min(grid.total - 1, place));
  for (const [at, node] of grid.tiles) mark(node, at);
}

function move(event) {
  const rows = Math.max(1, Math.floor($("grid").clientHeight / (grid.height + GAP)));
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns, PageUp: -rows * grid.columns, PageDown: rows * grid.columns, Home: -grid.total, End: grid.total };
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(grid.active); return; }
  if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  activate(grid.active + steps[event.key]);
  reveal();
}

function reveal() {
  const y = Math.floor(grid.active / grid.columns) * (grid.height + GAP), box = $("grid");
  if (y < box.scrollTop) box.scrollTop = y;
  else if (y + grid.height > box.scrollTop + box.clientHeight) box.scrollTop = y + grid.height + GAP - box.clientHeight;
  draw();
}

/** The image before or after one in the order of the grid, or the chosen one if none is open; null at its ends. */
export async function neighbour(number, step) {
  const found = await tried(() => get("/api/images", { ...query(), find: number, limit: 0 }));
  const place = (found?.place ?? grid.active - (step > 0 ? 1 : 0)) + step;
  if (!found || place < 0 || place >= found.total) return null;
  const page = await tried(() => get("/api/images", { ...query(), offset: place, limit: 1 }));
  activate(place);
  return page?.images[0] ?? null;
}

/** Shows the grid again where it was left. */
export function returnToGrid() { layOut(); reveal(); $("grid").focus({ preventScroll: true }); }
