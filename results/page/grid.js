// One grid: its progress, what runs now, and its bundles on the workers over time.

import { changed, link } from "page/address.js";
import { chart } from "page/chart.js";
import { ask } from "page/data.js";
import { h, table } from "page/html.js";
import * as format from "page/format.js";
import { channels, isDark, labels, looks, swatch } from "page/methods.js";
import { failures, progress, running } from "page/overview.js";
import { unknown } from "page/suggest.js";

export const title = "Grid";
const LANE = 22; // pixels of a worker
const CLOCK = { hours: "%H:%M", minutes: "%H:%M", seconds: "%H:%M:%S", date: "%d %b", day: "%d %b" };
const MOST_PARTS = 4; // charts of the time between long pauses, the newest ones

export async function draw({ name, query }) {
  const [overview, times] = await Promise.all([ask("overview"), ask(`timeline/${name}`)]);
  const row = overview.grids.find((one) => one.grid === name);
  if (!row || !times) {
    return [h("h1", {}, name), h("div", { class: "empty" }, unknown("grid", name, overview.grids.map((one) => one.grid), (near) => link("grid", near)),
      h("p", {}, h("a", { href: link("overview") }, "All grids")))];
  }
  const own = (list) => list.filter((one) => one.grid === name);
  return [
    h("h1", {}, name),
    progress(row),
    h("p", { class: "tools" }, [["board", "Leaderboard"], ["tradeoff", "Trade-offs"], ["coverage", "Coverage"]].map(([view, text]) =>
      h("a", { class: "button", href: link(view, "", { grid: name }) }, text))),
    running({ ...overview.running, runs: own(overview.running.runs), trials: own(overview.running.trials) }),
    workers(times, Boolean(query.get("parts"))),
    failures(own(overview.failures)),
  ];
}

function workers({ grid, bars, hosts }, every) {
  if (!bars.length) return h("section", {}, h("h2", {}, "Workers over time"), h("p", { class: "empty" }, "No trial has started yet."));
  const style = looks([bars.map((bar) => bar.method)]);
  const names = [...new Set(bars.map((bar) => bar.method))];
  const short = labels(names);
  const parts = [...Map.groupBy(bars, (bar) => bar.part).values()].reverse();
  const shown = every ? parts : parts.slice(0, MOST_PARTS);
  const older = parts.length > shown.length
    ? h("p", {}, h("a", { href: changed({ parts: "all" }) }, `Show ${format.plural(parts.length - shown.length, "earlier part")}`)) : null;
  return h("section", {}, h("h2", {}, "Workers over time"),
    shown.map((own, i) => [part(grid, own, style, names), i < parts.length - 1 ? pause(parts[i + 1], own) : null]), older,
    h("p", { class: "legend" }, names.map((method) => h("span", {}, swatch(style.get(method)), `${short.get(method)} `))),
    h("p", { class: "legend" }, "A bar is a bundle: the trials that share a load and a fit. ✗: some of its trials failed. A click opens the first trial."),
    table("Hosts", ["Host", "Device", "Workers", "Busy", "Bundles", "First start", "Last end"], Object.entries(hosts).map(([host, one]) => {
      const mine = bars.filter((bar) => bar.host === host);
      return [host, mine[0].device ?? format.DASH, one.workers, format.share(one.busy, 0), mine.length,
        format.moment(mine[0].start), format.moment(last(mine))];
    }), [2, 3, 4], "cards"));
}

function last(bars) {
  return bars.reduce((latest, bar) => Math.max(latest, bar.stop), 0);
}

// Bars before and after a long pause would be a pixel wide on one axis.
function pause(before, after) {
  return h("p", { class: "pause" }, `⋮ nothing ran for ${format.seconds(after[0].start - last(before))}`);
}

function part(grid, bars, style, names) {
  const points = bars.map((bar) => ({
    ...bar, lane: `${bar.host} ${bar.worker + 1}`, start: bar.start * 1000, stop: Math.max(bar.stop, bar.start + 0.001) * 1000,
    took: format.seconds(bar.stop - bar.start), ended: bar.failed ? `${format.plural(bar.trials, "trial")}, ${bar.failed} failed` : format.plural(bar.trials, "trial"),
  }));
  const lanes = [...new Set(points.map((point) => point.lane))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const x = { field: "start", type: "temporal", scale: { type: "utc" }, title: "time (UTC)", axis: { labelOverlap: true, format: CLOCK } };
  const y = { field: "lane", type: "nominal", scale: { domain: lanes }, title: null, axis: { labelLimit: 180 } };
  const tooltip = [["method", "method"], ["model", "model"], ["ended", "trials"], ["took", "time"]].map(([field, title]) => ({ field, title }));
  const layer = [
    { data: { values: points }, mark: { type: "bar", height: { band: 0.8 }, cornerRadius: 2, strokeWidth: 1.5, cursor: "pointer" }, encoding: { x, x2: { field: "stop" }, y, ...channels(names, style).bar, tooltip } },
    { data: { values: points.filter((point) => point.failed) }, mark: { type: "text", text: "✗", align: "left", dx: 2, color: isDark() ? "#101214" : "#fff", fontWeight: 700 }, encoding: { x, y, tooltip } },
  ];
  return chart({
    title: `Bundles of ${grid} by worker, from ${format.moment(bars[0].start)}`, name: `workers-${grid}-${bars[0].part}`, height: 60 + LANE * Math.max(2, lanes.length),
    description: `${format.plural(bars.length, "bundle")} of ${grid} on ${format.plural(lanes.length, "worker")} over time.`,
    spec: { layer: layer.filter(({ data }) => data.values.length), padding: 8 },
    onclick: (bar) => bar.trial && (location.hash = link("trial", bar.trial)),
  });
}
