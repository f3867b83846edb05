// The panel beside the image: what is selected, its classes, layers, segments and history.

import { app, classOf, emit, on } from "./api.js";
import { $, dot, el, plural } from "./dom.js";
import { DIFFERENCES } from "./layers.js";
import { current, repaint, redraw, view } from "./stage.js";
import { select, tools } from "./tools.js";

const MODES = [["label", "Label"], ["confidence", "Confidence"], ["truth", "Masks"], ["difference", "Difference"], ["none", "None"]];
const VERBS = { name: "named", erase: "erased", merge: "merged", split: "split off", paint: "painted", good: "marked as good", undo: "undid" };
let picker = null;

export function setUpPanel() {
  $("panel").append(el("section", { id: "selection" }), layersBox(), el("section", { id: "parts-box" }), el("section", { id: "history-box" }));
  on("select", (event) => drawSelection(event?.mask ?? null));
  on("tool", () => drawSelection(null));
  on("set", () => { $("mode-truth").disabled = $("mode-difference").disabled = !app.set.truth; });
}

/** Shows an image that was loaded. */
export function showImage() {
  drawSelection(null);
  drawParts();
  drawHistory();
}

/** A class: its colour and its name. */
function className(id) { return [dot(classOf(id)), el("span", { text: classOf(id).name })]; }

export function bars(part, count) {
  const shown = part.similar.slice(0, count), low = Math.min(0, ...shown.map(([, value]) => value)), high = Math.max(0.01, ...shown.map(([, value]) => value));
  return el("div", { class: "bars" }, ...shown.map(([id, value]) => el("div", { class: "bar-row" }, ...className(id),
    el("div", { class: "track" }, el("i", { style: { "--part": `${(100 * (value - low)) / (high - low)}%` } })), el("span", { class: "value", text: value.toFixed(3) }))));
}

function drawSelection(mask) {
  const image = current(), box = $("selection");
  if (!image?.parts) { box.replaceChildren(); return; }
  const parts = [...view.selected].map((place) => image.parts[place - 1]);
  if (tools.name === "brush") { drawBrush(box); return; }
  if (!parts.length) {
    box.replaceChildren(el("h2", { text: "Segment" }), el("p", { class: "hint", text: tools.name === "lasso" ? "Draw around the part of a segment that is something else, then choose its class." : "Click a segment to name it. Shift adds another one." }));
    return;
  }
  const [first] = parts, several = parts.length > 1;
  const title = several ? `${parts.length} segments` : mask ? `Part of segment ${first.number}` : `Segment ${first.number}`;
  box.replaceChildren(
    el("h2", {}, title, el("span", { class: "aside", text: several ? "" : `${first.area.toLocaleString("en")} px` })),
    el("div", { class: "chosen" }, ...className(first.class), first.class !== first.stored ? el("small", { text: `was ${classOf(first.stored).name}` }) : null),
    makePicker(mask ? "Class of this part" : "Class", first.class, (id) => emit(mask ? "split" : "name", { id, mask })),
    several ? null : el("div", {}, el("h2", { style: { "margin-top": "14px" } }, "Similarity to the names", el("span", { class: "aside", text: "cosine" })), bars(first, 6)),
    el("div", { class: "acts" },
      el("button", { type: "button", onclick: () => emit("act", "erase"), title: "Make it background (E)" }, "Erase ", el("kbd", { text: "E" })),
      el("button", { type: "button", disabled: !several, onclick: () => emit("act", "merge"), title: "Make them one segment (M)" }, "Merge ", el("kbd", { text: "M" }))));
}

function drawBrush(box) {
  box.replaceChildren(el("h2", { text: "Brush" }), el("p", { class: "hint", text: "Paints pixels in this class. [ and ] change its size; each stroke is stored, and can be undone." }),
    el("div", { class: "chosen", style: { "margin-top": "10px" } }, ...className(tools.brushClass)),
    makePicker("Paint with", tools.brushClass, (id) => { tools.brushClass = id; drawBrush(box); $("canvas").focus(); }));
}

/** A field to type a class, with the list of those that fit. Digits choose at once. */
function makePicker(label, chosen, choose) {
  const listId = "class-list";
  let active = -1, shown = [];
  const list = el("ul", { role: "listbox", id: listId, "aria-label": label });
  const field = el("input", { type: "text", id: "class-field", role: "combobox", "aria-label": `${label}: type a name`, "aria-controls": listId, "aria-expanded": "true", "aria-autocomplete": "list", placeholder: "Type a class", autocomplete: "off", spellcheck: "false" });
  const draw = () => {
    const text = field.value.trim().toLowerCase();
    shown = [...app.classes, classOf(app.set.ignore)].filter((one) => one.name.toLowerCase().includes(text));
    shown.sort((a, b) => Number(b.name.toLowerCase().startsWith(text)) - Number(a.name.toLowerCase().startsWith(text)));
    active = text && shown.length ? 0 : -1;
    list.replaceChildren(...shown.map((one, i) => el("li", { role: "option", id: `option-${i}`, "aria-selected": i === active, onclick: () => choose(one.id) }, dot(one), el("span", { text: one.name }),
      one.id === chosen ? el("span", { class: "is", text: "now" }) : null, one.id < 10 ? el("kbd", { text: String(one.id) }) : null)));
  };
  const step = (by) => {
    active = (active + by + shown.length) % shown.length;
    [...list.children].forEach((node, i) => node.setAttribute("aria-selected", i === active));
    list.children[active]?.scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", `option-${active}`);
  };
  field.addEventListener("input", draw);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") { event.preventDefault(); step(event.key === "ArrowDown" ? 1 : -1); }
    if (event.key === "Enter" && shown[active]) { event.preventDefault(); choose(shown[active].id); }
    if (event.key === "Escape") { event.stopPropagation(); $("canvas").focus(); }
  });
  draw();
  picker = { field, choose };
  return el("div", { class: "picker" }, field, list);
}

/** Chooses a class by its digit, or opens the field. */
export function pick(id) { if (picker?.field.isConnected && app.classes[id]) picker.choose(id); }
export function focusPicker() { if (picker?.field.isConnected) picker.field.focus(); }

function layersBox() {
  const mode = ([name, text]) => el("label", {}, el("input", { type: "radio", name: "mode", value: name, id: `mode-${name}`, checked: name === view.mode, onchange: () => setMode(name) }), el("span", { text }));
  return el("section", {}, el("h2", { text: "Layers" }), el("div", { class: "layers" },
    el("div", { class: "modes", role: "radiogroup", "aria-label": "What lies over the image" }, ...MODES.map(mode)),
    el("label", { class: "line" }, "Opacity ", el("input", { type: "range", id: "opacity", min: 0, max: 100, value: 100 * view.opacity, oninput: (event) => { view.opacity = event.target.value / 100; redraw(); } })),
    el("label", { class: "line" }, el("input", { type: "checkbox", id: "outlines", checked: view.outlines, onchange: (event) => { view.outlines = event.target.checked; redraw(); } }), "Outlines of segments ", el("kbd", { text: "O" })),
    el("div", { class: "key", id: "difference-key", hidden: true }, ...DIFFERENCES.map(([name, colour]) => el("span", {}, el("i", { class: "dot", style: { "--class": `rgb(${colour.join(",")})` } }), name)))));
}

export function setMode(name) {
  if ($(`mode-${name}`).disabled) return;
  $(`mode-${name}`).checked = true;
  view.mode = name;
  $("difference-key").hidden = name !== "difference";
  emit("mode", name);
  repaint();
}

function drawParts() {
  const parts = current()?.parts ?? [], box = $("parts-box"), open = box.querySelector("details")?.open ?? false;
  box.hidden = !current();
  const rows = parts.map((part, i) => el("li", {}, el("button", { type: "button", onclick: (event) => select(i + 1, event.shiftKey), onfocus: () => { view.hover = i + 1; redraw(); } },
    ...className(part.class), el("span", { class: "aside", text: `${part.number} · ${(part.margin ?? 0).toFixed(2)}` }))));
  box.replaceChildren(el("details", { open }, el("summary", {}, el("b", { text: plural(parts.length, "segment") })), el("ul", { class: "parts", "aria-label": "Segments: class, number, margin" }, ...rows)));
}

function drawHistory() {
  const shown = (current()?.history ?? []).filter((one) => one.kind !== "undo").reverse();
  const box = $("history-box");
  box.hidden = !shown.length;
  box.replaceChildren(el("h2", {}, "Corrections of this image"), el("ul", { class: "history" }, ...shown.map((one) => {
    const what = `${VERBS[one.kind]}${one.class ? ` ${one.class}` : ""}`, when = new Date(one.when);
    return el("li", { title: `${one.who}, ${when.toLocaleString()}` }, el("span", { class: one.undone ? "undone" : "", text: what }), el("span", { class: "aside", text: one.who }),
      one.undone ? null : el("button", { type: "button", "aria-label": `Undo: ${what}`, onclick: () => emit("undo", one) }, "Undo"));
  })));
}
