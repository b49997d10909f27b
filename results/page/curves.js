// Ratio curves: recovery against the achieved ratio, ± one standard error.

import { link } from "page/address.js";
import { chart, labelled } from "page/chart.js";
import { h, named } from "page/html.js";
import * as format from "page/format.js";
import { channels, labels, looks } from "page/methods.js";
import { ask } from "page/data.js";
import { ranks } from "page/ranks.js";
import { boards, chosen, filters, nothing } from "page/rows.js";

export const title = "Ratio curves";
const MOST = 12;

export async function draw({ query }) {
  const all = await boards();
  const found = chosen(all, query).filter((board) => board.rows.some((row) => row.base !== "dense" && row.recovery !== null));
  const style = looks(all.map((board) => board.rows.map((row) => row.method)));
  return [h("h1", {}, title), filters(all, query, ["model", "task", "metric"]),
    found.length ? h("div", { class: "charts" }, found.slice(0, MOST).map((board) => picture(board, style))) : nothing(all, query),
    found.length > MOST ? h("p", {}, `The first ${MOST} of ${found.length} charts; choose a model or a task to see others.`) : null,
    h("p", { class: "legend" }, "Recovery is the share of the dense model's quality that is kept. The achieved ratio is a share of what each method counts. A click on a point opens its trial."),
    query.size ? null : ranks((await ask("ranks")) ?? [], style)];
}

// The error of a recovery, from that of the mean; the dense number is taken as exact.
export function reach(row) {
  if (!row.stderr || !row.mean || row.recovery === null) return 0;
  return Math.abs((row.recovery * row.stderr) / row.mean);
}

function picture(board, style) {
  const points = board.rows.filter((row) => row.base !== "dense" && row.recovery !== null).map((row) => ({
    ratio: row.achieved ?? row.ratio, kept: row.recovery, low: row.recovery - reach(row), high: row.recovery + reach(row),
    method: row.method, trial: row.trials?.[0] ?? "", shown: format.withError(row.mean, row.stderr), of: format.ratioOf(row.ratio_of),
    keptText: format.share(row.recovery), ratioText: format.share(row.achieved ?? row.ratio),
  }));
  const names = [...new Set(points.map((point) => point.method))];
  const short = labels(names);
  for (const point of points) point.label = short.get(point.method);
  const last = names.filter((name) => name !== "dense").map((name) => points.filter((point) => point.method === name).reduce((a, b) => (b.ratio > a.ratio ? b : a)));
  const x = { field: "ratio", type: "quantitative", title: "achieved ratio: share removed", axis: { format: "~%" }, scale: { zero: false, nice: true } };
  const y = { field: "kept", type: "quantitative", title: `recovery of ${board.metric}`, axis: { format: "~%" }, scale: { zero: false } };
  const look = channels([...names, "dense"], style);
  const tooltip = [["method", "method"], ["ratioText", "achieved"], ["of", "of"], ["keptText", "recovery"], ["shown", board.metric]].map(([field, title]) => ({ field, title }));
  return chart({
    title: [named(board.model), " on ", named(board.task)], name: `curves-${board.key}`, height: 320,
    description: `Recovery of ${board.metric} against the achieved ratio for ${names.join(", ")}.`,
    spec: {
      padding: 8,
      layer: [
        { data: { values: [{ kept: 1 }] }, mark: { type: "rule", strokeDash: [2, 3], color: "#808080" }, encoding: { y } },
        { data: { values: points }, mark: { type: "line" }, encoding: { x, y, ...look.line } },
        { data: { values: points }, mark: { type: "rule" }, encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, ...look.text } },
        ...labelled([...last, { method: "dense", label: "dense", kept: 1, ratio: points[0].ratio, atEdge: true }], { x, y, ...look.text }),
        { data: { values: points }, mark: { type: "point", size: 80, opacity: 1, strokeWidth: 1.5, cursor: "pointer" }, encoding: { x, y, ...look.point, tooltip } },
      ],
    },
    labels: { x: "ratio", y: "kept" },
    onclick: (point) => point.trial && (location.hash = link("trial", point.trial)),
  });
}
