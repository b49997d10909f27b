// Draws charts with Vega-Lite, which runs when the first chart is needed.

import { h } from "page/html.js";
import { isDark } from "page/methods.js";

const LINE = 13; // pixels of a label
const LETTER = 6.5;
const LETTERS = 28; // of the longest label, which is cut off behind them
const ROUNDS = 3;

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
    const end = place.x + 8 + LETTER * place.length;
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
  if (!fields) return;
  // A narrower chart moves its points less than its edge: labels need a few rounds to fit.
  for (let i = 0; i < ROUNDS; i += 1) await view.resize().runAsync();
  const points = view.data("labels");
  const [x, y] = [view.scale("x"), view.scale("y")];
  const places = points.map((point) => ({ x: x(point[fields.x]), y: y(point[fields.y]), length: Math.min(LETTERS, point.label.length) }));
  apart(places, view.height());
  // Without the identifier that Vega keeps in a symbol: these are new rows.
  const moved = points.map((point, i) => Object.fromEntries([...Object.entries(point), ["shift", places[i].shift]]));
  view.data("labels", moved);
  await view.runAsync();
}

// The layer of labels; `chart` separates them by the fields of x and y that it is given.
export function labelled(values, encoding) {
  const mark = { type: "text", align: "left", dx: 8, dy: { expr: "(datum.shift || 0) - 8" }, limit: LETTERS * LETTER };
  return { data: { name: "labels", values: values.map((one) => ({ ...one, shift: 0 })) }, mark, encoding: { ...encoding, text: { field: "label" } } };
}

// A figure that fills itself. `spec` is a Vega-Lite specification without a width;
// `description` says in words what the chart shows; `onclick` gets the clicked row;
// `labels` names the fields of x and y of the layer that `labelled` made.
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
      await separate(view, labels);
      const drawing = box.querySelector("svg");
      drawing?.setAttribute("role", "img");
      drawing?.setAttribute("aria-label", description);
      if (onclick) view.addEventListener("click", (_, item) => item?.datum && onclick(item.datum));
      for (const form of ["SVG", "PNG"]) links.append(h("button", { type: "button", onclick: () => save(view, form, name) }, `Download ${form}`));
      figure.dataset.drawn = "yes";
    } catch (why) {
      box.replaceChildren(h("p", { role: "alert" }, `This chart cannot be drawn: ${why.message}`));
    }
  });
  return figure;
}

async function save(view, form, name) {
  const address = form === "SVG"
    ? URL.createObjectURL(new Blob([await view.toSVG()], { type: "image/svg+xml" }))
    : await view.toImageURL("png", 3);
  h("a", { href: address, download: `${name}.${form.toLowerCase()}` }).click();
}
