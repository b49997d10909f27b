// Draws charts with Vega-Lite, which runs when the first chart is needed.

import { h } from "page/html.js";
import { isDark } from "page/methods.js";

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
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: ink, tickColor: ink, labelFontSize: 12, titleFontSize: 13, titleFontWeight: 500 },
    title: { color: ink, fontSize: 14, anchor: "start" },
    text: { color: ink, fontSize: 12 }, view: { stroke: null }, legend: { labelColor: ink, titleColor: ink },
  };
}

// A figure that fills itself. `spec` is a Vega-Lite specification without a width;
// `description` says in words what the chart shows; `onclick` gets the clicked row.
export function chart({ title, description, spec, name, height = 320, onclick = null }) {
  const box = h("div", { class: "chart", style: `min-height:${height}px` });
  const links = h("p", { class: "tools" });
  const figure = h("figure", {}, h("figcaption", {}, title), box, links);
  requestAnimationFrame(async () => {
    try {
      const embed = await library();
      const full = { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", height, autosize: { type: "fit", contains: "padding" }, description, config: look(), ...spec };
      // `ast` reads expressions without eval, which the page's policy forbids.
      const { view } = await embed(box, full, { actions: false, ast: true, renderer: "svg", tooltip: { theme: isDark() ? "dark" : "light" } });
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
