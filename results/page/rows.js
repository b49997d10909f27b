// Leaderboards as objects, and the filters that several views share.

import { ask } from "page/data.js";
import { go } from "page/address.js";
import { h } from "page/html.js";
import { unknown } from "page/suggest.js";

const FILTERS = ["model", "task", "metric", "ratio", "grid"];

// Every leaderboard with its rows as objects: { key, model, task, metric, rows: [{ratio, ...}] }.
export async function boards() {
  const answers = await ask("boards");
  return answers.map((board) => ({
    ...board,
    rows: board.rows.map((values) => Object.fromEntries(board.columns.map((name, i) => [name, values[i]]))),
  }));
}

// Boards and rows that the query asks for. Without a metric, those that tasks measure first.
export function chosen(all, query) {
  const wanted = (name, value) => !query.get(name) || query.get(name) === String(value);
  const words = (query.get("method") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
  const metric = query.get("metric");
  // The dense model is beside every selection; alone it does not answer one.
  const narrowed = query.get("ratio") || query.get("grid") || words.length;
  return all
    .filter((board) => wanted("model", board.model) && wanted("task", board.task) && wanted("board", board.key))
    .filter((board) => (metric ? metric === "all" || metric === board.metric : board.main || query.get("board")))
    .map((board) => ({
      ...board,
      rows: board.rows.filter((row) => row.base === "dense"
        || (wanted("ratio", row.ratio)
          && (!query.get("grid") || (row.grids ?? []).includes(query.get("grid")))
          && words.every((word) => row.method.toLowerCase().includes(word)))),
    }))
    .filter((board) => board.rows.some((row) => row.base !== "dense") || !narrowed);
}

// Key of an address -> the values that the leaderboards have.
function values(all) {
  return {
    model: all.map((board) => board.model),
    task: all.map((board) => board.task),
    metric: all.map((board) => board.metric),
    ratio: all.flatMap((board) => board.rows.filter((row) => row.base !== "dense").map((row) => row.ratio)),
    grid: all.flatMap((board) => board.rows.flatMap((row) => row.grids ?? [])),
  };
}

// The form above a view. Each choice goes into the address.
export function filters(all, query, names = FILTERS) {
  const of = values(all);
  const selects = names.map((name) => select(name, of[name], query.get(name) ?? ""));
  const search = h("input", {
    id: "filter-method", type: "search", value: query.get("method") ?? "", autocomplete: "off",
    placeholder: "any", onchange: (event) => go({ method: event.target.value.trim() }),
  });
  const reset = [...query.keys()].length
    ? h("a", { class: "button", href: location.hash.split("?")[0] || "#/" }, "Reset filters")
    : null;
  return h("form", { class: "filters", role: "search", "aria-label": "Filters", onsubmit: (event) => event.preventDefault() },
    selects, h("label", {}, "Method contains ", search), reset);
}

function select(name, values, now) {
  const known = [...new Set(values)];
  known.sort(name === "ratio" ? (a, b) => a - b : undefined);
  const first = name === "metric" ? "primary metrics" : "all";
  const options = [h("option", { value: "" }, first)];
  if (name === "metric") options.push(h("option", { value: "all", selected: now === "all" }, "every metric"));
  for (const value of known) options.push(h("option", { value, selected: String(value) === now }, String(value)));
  const title = name[0].toUpperCase() + name.slice(1);
  return h("label", {}, `${title} `,
    h("select", { id: `filter-${name}`, onchange: (event) => go({ [name]: event.target.value }) }, options));
}

// What stands in place of rows: why there are none, and the way to some.
export function nothing(all, query) {
  if (!all.length) return h("p", { class: "empty" }, "No ranked number yet. A trial that ends adds a row here.");
  const of = (column) => all.flatMap((board) => board.rows.map((row) => row[column]));
  const known = { ...values(all), method: of("method") };
  const wrong = Object.keys(known).filter((key) => query.get(key) && !isKnown(key, query.get(key), known[key]));
  const names = { ...known, method: of("base") };
  return h("div", { class: "empty" },
    wrong.length ? wrong.map((key) => unknown(key, query.get(key), names[key].map(String))) : h("p", {}, "No rows match."),
    h("p", {}, h("a", { href: location.hash.split("?")[0] || "#/" }, "Reset filters")));
}

function isKnown(key, value, known) {
  if (key === "metric" && value === "all") return true;
  if (key !== "method") return known.some((one) => String(one) === value);
  return value.toLowerCase().split(/\s+/).every((word) => known.some((one) => one.toLowerCase().includes(word)));
}
