// The tools: select, lasso, brush, pan; and what the pointer does with each.

import { emit } from "./api.js";
import { $, el, icon, toast } from "./dom.js";
import { context, cssColour } from "./layers.js";
import { current, mark, pan, partAt, pixelAt, redraw, view } from "./stage.js";

export const tools = { name: "select", brushClass: 0, brushSize: 12 };
const TOOLS = [
  ["select", "Select", "V", ["M5 3l10 7-4.5 1L13 16l-2 1-2.5-5L5 15z"]],
  ["lasso", "Split", "L", ["M10 4c4 0 7 2 7 4.5S14 13 10 13s-7-2-7-4.5S6 4 10 4z", "M6.5 12.5C5 14 6 16 8 16.5"]],
  ["brush", "Brush", "B", ["M16.5 3.5L9 11l2 2 6-8.5z", "M8.5 11.5c-2 0-2.500 1.500-2.500 3 0 1-1 1.500-2 1.500 1.500 1.500 6 1.500 6.500-2.500z"]],
  ["pan", "Move", "H", ["M10 3v14M3 10h14M10 3L8 5m2-2l2 2M10 17l-2-2m2 2l2-2M3 10l2-2m-2 2l2 2M17 10l-2-2m2 2l-2 2"]],
];
const ACTIONS = [
  ["erase", "Erase", "E", ["M8 16L3.500 11.500 11 4l5.500 5.500L10 16z", "M7 8l5.500 5.500M9 16h8"]],
  ["merge", "Merge", "M", ["M4 4h7v7H4z", "M9 9h7v7H9z"]],
  ["undo", "Undo", "Z", ["M7 5L3.500 8.500 7 12", "M4 8.500h8a4 4 0 0 1 0 8h-3"]],
  ["redo", "Redo", "Y", ["M13 5l3.500 3.500L13 12", "M16 8.500H8a4 4 0 0 0 0 8h3"]],
];
let drag = null;

export function setUpTools() {
  const make = ([name, text, key, paths], run, pressed) => el("button", { type: "button", id: `tool-${name}`, title: `${text} (${key})`, "aria-pressed": pressed ? "false" : null, onclick: run }, icon(...paths), text);
  $("toolbox").append(
    ...TOOLS.map((tool) => make(tool, () => choose(tool[0]), true)), el("hr"),
    ...ACTIONS.map((action) => make(action, () => emit("act", action[0]))), el("hr"),
    el("div", { id: "brush-box", hidden: true }, el("input", { type: "range", id: "brush-size", class: "size", min: 1, max: 120, value: tools.brushSize, "aria-label": "Size of the brush in pixels of the image", oninput: (event) => size(Number(event.target.value)) }),
      el("p", { class: "size-name", id: "brush-size-name" }, "")));
  const canvas = $("canvas");
  canvas.addEventListener("pointerdown", down);
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", cancel);
  canvas.addEventListener("pointerleave", () => { view.brush = null; hover(0); redraw(); });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  choose("select");
  size(tools.brushSize);
}

export function choose(name) {
  tools.name = name;
  cancel();
  for (const [other] of TOOLS) $(`tool-${other}`).setAttribute("aria-pressed", other === name);
  $("brush-box").hidden = name !== "brush";
  $("canvas").dataset.tool = name;
  emit("tool", name);
}

export function size(value) {
  tools.brushSize = Math.min(120, Math.max(1, value));
  $("brush-size").value = tools.brushSize;
  $("brush-size-name").textContent = `${tools.brushSize} px`;
  if (view.brush) { view.brush.radius = tools.brushSize / 2; redraw(); }
}

function down(event) {
  if (!current()) return;
  $("canvas").focus({ preventScroll: true });
  $("canvas").setPointerCapture(event.pointerId);
  const at = pixelAt(event);
  const kind = event.button === 1 || event.button === 2 || event.altKey ? "pan" : tools.name;
  drag = { kind, x: event.clientX, y: event.clientY, moved: 0, at };
  $("canvas").classList.toggle("busy", kind === "pan");
  if (kind === "lasso") { view.lasso = [at]; redraw(); }
  if (kind === "brush") { begin(); paint(at, at); }
}

function move(event) {
  if (!current()) return;
  const at = pixelAt(event);
  if (tools.name === "brush") { view.brush = { x: at[0], y: at[1], radius: tools.brushSize / 2, class: tools.brushClass }; redraw(); }
  if (!drag) { hover(tools.name === "pan" ? 0 : partAt(at), event); return; }
  const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
  drag.moved += Math.abs(x) + Math.abs(y);
  [drag.x, drag.y] = [event.clientX, event.clientY];
  if (drag.kind === "pan" || (drag.kind === "select" && drag.moved > 6 && event.buttons === 1)) { hover(0); pan(x, y); }
  if (drag.kind === "lasso") { view.lasso.push(at); redraw(); }
  if (drag.kind === "brush") { paint(drag.at, at); drag.at = at; }
}

function up(event) {
  const done = drag, at = current() ? pixelAt(event) : null;
  drag = null;
  $("canvas").classList.remove("busy");
  if (!done || !at) return;
  if (done.kind === "select" && done.moved <= 6) select(partAt(at), event.shiftKey || event.ctrlKey || event.metaKey);
  if (done.kind === "lasso") endLasso(done);
  if (done.kind === "brush") endStroke();
}

function cancel() {
  drag = null;
  view.lasso = view.stroke = view.brush = null;
  redraw();
}

/** Selects a part; 0 clears. With `add`, the part joins or leaves the others. */
export function select(part, add = false) {
  view.lasso = null;
  if (add && part) { if (!view.selected.delete(part)) view.selected.add(part); } else view.selected = new Set(part ? [part] : []);
  mark();
  emit("select");
}

function hover(part, event = null) {
  if (view.hover !== part) { view.hover = part; redraw(); }
  emit("hover", { part, event });
}

function endLasso(done) {
  const path = view.lasso ?? [];
  if (path.length < 3 || done.moved < 12) { view.lasso = null; redraw(); return; }
  path.closed = true;
  const mask = inside(path);
  const part = mostCovered(mask);
  if (!part) { view.lasso = null; redraw(); toast("no segment is inside the lasso; the brush paints what none covers"); return; }
  view.selected = new Set([part]);
  mark();
  emit("select", { mask });
}

/** The mask of a polygon: pixels whose middle is inside. */
function inside(path) {
  const { width, height } = current();
  const drawing = context(width, height);
  path.forEach(([x, y], i) => (i ? drawing.lineTo(x, y) : drawing.moveTo(x, y)));
  drawing.closePath();
  drawing.fill();
  return alpha(drawing, width, height, 128);
}

function alpha(drawing, width, height, least) {
  const data = drawing.getImageData(0, 0, width, height).data, mask = new Uint8Array(width * height);
  for (let i = 0; i < mask.length; i++) mask[i] = data[4 * i + 3] >= least ? 1 : 0;
  return mask;
}

/** The selected part if the lasso touches it, else the part of which it holds most. */
function mostCovered(mask) {
  const counts = new Map(), { owner } = current();
  for (let i = 0; i < mask.length; i++) if (mask[i] && owner[i]) counts.set(owner[i], (counts.get(owner[i]) ?? 0) + 1);
  const chosen = [...view.selected].find((part) => counts.has(part));
  return chosen ?? [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 0;
}

function begin() {
  const { width, height } = current();
  view.stroke = context(width, height, (drawing) => {
    drawing.lineCap = drawing.lineJoin = "round";
    drawing.strokeStyle = cssColour(tools.brushClass);
    drawing.lineWidth = tools.brushSize;
  });
}

function paint([fromX, fromY], [x, y]) {
  view.stroke.beginPath();
  view.stroke.moveTo(fromX, fromY);
  view.stroke.lineTo(x + 0.001, y);
  view.stroke.stroke();
  redraw();
}

function endStroke() {
  const { width, height } = current();
  const mask = alpha(view.stroke, width, height, 128);
  if (mask.some(Boolean)) emit("painted", mask);
  else { view.stroke = null; redraw(); }
}
