// One colour, shape and dash per method, the same in every view.

import { h } from "page/html.js";

// Shapes as Vega draws them, and as paths in a box of 12 by 12 pixels.
const PATHS = {
  circle: "M6 1a5 5 0 1 1 0 10a5 5 0 1 1 0-10z", square: "M1.5 1.5h9v9h-9z", "triangle-up": "M6 1l5 9.5H1z", diamond: "M6 .5L11.5 6L6 11.5L.5 6z",
  "triangle-down": "M6 11L1 1.5h10z", cross: "M4 .5h4V4h3.5v4H8v3.5H4V8H.5V4H4z", "triangle-right": "M11 6L1.5 11V1z", "triangle-left": "M1 6l9.5-5v10z",
};
const SHAPES = Object.keys(PATHS);
const DASHES = [[1, 0], [6, 3], [2, 3], [9, 3, 2, 3]];
const FILLED = [1, 0, 0.4, 0.7]; // share of the colour in the fill of a shape
// At least 3:1 against the background, and told apart by common colour blindness.
const LIGHT = ["#0072b2", "#c44e00", "#00795a", "#a3468a", "#7a6200", "#5646b5", "#a8242c", "#33717f"];
const DARK = ["#56b4e9", "#ff9e5e", "#3cc79c", "#e59bc9", "#dbbd4a", "#a99eff", "#ff8f8f", "#80d2df"];

export function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

export function colours() {
  return isDark() ? DARK : LIGHT;
}

// The colour of the page, which a shape that is not filled shows.
export function background() {
  return isDark() ? "#15171a" : "#ffffff";
}

function mixed(colour, share) {
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const paper = parts(background());
  return `rgb(${parts(colour).map((part, i) => Math.round(share * part + (1 - share) * paper[i])).join(", ")})`;
}

// Label -> { colour, shape, dash, fill }; dense is grey. `groups` has the labels of each
// chart: those of one chart get different colours as long as there are some. Labels of one
// colour differ in their shape, in their dash, and in how much of the shape is filled.
export function looks(groups) {
  const known = colours();
  const near = new Map();
  for (const group of groups.map((list) => new Set(list))) {
    for (const label of group) near.set(label, (near.get(label) ?? new Set()).union(group));
  }
  const used = known.map(() => 0);
  const hues = new Map();
  const found = new Map([["dense", plain(isDark() ? "#b0b0b0" : "#595959")]]);
  for (const label of [...near.keys()].filter((one) => one !== "dense").sort()) {
    const beside = known.map(() => 0);
    for (const other of near.get(label)) if (hues.has(other)) beside[hues.get(other)] += 1;
    const hue = known.map((_, i) => i).reduce((a, b) => (beside[b] - beside[a] || used[b] - used[a]) < 0 ? b : a);
    const round = used[hue];
    used[hue] += 1;
    hues.set(label, hue);
    found.set(label, {
      colour: known[hue], shape: SHAPES[(hue + round) % SHAPES.length], dash: DASHES[round % DASHES.length],
      fill: mixed(known[hue], FILLED[round % FILLED.length]),
    });
  }
  return found;
}

function plain(colour) {
  return { colour, shape: "circle", dash: DASHES[0], fill: colour };
}

// The channels of Vega-Lite that draw the `names` of one chart as they look.
export function channels(names, style) {
  const channel = (key) => ({ field: "method", type: "nominal", legend: null, scale: { domain: names, range: names.map((name) => (style.get(name) ?? plain("#808080"))[key]) } });
  const [color, shape, strokeDash, fill] = ["colour", "shape", "dash", "fill"].map(channel);
  return { text: { color }, line: { color, strokeDash }, point: { stroke: color, fill, shape }, bar: { stroke: color, fill, strokeDash } };
}

// The mark of a method beside its name, and its bar in the legend of a chart of bars.
export function symbol(look) {
  const { colour, shape, fill } = look ?? plain("#808080");
  return h("svg", { class: "symbol", viewBox: "-1 -1 14 14", "aria-hidden": "true" }, h("path", { d: PATHS[shape], fill, stroke: colour, "stroke-width": 1.5 }));
}

export function swatch({ colour, dash, fill }) {
  return h("svg", { class: "symbol", viewBox: "0 0 14 14", "aria-hidden": "true" },
    h("rect", { x: 1, y: 1, width: 12, height: 12, fill, stroke: colour, "stroke-width": 2, "stroke-dasharray": dash.join(" ") }));
}

// Label -> the method with the options that tell its labels apart, as results/text/labels.py
// has it. A chain of methods stays whole.
export function labels(names) {
  const words = (name) => (name.includes(" + ") ? [name] : name.split(" "));
  return new Map(names.map((name) => {
    const [first, ...options] = words(name);
    let rivals = [...new Set(names)].map(words).filter((other) => other[0] === first);
    const kept = options.filter((option) => {
      const left = rivals.filter((other) => other.includes(option));
      const tells = left.length < rivals.length;
      rivals = left;
      return tells;
    });
    return [name, [first, ...kept].join(" ")];
  }));
}
