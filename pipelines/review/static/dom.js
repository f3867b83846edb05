// Elements, and messages to the person.

export const $ = (id) => document.getElementById(id);

/** An element; `on...` keys are listeners, `style` sets CSS variables and properties, others attributes. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    else if (name === "text") node.textContent = value;
    else if (name in node && typeof value === "boolean") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An icon of the toolbox: SVG from path data. */
export function icon(...paths) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  for (const data of paths) {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", data);
    svg.append(path);
  }
  return svg;
}

export function dot(one) {
  return el("i", { class: one && !one.none ? "dot" : "dot none", style: { "--class": one ? one.colour : "transparent" } });
}

export function toast(text, { error = false, action = null, run = null } = {}) {
  const node = el("div", { class: error ? "toast error" : "toast" }, text);
  if (action) node.append(el("button", { type: "button", onclick: () => { node.remove(); run(); } }, action));
  $("toasts").append(node);
  setTimeout(() => node.remove(), error ? 9000 : 5000);
  while ($("toasts").children.length > 3) $("toasts").firstChild.remove();
}

export const percent = (share, digits = 0) => (share === null || share === undefined ? "-" : `${(100 * share).toFixed(digits)} %`);
export const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;

/** Calls `work` once, some milliseconds after the last call. */
export function later(milliseconds, work) {
  let timer = 0;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => work(...values), milliseconds); };
}

export const isTyping = (target) => target.matches?.("input:not([type=range],[type=checkbox],[type=radio]), textarea, select");
