// What is left of each layer of a network: a map of its blocks, or a bar for each layer.

import { go } from "page/address.js";
import { chart } from "page/chart.js";
import { h, table } from "page/html.js";
import * as format from "page/format.js";
import { isDark } from "page/methods.js";

// name -> heading, what it means, and how a value reads
const MEASURES = {
  rank: ["Rank", "Width between the two factors that the layer is stored as", (v) => format.number(v)],
  kept: ["Parameters kept", "Parameters of the layer, of those in the dense network; a basis that several layers share is divided between them", (v) => format.share(v)],
  sparsity: ["Zeros", "Share of the layer's parameters that are zero", (v) => format.share(v)],
  bits: ["Bits per weight", "Stored bits of the layer for each parameter of the dense one, scales included", (v) => format.number(v)],
};
const AXIS = { kept: "%", sparsity: "%" }; // number formats of axes and legends
const ROW = 26; // pixels of a role or a layer
const MOST_TEXTS = 14; // blocks in whose cells a number has room

// `asked` is the measure that the address names.
export function layers({ layers: map, trial, method }, asked) {
  if (!map) return null;
  const known = Object.keys(MEASURES).filter((name) => map[name]);
  // A map of equal cells says little: the first one that differs is shown.
  const measure = known.includes(asked) ? asked : known.find((name) => new Set(map[name]).size > 1) ?? known[0];
  const [heading, meaning, show] = MEASURES[measure];
  const cells = map.name.map((name, i) => ({
    name, block: map.block[i], value: map[measure][i], shown: map[measure][i] === null ? format.DASH : show(map[measure][i]),
  }));
  const blocks = cells.every((cell) => cell.block !== null);
  const measured = cells.filter((cell) => cell.value !== null).map((cell) => cell.value);
  const [low, high] = [Math.min(...measured), Math.max(...measured)];
  const select = h("select", { id: "map", onchange: (event) => go({ map: event.target.value }) },
    known.map((name) => h("option", { value: name, selected: name === measure }, MEASURES[name][0])));
  const figure = chart({
    title: `${heading} by ${blocks ? "block and role" : "layer"}`, name: `${trial}-${measure}`,
    height: 60 + ROW * new Set(map.name).size,
    description: `${heading} of ${format.plural(cells.length, "layer")} of ${method}: from ${show(low)} to ${show(high)}.`,
    spec: blocks ? heat(cells, heading, [low, high], AXIS[measure]) : bars(cells, heading, AXIS[measure]),
  });
  return h("section", {}, h("h2", {}, "Layers"),
    h("form", { class: "filters" }, h("label", {}, "Show ", select)),
    figure, h("p", { class: "legend" }, `${meaning}.${map.layers.some((n) => n > 1) ? " The experts of a block are one cell." : ""}`),
    h("details", {}, h("summary", {}, `${heading} as a table`), blocks ? matrix(cells, heading) : table(heading, ["Layer", heading], cells.map((cell) => [cell.name, cell.shown]), [1])));
}

function tooltip(heading) {
  return [{ field: "name", title: "layer" }, { field: "block", title: "block" }, { field: "shown", title: heading.toLowerCase() }];
}

function heat(cells, heading, [low, high], form) {
  const names = [...new Set(cells.map((cell) => cell.name))];
  const count = new Set(cells.map((cell) => cell.block)).size;
  const x = { field: "block", type: "ordinal", title: "block", axis: { labelAngle: 0, labelOverlap: true } };
  const y = { field: "name", type: "nominal", title: null, scale: { domain: names } };
  // From the background to the ink of the page: more is darker in light mode, lighter in dark mode.
  const range = isDark() ? ["#26323c", "#8fd0ff"] : ["#e3eef7", "#00497a"];
  const colour = { field: "value", type: "quantitative", title: heading, scale: { range, domain: low < high ? [low, high] : [0, high || 1] }, legend: { orient: "bottom", gradientLength: 160, format: form } };
  const middle = low < high ? (low + high) / 2 : high / 2;
  const [few, many] = isDark() ? ["#ececec", "#101214"] : ["#1a1a1a", "#ffffff"];
  const layer = [{ mark: { type: "rect", stroke: isDark() ? "#15171a" : "#ffffff" }, encoding: { x, y, color: colour, tooltip: tooltip(heading) } }];
  if (count <= MOST_TEXTS) {
    layer.push({ mark: { type: "text", fontSize: 11 }, encoding: { x, y, text: { field: "shown" }, tooltip: tooltip(heading),
      color: { condition: { test: `datum.value > ${middle}`, value: many }, value: few } } });
  }
  return { data: { values: cells }, layer };
}

function bars(cells, heading, form) {
  const names = cells.map((cell) => cell.name);
  const x = { field: "value", type: "quantitative", title: heading, scale: { zero: true }, axis: { format: form } };
  const y = { field: "name", type: "nominal", title: null, scale: { domain: names }, axis: { labelLimit: 240 } };
  const layer = [
    { mark: { type: "bar", height: { band: 0.7 }, color: isDark() ? "#56b4e9" : "#0072b2" }, encoding: { x, y, tooltip: tooltip(heading).filter(({ field }) => field !== "block") } },
    { mark: { type: "text", align: "left", dx: 4 }, encoding: { x, y, text: { field: "shown" } } },
  ];
  return { data: { values: cells }, layer, padding: { left: 8, top: 8, bottom: 8, right: 48 } };
}

function matrix(cells, heading) {
  const names = [...new Set(cells.map((cell) => cell.name))];
  const blocks = [...new Set(cells.map((cell) => cell.block))];
  const at = new Map(cells.map((cell) => [`${cell.block} ${cell.name}`, cell.shown]));
  return table(heading, ["Block", ...names], blocks.map((block) => [block, ...names.map((name) => at.get(`${block} ${name}`) ?? "")]), names.map((_, i) => i + 1));
}
