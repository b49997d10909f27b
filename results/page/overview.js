// The overview: progress of each grid, failures, and what computed the rows.

import { link } from "page/address.js";
import { ask, isLive } from "page/data.js";
import { clock, h, table } from "page/html.js";
import * as format from "page/format.js";

export const title = "Overview";
const PARTS = [["ok", "done"], ["failed", "failed"], ["unsupported", "unsupported"], ["missing", "missing"]];

export async function draw() {
  const data = await ask("overview");
  const { totals } = data;
  return [
    h("h1", {}, title),
    h("p", { class: "about" }, "Store ", h("code", {}, data.store), `, shrinkgrid ${data.version}. Last row: ${totals.newest ?? format.DASH}.`),
    h("dl", { class: "facts" }, fact("Trials", totals.trials.toLocaleString("en")), fact("Done", totals.ok.toLocaleString("en")),
      fact("Failed", totals.failed.toLocaleString("en")), fact("Unsupported", totals.unsupported.toLocaleString("en")), fact("Time of all trials", format.seconds(totals.seconds))),
    data.left_out ? h("p", { class: "warning" }, `${format.plural(data.left_out, "stored number")} cannot be ranked; the SQL view left_out says why.`) : null,
    running(data.running),
    h("section", {}, h("h2", {}, "Grids"), data.grids.length ? data.grids.map(grid) : h("p", { class: "empty" }, "No plan is stored.")),
    failures(data.failures), environments(data.environments),
  ];
}

function fact(name, value) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value));
}

// What runs now. A report is of the past, so that nothing runs in it.
export function running({ runs, trials, now }) {
  if (!isLive || !(runs.length || trials.length)) return null;
  const rows = trials.map((one) => [h("code", {}, one.trial.slice(0, 8)), h("a", { href: link("grid", one.grid) }, one.grid), one.method, one.model, one.task, format.share(one.ratio, 0), one.seed,
    one.host, clock(one.since, now), one.usual === null ? "not known" : format.seconds(one.usual), one.step ?? "", `${one.number} of ${one.of}`]);
  return h("section", {}, h("h2", {}, "Running now"),
    runs.map((run) => h("p", { class: "run" }, h("b", {}, h("a", { href: link("grid", run.grid) }, run.grid)), ` on ${run.host}: `,
      run.total === null ? "starting" : `${run.done.toLocaleString("en")} of ${format.plural(run.total, "trial")} of this run ended`,
      run.left === null ? "" : [", ", h("b", {}, `about ${format.seconds(run.left)} left`)],
      run.done && now > run.since ? `, ${format.number((60 * run.done) / (now - run.since), 2)} per minute` : "", ". Running for ", clock(run.since, now), ".")),
    rows.length ? table("Running trials", ["Trial", "Grid", "Method", "Model", "Task", "Ratio", "Seed", "Host", "Running for", "Usually takes", "Step", "Trial of its bundle"], rows, [5, 6, 8, 9, 11], "cards") : null);
}

function grid(row) {
  return h("div", { class: "grid" }, h("h3", {}, h("a", { href: link("grid", row.grid) }, row.grid ?? "?")), progress(row));
}

export function progress(row) {
  const counts = { ...row, missing: row.planned - row.ok - row.failed - row.unsupported };
  const parts = PARTS.filter(([key]) => counts[key] > 0);
  const text = parts.map(([key, name]) => `${counts[key].toLocaleString("en")} ${name}`).join(", ");
  return [
    h("div", { class: "progress", role: "img", "aria-label": `${text} of ${format.plural(row.planned, "trial")}` },
      parts.map(([key]) => h("i", { class: key, style: `flex-grow:${counts[key]}` }))),
    h("p", {}, `${text} of ${format.plural(row.planned, "planned trial")}. Time of its trials: ${format.seconds(row.seconds)}. Last row: ${row.newest ?? format.DASH}.`)];
}

export function failures(rows) {
  const groups = Map.groupBy(rows, (row) => `${row.error_class ?? row.status}: ${row.reason ?? "no reason is stored"}`);
  const heads = ["Trial", "Status", "Method", "Model", "Task", "Ratio", "Seed", "Tries", "Host", "Started"];
  const cells = (row) => [h("a", { href: link("trial", row.trial) }, row.trial), row.status, row.method, row.model, row.task,
    format.number(row.ratio), row.seed, row.tries, row.host ?? format.DASH, row.started_at ?? format.DASH];
  return h("section", {}, h("h2", {}, "Failures"), rows.length ? [...groups].map(([reason, list]) => h("details", { open: groups.size < 4 },
    h("summary", {}, `${format.plural(list.length, "trial")}: ${reason}`),
    table(`Failed trials: ${reason}`, heads, list.map(cells), [5, 6, 7], "cards"))) : h("p", {}, "No trial failed."));
}

function environments(rows) {
  const commit = (row) => (row.commit ? `${row.commit.slice(0, 10)}${row.dirty ? ", changed" : ""}` : null);
  const cells = rows.map((row) => [row.host, row.device, row.threads, row.dtype, commit(row), row.trials, row.first, row.last].map((cell) => cell ?? format.DASH));
  return h("section", {}, h("h2", {}, "Environments"),
    table("Environments", ["Host", "Device", "Threads", "Type", "Commit", "Trials", "First", "Last"], cells, [2, 5], "cards"));
}
