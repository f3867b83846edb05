// Background names and threshold: labels follow at once, and the command that makes them so for good is shown.

import { app, emit, get, on, post, tried } from "./api.js";
import { $, el, later, percent } from "./dom.js";

let stored = null, field = null, slider = null;

export function setUpNaming() {
  on("set", () => { $("names").hidden = Boolean(app.set.naming) && !app.set.embeddings; });
  $("names").addEventListener("toggle", () => { if ($("names").open && !stored) load(); });
}

/** CLIP's text side takes seconds to load, so it is asked for only when names are opened. */
async function load() {
  const body = $("names-body");
  if (app.set.naming) { body.replaceChildren(el("p", { class: "note", text: app.set.naming })); return; }
  body.replaceChildren(el("p", { class: "note", text: "Loading the text side of CLIP ..." }));
  const found = await tried(() => get("/api/naming"));
  if (!found) { body.replaceChildren(el("p", { class: "note", text: "Not available." })); return; }
  stored = found;
  draw();
  app.similar = found.key;
  emit("similar");
}

function draw() {
  field = el("textarea", { id: "background", "aria-label": "Background names, one per line or with commas", spellcheck: "false" });
  field.value = stored.background.join(", ");
  slider = el("input", { type: "range", id: "threshold", min: -0.2, max: 0.6, step: 0.005, value: stored.threshold });
  const apply = later(150, change);
  field.addEventListener("input", apply);
  slider.addEventListener("input", () => { $("threshold-value").textContent = Number(slider.value).toFixed(3); apply(); });
  $("names-body").replaceChildren(el("div", { class: "names-form" },
    el("label", { class: "field" }, el("span", {}, "Threshold ", el("output", { id: "threshold-value", text: stored.threshold.toFixed(3) })), slider),
    el("label", { class: "field" }, el("span", { text: "Background names" }), field),
    el("p", { class: "note", id: "names-note", role: "status" }),
    el("div", { id: "names-command" }),
    el("button", { type: "button", onclick: reset }, "Back to the label set's")));
}

function values() {
  return { background: field.value.split(/[,\n]/).map((name) => name.trim()).filter(Boolean), threshold: Number(slider.value) };
}

async function change() {
  const wanted = values(), same = wanted.threshold === stored.threshold && wanted.background.join() === stored.background.join();
  if (same) { use("", "", null); return; }
  const found = await tried(() => post("/api/naming", wanted));
  if (found) use(found.key, `${percent(found.changed, 1)} of all segments change their class. Only this page shows it; to make a label set of it:`, wanted);
}

function use(key, note, wanted) {
  app.names = key;
  $("names-note").textContent = note;
  $("names-command").replaceChildren(...(wanted ? [el("code", { text: command(wanted) })] : []));
  emit("names");
}

function command({ background, threshold }) {
  const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const classes = app.classes.slice(1).map((one) => one.raw).join(",");
  const aliases = Object.keys(stored.aliases).length ? ` label.aliases=${quote(JSON.stringify(stored.aliases))}` : "";
  return `segray relabel labels=${quote(app.set.name)} out=relabelled classes=${quote(classes)} label.threshold=${threshold} label.background_names=${quote(background.join(","))}${aliases}`;
}

function reset() { field.value = stored.background.join(", "); slider.value = stored.threshold; $("threshold-value").textContent = stored.threshold.toFixed(3); change(); }
