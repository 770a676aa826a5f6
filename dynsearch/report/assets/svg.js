"use strict";
// Elements, scales and number formats. All text goes through textContent, never innerHTML.

const NS = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    node.append(child.nodeType ? child : document.createTextNode(String(child)));
  }
  return node;
}
const svg = (name, attributes, ...children) =>
  fill(document.createElementNS(NS, name), attributes, children);
const html = (name, attributes, ...children) =>
  fill(document.createElement(name), attributes, children);

// d3-like scales on plain numbers
function logScale(low, high, from, to) {
  const a = Math.log(low), span = Math.log(high) - a || 1;
  const scale = (v) => from + (to - from) * (Math.log(v) - a) / span;
  scale.domain = [low, high];
  return scale;
}
function linearScale(low, high, from, to) {
  const span = high - low || 1;
  const scale = (v) => from + (to - from) * (v - low) / span;
  scale.domain = [low, high];
  return scale;
}
function logTicks(low, high, most) {
  let best = [];
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7],
                       [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9]]) {
    const ticks = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.ceil(Math.log10(high)); k++)
      for (const m of steps) {
        const v = m * 10 ** k;
        if (v >= low * 0.9999 && v <= high * 1.0001) ticks.push(v);
      }
    if (ticks.length <= most || best.length < 2) best = ticks;
  }
  return best;
}
function linearTicks(low, high, most) {
  const raw = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.9999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
    ticks.push(k * step);
  return ticks;
}

const MINUS = "\u2212", DASH = "\u2013";
function digits(value, places = 3) {
  if (value === null || value === undefined) return DASH;
  if (value === 0) return "0";
  let text = value.toPrecision(places);
  if (text.includes("e")) text = String(Number(text));
  return text.replace("-", MINUS);
}
const signed = (share, places = 1) => {
  const text = (share * 100).toFixed(places);
  if (Number(text) === 0) return (0).toFixed(places);
  return (share > 0 ? "+" + text : text.replace("-", MINUS));
};
const percent = (share, places = 1) =>
  share === null || share === undefined ? DASH : (share * 100).toFixed(places) + " %";
const times = (ratio) => ratio ? digits(ratio) + "\u00d7" : DASH;

const UNITS = {
  s: [[1, "s"], [1e-3, "ms"], [1e-6, "\u00b5s"]],
  bytes: [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]],
  j: [[1, "J"], [1e-3, "mJ"], [1e-6, "\u00b5J"]],
  executed: [[1e12, "TFLOP"], [1e9, "GFLOP"], [1e6, "MFLOP"], [1e3, "kFLOP"]],
};
function unitFor(name, value) {
  const steps = UNITS[name.split("_").pop()] || [[1, ""]];
  return steps.find(([size]) => value >= size * 0.9995) || steps[steps.length - 1];
}
function quantity(name, value) {
  if (value === null || value === undefined) return DASH;
  const [size, unit] = unitFor(name, value);
  return `${digits(value / size)} ${unit}`.trim();
}

const SHAPES = {
  full: "M-6-2h4v-4h4v4h4v4h-4v4h-4v-4h-4z",
  truncated: "M-4.6-4.6h9.2v9.2h-9.2z",
  exit: "M0-5.4a5.4 5.4 0 1 0 .01 0z",
  skim: "M0-6.2L5.8 4.4H-5.8z",
  experts: "M0-6.4L5.8 0 0 6.4-5.8 0z",
  "exit+skim": "M0 6.2L5.8-4.4H-5.8z",
  "exit+experts": "M0-6L5.7-1.9 3.5 4.9H-3.5L-5.7-1.9z",
  "skim+experts": "M-3-5.2H3L6 0 3 5.2H-3L-6 0z",
  "exit+skim+experts": "M0-7.2L1.9-2.4 7-2.2 3 1 4.4 6 0 3.1-4.4 6-3 1-7-2.2-1.9-2.4z",
};
const FAMILIES = Object.keys(SHAPES);
const familyColour = (family) =>
  `var(--f-${FAMILIES.includes(family) ? family.replaceAll("+", "-") : "exit"})`;
function symbol(family, x, y, hollow, scale = 1) {
  const colour = familyColour(family);
  return svg("path", {
    d: SHAPES[family] || SHAPES.exit, class: "mark", transform: `translate(${x} ${y}) scale(${scale})`,
    fill: hollow ? "var(--page)" : colour, stroke: hollow ? colour : "var(--page)",
    "stroke-width": hollow ? 1.6 : 0.8,
  });
}
const symbolIcon = (family, hollow) =>
  svg("svg", { width: 15, height: 15, viewBox: "-8 -8 16 16", "aria-hidden": "true" },
      symbol(family, 0, 0, hollow));
