// Draws charts with Vega-Lite, which runs when the first chart is needed.

import { h } from "page/html.js";
import { background, isDark } from "page/methods.js";

const LINE = 13; // pixels of a label
const LETTER = 6.5;
const LETTERS = 28; // of the longest label; a longer one loses its middle
const GAP = 9; // pixels between a point and its label
const ROUNDS = 8;

let ready = null;

function library() {
  // The bundle stands in the page as text, so that pages without a chart never run it.
  ready ??= (async () => {
    const code = document.getElementById("charts").textContent;
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    await import(address);
    URL.revokeObjectURL(address);
    return globalThis.vegaEmbed;
  })();
  return ready;
}

function look() {
  const ink = isDark() ? "#e8e8e8" : "#1a1a1a";
  const line = isDark() ? "#444" : "#d8d8d8";
  return {
    background: null, font: "system-ui, sans-serif",
    axisX: { labelFlush: false },
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: ink, tickColor: ink, labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500 },
    title: { color: ink, fontSize: 14, anchor: "start" },
    text: { color: ink, fontSize: 12 }, view: { stroke: null }, legend: { labelColor: ink, titleColor: ink },
  };
}

// Sets `shift`, how many pixels each label moves down so that none covers another. Labels
// that meet sideways form a column, in which each has a line of its own.
export function apart(places, height) {
  const columns = [];
  for (const place of [...places].sort((a, b) => a.x - b.x)) {
    const last = columns.at(-1);
    const end = place.x + GAP + LETTER * place.length;
    if (last && place.x < last.end) {
      last.places.push(place);
      last.end = Math.max(last.end, end);
    } else columns.push({ places: [place], end });
  }
  for (const { places: column } of columns) {
    column.sort((a, b) => a.y - b.y);
    const line = Math.min(LINE, height / column.length);
    const down = column.map((one) => one.y);
    for (let i = 1; i < down.length; i += 1) down[i] = Math.max(down[i], down[i - 1] + line);
    const up = column.map((one) => one.y);
    for (let i = up.length - 2; i >= 0; i -= 1) up[i] = Math.min(up[i], up[i + 1] - line);
    // Between the two, a column is as far above its points as below them.
    column.forEach((one, i) => {
      const inside = Math.min(height - line * (column.length - 1 - i), Math.max(line * i, (down[i] + up[i]) / 2));
      one.shift = inside - one.y;
    });
  }
}

async function separate(view, fields) {
  const [x, y] = [() => view.scale("x"), () => view.scale("y")];
  // Without the identifier that Vega keeps in a symbol: these are new rows.
  const rows = view.data("labels").map((row) => Object.fromEntries(Object.entries(row)));
  for (const row of rows) if (row.atEdge) row[fields.x] = x().domain().at(-1);
  // A narrower chart moves its points less than its edge: labels need a few rounds to fit.
  for (let i = 0, before = null; i < ROUNDS && before !== view.width(); i += 1) {
    before = view.width();
    const places = rows.map((row) => ({ x: x()(row[fields.x]), y: y()(row[fields.y]), length: row.label.length }));
    apart(places, view.height());
    await view.data("labels", rows.map((row, at) => ({ ...row, shift: places[at].shift }))).resize().runAsync();
  }
}

// The start and the end of a long label: its options stand at the end.
export function cut(label) {
  if (label.length <= LETTERS) return label;
  const half = (LETTERS - 1) / 2;
  return `${label.slice(0, Math.floor(half))}…${label.slice(-Math.ceil(half))}`;
}

// Layers of labels beside points, each with a line to its point; `chart` separates them by
// the fields of x and y that it is given. A row with `atEdge` has its label at the right
// edge: that of a line across the chart.
export function labelled(values, { x, y, ...look }) {
  const rows = values.map((one) => ({ ...one, label: cut(one.label), shift: 0 }));
  const mark = { type: "text", align: "left", baseline: "middle", dx: GAP, dy: { expr: "datum.shift" } };
  const text = { field: "label" };
  return [
    { name: "leaders", data: { name: "labels", values: rows }, mark: { type: "rule", aria: false, x2Offset: GAP - 1, y2Offset: { expr: "datum.shift" } }, encoding: { x, y, x2: { field: x.field }, y2: { field: y.field }, ...look } },
    // A border in the colour of the page keeps a text readable on lines.
    { name: "borders", data: { name: "labels" }, mark: { ...mark, aria: false, fill: background(), stroke: background(), strokeWidth: 3, strokeJoin: "round" }, encoding: { x, y, text } },
    { name: "labels", data: { name: "labels" }, mark, encoding: { x, y, text, ...look } },
  ];
}

// A figure that fills itself. `spec` is a Vega-Lite specification without a width;
// `description` says in words what the chart shows; `onclick` gets the clicked row;
// `labels` names the fields of x and y of the layers that `labelled` made.
export function chart({ title, description, spec, name, height = 320, onclick = null, labels = null }) {
  const box = h("div", { class: "chart", style: `min-height:${height}px` });
  const links = h("p", { class: "tools" });
  const figure = h("figure", {}, h("figcaption", {}, title), box, links);
  requestAnimationFrame(async () => {
    try {
      const embed = await library();
      const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height, autosize: { type: "fit", contains: "padding" }, description, config: look(), ...spec };
      // `ast` reads expressions without eval, which the page's policy forbids.
      const { view } = await embed(box, full, { actions: false, ast: true, renderer: "svg", tooltip: { theme: isDark() ? "dark" : "light" } });
      if (labels) await separate(view, labels);
      const drawing = box.querySelector("svg");
      drawing?.setAttribute("role", "img");
      drawing?.setAttribute("aria-label", description);
      if (onclick) view.addEventListener("click", (_, item) => item?.datum && onclick(item.datum));
      for (const form of ["SVG", "PNG"]) links.append(h("button", { type: "button", onclick: () => save(view, form, name) }, `Download ${form}`));
      figure.dataset.drawn = "yes";
      if (labels) onWidth(box, () => separate(view, labels));
    } catch (why) {
      box.replaceChildren(h("p", { role: "alert" }, `This chart cannot be drawn: ${why.message}`));
    }
  });
  return figure;
}

// Calls `changed` after each change of the width of an element.
function onWidth(node, changed) {
  let width = node.clientWidth;
  new ResizeObserver(() => {
    if (node.clientWidth === width) return;
    width = node.clientWidth;
    changed();
  }).observe(node);
}

async function save(view, form, name) {
  const address = form === "SVG"
    ? URL.createObjectURL(new Blob([await view.toSVG()], { type: "image/svg+xml" }))
    : await view.toImageURL("png", 3);
  h("a", { href: address, download: `${name}.${form.toLowerCase()}` }).click();
}
