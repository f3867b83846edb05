// After a correction: the segments of all images that look like the corrected one, to accept one by one or all.

import { app, classOf, correct, cropUrl, get, giveClass, tried } from "./api.js";
import { $, dot, el, plural } from "./dom.js";

let round = 0;

/** Hides what is offered. */
export function close() { round++; $("spread").hidden = true; $("spread").replaceChildren(); }

/** Offers the segments like one that has got a class. */
export async function offer(part, id) {
  close();
  if (!app.set.embeddings || id >= app.classes.length) return;
  const mine = round;
  const found = await tried(() => get(`/api/segments/${part.row}/alike`, { class: id, count: 60 }));
  if (!found || mine !== round || !found.segments.length) return;
  draw(found.segments, id);
}

function draw(segments, id) {
  const alike = segments.filter((one) => one.alike), others = segments.filter((one) => !one.alike).slice(0, 30);
  const shown = [...alike, ...others], boxes = shown.map((one) => makeBox(one, () => count()));
  const accept = el("button", { type: "button", class: "primary", id: "accept", onclick: () => take(shown.filter((one, i) => boxes[i].input.checked), id) });
  const toggle = (on) => { boxes.forEach((box, i) => { box.input.checked = on && shown[i].alike; }); count(); };
  const count = () => {
    const n = boxes.filter((box) => box.input.checked).length;
    accept.disabled = n === 0;
    accept.replaceChildren(`Name ${n} `, classOf(id).name, " ", el("kbd", { text: "A" }));
  };
  boxes[alike.length]?.node.classList.toggle("gap", alike.length > 0);
  const title = alike.length ? `${alike.length} more segment${alike.length === 1 ? " looks" : "s look"} like this one` : "The most similar segments, none of them close";
  $("spread").replaceChildren(
    el("header", {}, el("h2", {}, title, " → ", dot(classOf(id)), classOf(id).name), el("span", { class: "sub", text: "with their distances; the nearest first" }), el("span", { class: "spacer" }),
      el("button", { type: "button", class: "plain", onclick: () => toggle(true) }, "All"), el("button", { type: "button", class: "plain", onclick: () => toggle(false) }, "None"), accept,
      el("button", { type: "button", class: "plain icon", "aria-label": "Close", title: "Close (X)", onclick: close }, "×")),
    el("ul", { class: "crops", "aria-label": "Similar segments" }, ...boxes.map((box) => box.node)));
  count();
  $("spread").hidden = false;
}

function makeBox(one, changed) {
  const now = classOf(one.class);
  const input = el("input", { type: "checkbox", checked: one.alike, onchange: changed, "aria-label": `segment ${one.number} of ${one.id}, now ${now.name}, distance ${one.distance}` });
  return { input, node: el("li", { class: "crop" }, el("label", { title: `${one.id}, segment ${one.number}: now ${now.name}` }, el("img", { src: cropUrl(one.row), alt: "", loading: "lazy", decoding: "async" }), input,
    el("span", { class: "text" }, dot(now), el("span", { class: "name", text: now.name }), el("span", { class: "distance", text: one.distance.toFixed(2) })))) };
}

async function take(segments, id) {
  if (!segments.length) return;
  const byImage = new Map();
  for (const one of segments) byImage.set(one.image, [...(byImage.get(one.image) ?? []), one.number]);
  const corrections = [...byImage].map(([image, numbers]) => giveClass(image, numbers, id));
  const text = `${plural(segments.length, "segment")} in ${plural(byImage.size, "image")}: ${classOf(id).name}`;
  if (await correct(corrections, text)) close();
}

/** Accepts what is marked. */
export function acceptAll() { if (!$("spread").hidden) $("accept")?.click(); }
