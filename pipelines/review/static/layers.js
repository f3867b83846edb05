// An image's layers as pixels: label, confidence, truth, difference, segments and their outlines.

import { app, classOf } from "./api.js";
import { eachPixel, runsOf } from "./rle.js";

const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
export const DIFFERENCES = [["right", [0, 158, 115]], ["wrong class", [213, 94, 0]], ["missed", [86, 180, 233]], ["not there", [204, 121, 167]]];

/** A picture of the server as a bitmap whose values are exact. */
export async function bitmap(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error ?? `status ${response.status}`);
  return createImageBitmap(await response.blob(), { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** The numbers of a map: grey values, or red and green where ids need 16 bits. */
export async function numbers(url) {
  const image = await bitmap(url), wide = app.set.ignore > 255;
  const pixels = context(image.width, image.height, (drawing) => drawing.drawImage(image, 0, 0)).getImageData(0, 0, image.width, image.height).data;
  const values = new Uint16Array(image.width * image.height);
  for (let i = 0; i < values.length; i++) values[i] = wide && !url.includes("confidence") ? (pixels[4 * i] << 8) | pixels[4 * i + 1] : pixels[4 * i];
  return values;
}

export function context(width, height, draw) {
  const canvas = new OffscreenCanvas(width, height);
  const drawing = canvas.getContext("2d", { willReadFrequently: true });
  draw?.(drawing);
  return drawing;
}

/** Which part is on top at each pixel: its place in `parts` plus 1, or 0. The smaller part lies on top. */
export function owners(parts, width, height) {
  const owner = new Uint16Array(width * height);
  const order = parts.map((part, i) => i).sort((a, b) => parts[b].area - parts[a].area || parts[a].score - parts[b].score);
  for (const i of order) eachPixel(runsOf(parts[i].rle), width, height, (pixel) => { owner[pixel] = i + 1; });
  return owner;
}

/** The edges between different numbers, as a path in pixels of the image. `inside` limits them to some numbers. */
export function edges(values, width, height, inside = null) {
  const path = new Path2D(), has = inside ? (value) => inside.has(value) : null;
  const differ = has ? (a, b) => has(a) !== has(b) : (a, b) => a !== b;
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? (has ? -1 : null) : values[y * width + x]);
  for (let y = has ? 0 : 1; y < height + (has ? 1 : 0); y++) {
    let from = -1;
    for (let x = 0; x <= width; x++) {
      const is = x < width && differ(at(x, y - 1), at(x, y));
      if (is && from < 0) from = x;
      if (!is && from >= 0) { path.moveTo(from, y); path.lineTo(x, y); from = -1; }
    }
  }
  for (let x = has ? 0 : 1; x < width + (has ? 1 : 0); x++) {
    let from = -1;
    for (let y = 0; y <= height; y++) {
      const is = y < height && differ(at(x - 1, y), at(x, y));
      if (is && from < 0) from = y;
      if (!is && from >= 0) { path.moveTo(x, from); path.lineTo(x, y); from = -1; }
    }
  }
  return path;
}

/** Pixels of a layer as a canvas: `colour(i)` gives [r, g, b, a] of a pixel, or null. */
function painted(width, height, colour) {
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const one = colour(i);
    if (one) data.data.set(one, 4 * i);
  }
  return context(width, height, (drawing) => drawing.putImageData(data, 0, 0)).canvas;
}

function rgb(colour) { return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)); }

function palette() {
  return app.classes.map((one) => (one.none || one.id === 0 ? null : [...brighter(rgb(one.colour)), 255]));
}

/** Colours of a palette are often too dark to be seen on photographs. */
export function brighter([r, g, b]) {
  const light = 0.3 * r + 0.59 * g + 0.11 * b;
  return light < 60 ? [r, g, b].map((value) => Math.round(value + (255 - value) * 0.28)) : [r, g, b];
}

export const cssColour = (id) => { const one = classOf(id); return one.none ? "#9aa0a6" : `rgb(${brighter(rgb(one.colour)).join(",")})`; };

/** The layer of a mode; null shows nothing. */
export function layer(mode, image) {
  const { width, height, label, confidence, truth } = image, colours = palette(), ignore = app.set.ignore;
  if (mode === "label") return painted(width, height, (i) => colours[label[i]]);
  if (mode === "truth" && truth) return painted(width, height, (i) => colours[truth[i]]);
  if (mode === "confidence" && confidence) return painted(width, height, (i) => (confidence[i] ? ramp(confidence[i] / 255) : null));
  if (mode === "difference" && truth) return painted(width, height, (i) => difference(truth[i], label[i], ignore));
  return null;
}

function ramp(share) {
  const place = Math.min(3.999, share * 4), low = Math.floor(place), part = place - low;
  return [...RAMP[low].map((value, i) => Math.round(value + (RAMP[low + 1][i] - value) * part)), 255];
}

function difference(truth, label, ignore) {
  if (truth === ignore) return [128, 128, 128, 70];
  if (truth === label) return truth ? [...DIFFERENCES[0][1], 80] : null;
  if (!truth) return label === ignore ? null : [...DIFFERENCES[3][1], 255];
  return [...DIFFERENCES[label && label !== ignore ? 1 : 2][1], 255];
}
