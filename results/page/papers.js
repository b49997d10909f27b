// Tables of papers: the measured number above the published one, with a verdict.

import { link } from "page/address.js";
import { ask } from "page/data.js";
import { h, wide } from "page/html.js";
import * as format from "page/format.js";
import { unknown } from "page/suggest.js";

export const title = "Papers";
const MARKS = {
  reproduced: "=", "within interval": "≈", "not reproduced": "≠", "protocol differs": "p",
};
const MEANINGS = {
  reproduced: "reproduced as printed", "within interval": "the published number is in the measured interval",
  "not reproduced": "the published number is outside of the measured interval",
  "protocol differs": "measured under another protocol; see the cell", "not run": "no trial measured it", "other model": "another model stands for the paper's",
};

export async function draw({ name }) {
  const { tables, others } = await ask("papers");
  if (name && !tables[name]) {
    return [h("h1", {}, name), h("div", { class: "empty" },
      others.includes(name) ? h("p", {}, "The store has no number of this table.")
        : unknown("table", name, [...Object.keys(tables), ...others], (near) => link("papers", near)),
      h("p", {}, h("a", { href: link("papers") }, "All tables")))];
  }
  const shown = name ? [[name, tables[name]]] : Object.entries(tables);
  return [
    h("h1", {}, title),
    shown.length ? shown.map(([key, table]) => paper(key, table)) : h("p", { class: "empty" }, "The store has no number of a packaged paper table."),
    name ? null : h("details", {}, h("summary", {}, `${format.plural(others.length, "table")} without a measured number`), h("p", {}, others.join(", "))),
  ];
}

// The grids that fill a table, with what they take as a whole.
function filled({ grids, cost }) {
  if (!grids.length) return " · no packaged grid fills it";
  const takes = cost.hours === null ? "" : `: about ${format.seconds(3600 * cost.hours)} of ${cost.gpus}, at most ${format.seconds(3600 * cost.hours_high)}`;
  return [` · filled by ${grids.length === 1 ? "the grid" : "the grids"} `, h("code", {}, grids.join(", ")), takes];
}

function paper(name, table) {
  const verdicts = Object.entries(table.verdicts).map(([verdict, n]) => h("li", {}, `${MARKS[verdict] ?? ""} ${verdict}: ${format.plural(n, "cell")} (${MEANINGS[verdict] ?? verdict})`));
  return h("section", {}, h("h2", {}, h("a", { href: link("papers", name) }, table.title)),
    h("p", { class: "about" }, h("code", {}, name), table.link ? [" · ", h("a", { href: /^https?:/.test(table.link) ? table.link : null, rel: "noreferrer" }, table.link)] : null, filled(table)),
    table.warnings.map((text) => h("p", { class: "warning" }, text)),
    wide(table.title, h("table", { class: "paper" },
      h("thead", {}, h("tr", {}, table.labels.map((text) => h("th", { scope: "col" }, text)), table.columns.map((text) => h("th", { scope: "col", class: "n" }, text)))),
      h("tbody", {}, table.rows.map((row) => h("tr", {}, row.labels.map((text, i) => (i ? h("td", {}, text) : h("th", { scope: "row" }, text))), row.cells.map(cell)))))),
    h("p", { class: "legend" }, "Measured number first, the published one in parentheses. Bold is the best of its column. † not distinguishable from the best."),
    h("ul", {}, verdicts, table.notes.map((note) => h("li", {}, note))));
}

function cell(one) {
  const mark = `${MARKS[one.verdict] ?? ""}${one.like_best ? "†" : ""}`;
  const interval = one.low === null ? "" : ` 95 % interval ${format.number(one.low, 4)} to ${format.number(one.high, 4)}, ${format.plural(one.seeds, "seed")}.`;
  const measured = one.text === null ? h("span", {}, format.DASH) : h(one.place === 1 ? "b" : "span", {}, one.text);
  return h("td", { class: "n", title: `${one.verdict}${one.reason ? `: ${one.reason}` : ""}.${interval}` }, measured, mark ? h("sup", {}, mark) : null,
    one.published === null ? null : h("small", {}, ` (${one.published})`));
}
