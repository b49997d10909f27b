// Trade-offs: quality against a cost, with the front of the best; dense is a line.

import { go, link } from "page/address.js";
import { chart, labelled } from "page/chart.js";
import { h, named } from "page/html.js";
import * as format from "page/format.js";
import { channels, labels, looks } from "page/methods.js";
import { boards, chosen, filters, nothing } from "page/rows.js";
import { unknown } from "page/suggest.js";

export const title = "Trade-offs";
const MOST = 12; // charts of one page
export const COSTS = {
  bytes: "bytes of the saved network", params: "parameters (a masked zero counts)", params_nonzero: "parameters that are not zero",
  macs: "multiply-accumulates for one sample", latency: "milliseconds per batch of images", prefill: "milliseconds per token read", decode: "milliseconds per token written",
};
const OFF_SCALE = 20; // a value this many times worse than dense is drawn at the edge

export async function draw({ query }) {
  const all = await boards();
  const cost = COSTS[query.get("cost")] ? query.get("cost") : "bytes";
  const found = chosen(all, query).filter((board) => board.rows.filter((row) => isNumber(row[cost])).length > 1);
  const style = looks(all.map((board) => board.rows.map((row) => row.method)));
  const form = filters(all, query, ["model", "task", "metric"]);
  form.prepend(h("label", {}, "Cost ", h("select", { id: "filter-cost", onchange: (event) => go({ cost: event.target.value }) },
    Object.entries(COSTS).map(([key, text]) => h("option", { value: key, selected: key === cost }, text)))));
  const asked = query.get("cost");
  const wrong = asked && cost !== asked ? h("div", { class: "empty" }, unknown("cost", asked, Object.keys(COSTS)), h("p", {}, `Shown is ${COSTS[cost]}.`)) : null;
  return [h("h1", {}, title), form, wrong,
    found.length ? h("div", { class: "charts" }, found.slice(0, MOST).map((board) => picture(board, cost, style))) : nothing(all, query),
    found.length > MOST ? h("p", {}, `The first ${MOST} of ${found.length} charts; choose a model or a task to see others.`) : null,
    h("p", { class: "legend" }, "The stepped line joins the measured means that no other one beats in both cost and quality; ± one standard error. A click on a point opens its trial.")];
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

// Rows that no other one beats: none is as good in both and better in one.
export function front(rows, cost, more) {
  const sign = more ? 1 : -1;
  const sorted = [...rows].sort((a, b) => a[cost] - b[cost] || sign * (b.mean - a.mean));
  let best = -Infinity;
  return sorted.filter((row) => sign * row.mean > best && ((best = sign * row.mean), true));
}

// Perplexities and losses span decades: log axis. Far worse than dense is off scale.
export function scaled(board) {
  const dense = board.rows.find((row) => row.base === "dense");
  const log = board.goal === "min" && board.rows.every((row) => row.mean > 0);
  const limit = log && dense ? dense.mean * OFF_SCALE : Infinity;
  return { log, limit, dense };
}

function picture(board, cost, style) {
  const { log, limit, dense } = scaled(board);
  const measured = board.rows.filter((row) => isNumber(row[cost]) && isNumber(row.mean));
  const points = measured.map((row) => ({
    cost: row[cost], value: Math.min(row.mean, limit), off: row.mean > limit, method: row.method, trial: row.trials?.[0] ?? "",
    low: clipped(row.mean - (row.stderr ?? 0), limit, log), high: clipped(row.mean + (row.stderr ?? 0), limit, log),
    shown: format.withError(row.mean, row.stderr), size: format.count(row[cost]), asked: format.share(row.ratio, 0), kept: format.share(row.recovery),
  }));
  const steps = front(measured.filter((row) => row.mean <= limit), cost, board.goal === "max").map((row) => ({ cost: row[cost], value: row.mean }));
  const names = [...new Set(points.map((point) => point.method))];
  const short = labels(names);
  for (const point of points) point.label = short.get(point.method);
  const last = names.filter((name) => name !== "dense").map((name) => points.filter((point) => point.method === name).reduce((a, b) => (b.cost > a.cost ? b : a)));
  const x = { field: "cost", type: "quantitative", title: COSTS[cost], axis: { format: "~s" }, scale: { zero: false, nice: true } };
  const y = { field: "value", type: "quantitative", title: `${board.metric} (${board.goal === "max" ? "higher" : "lower"} is better)`, scale: log ? { type: "log", nice: false, padding: 12 } : { zero: false } };
  const look = channels([...new Set([...names, "dense"])], style);
  const tooltip = [["method", "method"], ["asked", "asked"], ["shown", board.metric], ["kept", "recovery"], ["size", cost]].map(([field, title]) => ({ field, title }));
  const ends = last.map((point) => (point.off ? { ...point, label: `${point.label}, off scale` } : point));
  if (dense) ends.push({ method: "dense", label: "dense", cost: points[0].cost, value: dense.mean, atEdge: true });
  const layer = [
    { data: { values: dense ? [{ value: dense.mean }] : [] }, mark: { type: "rule", strokeDash: [2, 3], color: "#808080" }, encoding: { y } },
    { data: { values: steps }, mark: { type: "line", interpolate: "step-after", strokeWidth: 1.5, strokeDash: [5, 3], color: "#808080" }, encoding: { x, y } },
    { data: { values: points.filter((point) => !point.off) }, mark: { type: "rule" }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, ...look.text } },
    { data: { values: points.filter((point) => point.off && !last.includes(point)) }, mark: { type: "text", text: "off scale", dy: 14 }, encoding: { x, y } },
    ...labelled(ends, { x, y, ...look.text }),
    { data: { values: points }, mark: { type: "point", size: 80, opacity: 1, strokeWidth: 1.5, cursor: "pointer" }, encoding: { x, y, ...look.point, tooltip } },
  ];
  return chart({
    title: [named(board.model), " on ", named(board.task)], name: `tradeoff-${board.key}-${cost}`, height: 340,
    description: `${board.metric} against ${COSTS[cost]} for ${names.join(", ")}. On the front: ${steps.length} of ${points.length} points.`,
    spec: { layer: layer.filter(({ data }) => data.values?.length !== 0), padding: 8 },
    labels: { x: "cost", y: "value" },
    onclick: (point) => point.trial && (location.hash = link("trial", point.trial)),
  });
}

function clipped(value, limit, log) {
  return Math.min(limit, log ? Math.max(value, 1e-9) : value);
}
