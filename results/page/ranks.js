// Critical difference diagrams: mean ranks over leaderboards, and which are told apart.

import { chart } from "page/chart.js";
import { h } from "page/html.js";
import * as format from "page/format.js";
import { channels, isDark, labels } from "page/methods.js";

const LINE = 26; // pixels of a method

// One section for all diagrams; null where no ratio has several methods and boards.
export function ranks(diagrams, style) {
  if (!diagrams.length) return null;
  return h("section", {}, h("h2", {}, "Mean ranks over leaderboards"),
    h("div", { class: "charts" }, diagrams.map((one) => diagram(one, style))),
    h("p", { class: "legend" }, "The best method of a leaderboard has rank 1; the mean is over leaderboards that measured all of the methods shown. Methods that a grey bar joins are not distinguishable: their ranks differ by less than the critical difference of Nemenyi's test at 5 % (Demsar 2006). p is that of Friedman's test that all methods are equal, for two methods that of Wilcoxon's signed ranks. Methods that stand on other leaderboards only are left out."));
}

function diagram({ ratio, boards, methods, critical_difference: reach, p_value: p, groups }, style) {
  const names = methods.map(({ method }) => method);
  const short = labels(names);
  const points = methods.map((one) => ({ ...one, label: short.get(one.method), shown: format.number(one.rank) }));
  // The bars stand left of rank 1, one beside the other.
  const bars = groups.map(([first, last], i) => ({ x: 0.85 - 0.12 * (groups.length - 1 - i), from: short.get(names[first]), to: short.get(names[last]) }));
  const x = { field: "rank", type: "quantitative", title: "mean rank (1 is best)", scale: { domain: [0.8 - 0.12 * groups.length, names.length + 0.2], nice: false }, axis: { values: names.map((_, i) => i + 1), format: "d" } };
  const y = { field: "label", type: "nominal", scale: { domain: points.map((point) => point.label) }, title: null, axis: { labelLimit: 220 } };
  const layer = [
    { data: { values: bars }, mark: { type: "rule", strokeWidth: 5, color: isDark() ? "#9aa0a6" : "#70757a" }, encoding: { x: { ...x, field: "x" }, y: { ...y, field: "from" }, y2: { field: "to" } } },
    { data: { values: points }, mark: { type: "point", size: 90, opacity: 1, strokeWidth: 1.5 }, encoding: { x, y, ...channels(names, style).point, tooltip: [{ field: "method" }, { field: "shown", title: "mean rank" }] } },
    { data: { values: points }, mark: { type: "text", align: "left", dx: 9 }, encoding: { x, y, text: { field: "shown" } } },
  ];
  return chart({
    title: `Ratio ${format.share(ratio, 0)}: ${format.plural(boards.length, "leaderboard")}, critical difference ${format.number(reach)}, p = ${format.number(p, 2)}`,
    name: `ranks-${ratio}`, height: 50 + LINE * names.length,
    description: `Mean ranks at ratio ${format.share(ratio, 0)} over ${boards.join(", ")}: ${points.map((one) => `${one.method} ${one.shown}`).join(", ")}. Not distinguishable: ${groups.map(([first, last]) => names.slice(first, last + 1).join(" and ")).join("; ") || "none"}.`,
    spec: { layer: layer.filter(({ data }) => data.values.length), padding: 8 },
  });
}
