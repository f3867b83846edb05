// The page: sets its parts up, follows the address, and knows the keys.

import { app, emit, get, loadSet, on, tried } from "./api.js";
import { $, el, isTyping, plural, percent } from "./dom.js";
import { setUpFilters } from "./filters.js";
import { setUpGrid } from "./grid.js";
import { setUpNaming } from "./naming.js";
import { focusPicker, pick, setMode, setUpPanel } from "./panel.js";
import { acceptAll, close } from "./spread.js";
import { current, fit, redraw, setUpStage, view, zoom } from "./stage.js";
import { choose, select, setUpTools, size, tools } from "./tools.js";
import { act, leave, next, open, setUpViewer, step } from "./viewer.js";

const KEYS = [
  ["Images", [["← ↑ ↓ →", "move"], ["Enter", "open"], ["/", "find by name"], ["N", "correct next"]]],
  ["Segments", [["click", "select"], ["Shift click", "select several"], ["Enter", "type a class"], ["0 … 9", "give this class"], ["E", "erase: background"], ["M", "merge"], [", .", "segment before, after"]]],
  ["Tools", [["V", "select"], ["L", "split with a lasso"], ["B", "brush"], ["[ ]", "size of the brush"], ["H", "move the image"], ["Z Y", "undo, redo"], ["G", "mark as good"]]],
  ["Similar segments", [["A", "accept those marked"], ["X", "close"]]],
  ["View", [["wheel", "zoom"], ["drag", "move"], ["+ - F", "zoom in, out, fit"], ["O", "outlines"], ["T D C", "masks, difference, confidence"], ["← →", "image before, after"], ["Esc", "clear, back"]]],
];

function route() {
  const found = /^#\/image\/(\d+)(?:\/(\d+))?$/.exec(location.hash);
  if (found) open(Number(found[1]), found[2] && Number(found[2]));
  else { document.title = "segray"; leave(); }
}

function showSet() {
  const set = app.set;
  $("set-name").replaceChildren(el("bdi", { text: set.name }));
  $("set-name").title = set.name;
  const errors = set.progress.errors === null ? "" : ` · ${percent(set.progress.errors, 1)} wrong pixels`;
  $("counts").replaceChildren(el("b", { text: set.corrected.toLocaleString("en") }), ` of ${plural(set.labelled, "image")} corrected${set.good ? ` · ${set.good} good` : ""}${errors}`);
  $("made").textContent = `Labels by ${[set.made.sam && `SAM ${set.made.sam}`, set.made.clip && `CLIP ${set.made.clip}`, set.made.labeller].filter(Boolean).join(" and ")}. Your corrections are signed ${set.who}.`;
}

/** Follows the comparison with masks until it is done; then the grid can sort by it. */
async function follow() {
  const { progress } = app.set;
  if (!progress.total || progress.problem || progress.done >= progress.total) return;
  $("found").title = `comparing: ${progress.done} of ${progress.total}`;
  setTimeout(async () => {
    const before = app.set.progress.done;
    app.set.progress = (await tried(() => get("/api/progress"))) ?? { ...progress, problem: "stopped" };
    showSet();
    if (app.set.progress.done >= progress.total && before < progress.total) emit("query");
    follow();
  }, 1500);
}

function theme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("segray-theme", document.documentElement.dataset.theme);
}

function help() {
  $("help-box").replaceChildren(el("h2", { id: "help-title", text: "Keyboard and mouse" }), el("div", { class: "keys" }, ...KEYS.map(([title, keys]) => el("div", {}, el("h3", { text: title }),
    el("dl", {}, ...keys.flatMap(([key, text]) => [el("dt", {}, ...key.split(" ").map((one) => el("kbd", { text: one }))), el("dd", { text })]))))),
    el("form", { method: "dialog" }, el("button", { class: "primary", autofocus: true }, "Close")));
  $("help-box").showModal();
}

function stepSegment(by) {
  const parts = current()?.parts.length ?? 0;
  if (parts) select(((([...view.selected].at(-1) ?? (by > 0 ? 0 : 1)) - 1 + by + parts) % parts) + 1);
}

function escape() {
  if (!$("spread").hidden) close();
  else if (view.selected.size) select(0);
  else location.hash = "#/";
}

const toggleMode = (name) => setMode(view.mode === name ? "label" : name);
const VIEWER = {
  ArrowLeft: () => step(-1), ArrowRight: () => step(1), Escape: escape, Enter: focusPicker, v: () => choose("select"), l: () => choose("lasso"), b: () => choose("brush"), h: () => choose("pan"),
  e: () => act("erase"), Delete: () => act("erase"), Backspace: () => act("erase"), m: () => act("merge"), g: () => act("good"), z: () => act("undo"), y: () => act("redo"), a: acceptAll, x: close,
  "[": () => size(tools.brushSize - Math.max(1, Math.round(tools.brushSize / 6))), "]": () => size(tools.brushSize + Math.max(1, Math.round(tools.brushSize / 6))),
  ",": () => stepSegment(-1), ".": () => stepSegment(1), "+": () => zoom(1.35), "=": () => zoom(1.35), "-": () => zoom(1 / 1.35), f: fit,
  o: () => { view.outlines = !view.outlines; $("outlines").checked = view.outlines; redraw(); }, t: () => toggleMode("truth"), d: () => toggleMode("difference"), c: () => toggleMode("confidence"),
};

function key(event) {
  const looking = !$("look").hidden, name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ($("help-box").open || isTyping(event.target)) return;
  if (looking && (event.ctrlKey || event.metaKey) && name === "z") { event.preventDefault(); act(event.shiftKey ? "redo" : "undo"); return; }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (name === "?") help();
  else if (name === "n") next();
  else if (!looking && name === "/") { event.preventDefault(); $("text").focus(); }
  else if (looking) viewerKey(event, name);
}

function viewerKey(event, name) {
  const onControl = event.target.matches?.("button, input, summary, a");
  if (onControl && (name === "Enter" || name.startsWith("Arrow"))) return;
  if (/^\d$/.test(name)) pick(Number(name));
  else if (VIEWER[name]) { event.preventDefault(); VIEWER[name](); }
}

async function start() {
  const chosen = localStorage.getItem("segray-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
  // The token is in a cookie from now on, and must not be seen in the address.
  if (location.search) history.replaceState(null, "", location.pathname + location.hash);
  on("set", showSet);
  setUpFilters();
  setUpGrid();
  setUpStage();
  setUpTools();
  setUpPanel();
  setUpViewer();
  setUpNaming();
  $("theme").addEventListener("click", theme);
  $("help").addEventListener("click", help);
  $("next").addEventListener("click", next);
  addEventListener("hashchange", route);
  addEventListener("keydown", key);
  if ((await tried(loadSet)) === undefined && !app.set) return;
  emit("query");
  route();
  follow();
}

start();
