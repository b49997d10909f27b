// What was planned, and what became of it: a table of methods by ratios per model and task.

import { link } from "page/address.js";
import { ask } from "page/data.js";
import { h, named, wide } from "page/html.js";
import * as format from "page/format.js";
import { go } from "page/address.js";
import { labels } from "page/methods.js";
import { unknown } from "page/suggest.js";

export const title = "Coverage";
const MEANINGS = { done: "✓ done", part: "◐ in part", failed: "✗ failed", unsupported: "n/a unsupported", missing: "○ planned, no row" };

// A cell's state and text; told apart by sign, not by colour alone.
export function state(cell) {
  const left = cell.planned - cell.ok - cell.failed - cell.unsupported;
  if (cell.unsupported === cell.planned) return ["unsupported", "n/a"];
  if (cell.failed) return ["failed", `✗ ${cell.ok}/${cell.planned}`];
  if (cell.ok + cell.unsupported === cell.planned) return ["done", `✓ ${cell.ok}/${cell.planned}`];
  return left === cell.planned ? ["missing", `○ 0/${cell.planned}`] : ["part", `◐ ${cell.ok}/${cell.planned}`];
}

export async function draw({ query }) {
  const all = await ask("coverage");
  const grids = [...new Set(all.map((cell) => cell.grid))];
  const rows = all.filter((cell) => !query.get("grid") || cell.grid === query.get("grid"));
  const groups = Map.groupBy(rows, (cell) => `${cell.model} on ${cell.task}`);
  const choice = h("form", { class: "filters" }, h("label", {}, "Grid ",
    h("select", { id: "filter-grid", onchange: (event) => go({ grid: event.target.value }) },
      h("option", { value: "" }, "all"), grids.map((grid) => h("option", { value: grid, selected: grid === query.get("grid") }, grid)))));
  return [h("h1", {}, title), choice,
    h("p", { class: "legend" }, `${Object.values(MEANINGS).join(", ")}; an empty cell is not planned. Numbers are trials done of those planned.`),
    groups.size ? h("div", { class: "charts" }, [...groups].map(([name, cells]) => section(name, cells)))
      : h("div", { class: "empty" }, query.get("grid") ? unknown("grid", query.get("grid"), grids) : h("p", {}, "No plan is stored."),
        query.get("grid") ? h("p", {}, h("a", { href: link("coverage") }, "Reset filters")) : null)];
}

function section(name, cells) {
  const ratios = [...new Set(cells.map((cell) => cell.ratio))].sort((a, b) => a - b);
  const methods = Map.groupBy(cells, (cell) => cell.method);
  const short = labels([...methods.keys()]);
  return h("section", {}, h("h2", {}, name), wide(`Coverage of ${name}`, h("table", { class: "coverage" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Method"), ratios.map((ratio) => h("th", { scope: "col", class: "n" }, format.share(ratio, 0))))),
    h("tbody", {}, [...methods].map(([method, own]) => h("tr", {}, h("th", { scope: "row", title: method }, named(short.get(method))),
      ratios.map((ratio) => square(own.filter((cell) => cell.ratio === ratio)))))))));
}

function square(cells) {
  if (!cells.length) return h("td", {});
  const sum = (key) => cells.reduce((total, cell) => total + cell[key], 0);
  const [kind, text] = state({ planned: sum("planned"), ok: sum("ok"), failed: sum("failed"), unsupported: sum("unsupported") });
  const trial = kind === "missing" ? null : cells[0].trials[0];
  const reason = kind === "unsupported" || kind === "failed" ? cells[0].reason : null;
  return h("td", { class: `n ${kind}`, title: reason }, trial ? h("a", { href: link("trial", trial) }, text) : text,
    reason ? h("span", { class: "offscreen" }, ` ${reason}`) : null);
}
