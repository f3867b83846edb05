// The canvas of the viewer: draws the layers, zooms and pans, and says which pixel is under the pointer.

import { $, percent } from "./dom.js";
import { cssColour, edges, layer } from "./layers.js";

export const view = { scale: 1, x: 0, y: 0, mode: "label", opacity: 0.55, outlines: true, hover: 0, selected: new Set(), lasso: null, brush: null, stroke: null };
let image = null, painted = null, all = null, marked = null, scheduled = false;

export function setUpStage() {
  new ResizeObserver(() => { if (image) { keepInView(); redraw(); } }).observe($("canvas-box"));
  $("canvas").addEventListener("wheel", wheel, { passive: false });
  $("zoom-in").addEventListener("click", () => zoom(1.35));
  $("zoom-out").addEventListener("click", () => zoom(1 / 1.35));
  $("zoom-fit").addEventListener("click", fit);
}

/** Shows an image's layers; null: nothing. */
export function setImage(value, { keepView = false } = {}) {
  image = value;
  painted = all = null;
  view.hover = 0;
  if (image && !keepView) fit();
  mark();
}

export function current() { return image; }
export function repaint() { painted = null; redraw(); }

/** Selected parts have changed. */
export function mark() {
  marked = image && view.selected.size ? edges(image.owner, image.width, image.height, view.selected) : null;
  redraw();
}

export function redraw() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(() => { scheduled = false; draw(); });
}

export function fit() {
  if (!image) return;
  const { clientWidth, clientHeight } = $("canvas-box"), margin = 36;
  view.scale = Math.min((clientWidth - margin) / image.width, (clientHeight - margin) / image.height, 24);
  view.x = (clientWidth - image.width * view.scale) / 2;
  view.y = (clientHeight - image.height * view.scale) / 2;
  redraw();
}

export function zoom(factor, x = $("canvas-box").clientWidth / 2, y = $("canvas-box").clientHeight / 2) {
  const scale = Math.min(64, Math.max(0.02, view.scale * factor)), by = scale / view.scale;
  view.x = x - (x - view.x) * by;
  view.y = y - (y - view.y) * by;
  view.scale = scale;
  keepInView();
  redraw();
}

export function pan(x, y) { view.x += x; view.y += y; keepInView(); redraw(); }

function keepInView() {
  const { clientWidth, clientHeight } = $("canvas-box"), rest = 60;
  view.x = Math.min(clientWidth - rest, Math.max(rest - image.width * view.scale, view.x));
  view.y = Math.min(clientHeight - rest, Math.max(rest - image.height * view.scale, view.y));
}

function wheel(event) {
  if (!image) return;
  event.preventDefault();
  if (event.shiftKey) { pan(-event.deltaY, 0); return; }
  const [x, y] = [event.offsetX, event.offsetY];
  zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : event.ctrlKey ? 0.01 : 0.0016)), x, y);
}

/** The image's pixel under a pointer, with fractions. */
export function pixelAt(event) {
  const box = $("canvas").getBoundingClientRect();
  return [(event.clientX - box.left - view.x) / view.scale, (event.clientY - box.top - view.y) / view.scale];
}

/** The place in `parts` plus 1 at a pixel; 0: none. */
export function partAt([x, y]) {
  if (!image || x < 0 || y < 0 || x >= image.width || y >= image.height) return 0;
  return image.owner[Math.floor(y) * image.width + Math.floor(x)];
}

function draw() {
  const canvas = $("canvas"), ratio = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const drawing = canvas.getContext("2d");
  drawing.setTransform(1, 0, 0, 1, 0, 0);
  drawing.clearRect(0, 0, width, height);
  if (!image) return;
  drawing.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
  drawing.imageSmoothingEnabled = view.scale < 4;
  drawing.imageSmoothingQuality = "high";
  if (image.photo) drawing.drawImage(image.photo, 0, 0, image.width, image.height);
  else { drawing.fillStyle = "#888"; drawing.fillRect(0, 0, image.width, image.height); }
  drawOverlay(drawing);
  drawLines(drawing);
  drawTools(drawing);
  $("zoom-level").textContent = percent(view.scale);
}

function drawOverlay(drawing) {
  painted ??= view.mode === "none" ? null : layer(view.mode, image);
  drawing.imageSmoothingEnabled = false;
  drawing.globalAlpha = view.mode === "label" || view.mode === "truth" ? view.opacity : Math.min(1, view.opacity + 0.25);
  if (painted) drawing.drawImage(painted, 0, 0);
  drawing.globalAlpha = 1;
}

function stroke(drawing, path, colour, width) {
  drawing.lineWidth = width / view.scale;
  drawing.strokeStyle = colour;
  drawing.stroke(path);
}

function drawLines(drawing) {
  drawing.lineCap = "square";
  if (view.outlines) {
    all ??= edges(image.owner, image.width, image.height);
    stroke(drawing, all, "rgba(0, 0, 0, .35)", 2);
    stroke(drawing, all, "rgba(255, 255, 255, .7)", 1);
  }
  if (view.hover && !view.selected.has(view.hover)) {
    image.hovered ??= new Map();
    if (!image.hovered.has(view.hover)) image.hovered.set(view.hover, edges(image.owner, image.width, image.height, new Set([view.hover])));
    stroke(drawing, image.hovered.get(view.hover), "rgba(0, 0, 0, .55)", 4);
    stroke(drawing, image.hovered.get(view.hover), "#fff", 2);
  }
  if (marked) {
    stroke(drawing, marked, "rgba(0, 0, 0, .8)", 6);
    stroke(drawing, marked, "#fff", 3.5);
    stroke(drawing, marked, "#12b398", 2);
  }
}

function drawTools(drawing) {
  if (view.stroke) drawing.drawImage(view.stroke.canvas, 0, 0);
  if (view.lasso?.length) {
    const path = new Path2D();
    view.lasso.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
    if (view.lasso.closed) { path.closePath(); drawing.fillStyle = "rgba(18, 179, 152, .25)"; drawing.fill(path); }
    stroke(drawing, path, "rgba(0, 0, 0, .7)", 4);
    stroke(drawing, path, "#fff", 2);
  }
  if (view.brush) {
    const circle = new Path2D();
    circle.arc(view.brush.x, view.brush.y, view.brush.radius, 0, 2 * Math.PI);
    stroke(drawing, circle, "rgba(0, 0, 0, .7)", 3.5);
    stroke(drawing, circle, cssColour(view.brush.class), 2);
  }
}
