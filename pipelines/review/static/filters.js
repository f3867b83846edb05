// The filters beside the grid; they are the query that the grid shows.

import { app, emit, on } from "./api.js";
import { $, dot, el, later } from "./dom.js";

const RANGES = [
  ["confidence", "Confidence", 0, 1, () => true],
  ["margin", "Margin to the second class", 0, 0.5, () => true],
  ["errors", "Errors against the masks", 0, 1, (set) => set.truth],
  ["disagreement", "Disagreement", 0, 1, (set) => set.compare],
];
const SORTS = [
  ["next", "what gains most first", (set) => set.next], ["id", "name", () => true],
  ["confidence", "least confident first", () => true], ["-confidence", "most confident first", () => true],
  ["margin", "smallest margin first", () => true], ["-errors", "most errors first", (set) => set.truth],
  ["-disagreement", "most different first", (set) => set.compare], ["-segments", "most segments first", () => true],
  ["-corrected", "last corrected first", () => true],
];
const ranges = new Map();
const chosen = new Set();

/** The query of the filters, as the server reads it. */
export function query() {
  const values = { text: $("text").value.trim(), state: $("state").value, sort: $("sort").value, classes: [...chosen].join(",") };
  for (const [name, range] of ranges) if (range.text()) values[name] = range.text();
  return values;
}

export function setUpFilters() {
  const changed = later(120, () => emit("query"));
  on("set", draw);
  $("filters").addEventListener("input", changed);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", () => { chosen.clear(); for (const range of ranges.values()) range.reset(); setTimeout(() => { draw(); emit("query"); }); });
  $("sort").addEventListener("change", () => emit("query"));
}

function draw() {
  const set = app.set;
  if (!$("sort").options.length) {
    for (const [value, text, fits] of SORTS) if (fits(set)) $("sort").append(el("option", { value, text }));
    for (const [name, text, low, high, fits] of RANGES) if (fits(set)) ranges.set(name, makeRange(name, text, low, high));
    $("ranges").append(...[...ranges.values()].map((range) => range.node));
  }
  $("class-filter").replaceChildren(...app.classes.filter((one) => !one.none).map((one) => el("label", { class: "check" },
    el("input", { type: "checkbox", checked: chosen.has(one.id), onchange: (event) => (event.target.checked ? chosen.add(one.id) : chosen.delete(one.id)) }),
    dot(one), el("span", { class: "label", text: one.name }), el("span", { class: "count", text: set.counts[one.id].toLocaleString("en") }))));
}

function makeRange(name, text, low, high) {
  const step = (high - low) / 100;
  const make = (value, which) => el("input", { type: "range", min: low, max: high, step, value, "aria-label": `${text}, ${which}` });
  const from = make(low, "from"), to = make(high, "to"), output = el("output");
  const two = el("div", { class: "two" }, el("div", { class: "span" }), from, to);
  const show = () => {
    if (Number(from.value) > Number(to.value)) from.value = to.value;
    const share = (value) => `${(100 * (value - low)) / (high - low)}%`;
    two.style.setProperty("--low", share(from.value));
    two.style.setProperty("--high", share(to.value));
    output.textContent = isWhole() ? "any" : `${Number(from.value).toFixed(2)} to ${Number(to.value).toFixed(2)}`;
  };
  const isWhole = () => Number(from.value) <= low && Number(to.value) >= high;
  two.addEventListener("input", show);
  show();
  return {
    node: el("div", { class: "range" }, el("div", { class: "head" }, el("span", { class: "name", text }), output), two),
    // At its ends a range is open: margins, for one, may lie beyond.
    text: () => (isWhole() ? "" : `${Number(from.value) <= low ? "" : from.value},${Number(to.value) >= high ? "" : to.value}`),
    reset: () => { from.value = low; to.value = high; show(); },
  };
}
