// One trial: its settings, numbers, curve, samples, failure, and how to run it again.

import { link } from "page/address.js";
import { chart } from "page/chart.js";
import { comparing } from "page/compare.js";
import { ask, isLive } from "page/data.js";
import { copyButton, h, named, table } from "page/html.js";
import * as format from "page/format.js";
import { layers } from "page/layers.js";

export const title = "Trial";
const FACTS = {
  host: "Host", device: "Device", threads: "Threads", dtype: "Type of numbers", placement: "Placement", node: "Node", commit: "Commit",
  dirty: "Changed since the commit", code_digest: "Digest of the code", started_at: "Started", seconds: "Time",
  fit_seconds: "Time of fit", compress_seconds: "Time of compress", evaluate_seconds: "Time of the evaluation",
  peak_memory_bytes: "Peak memory", peak_device_bytes: "Peak GPU memory",
};

export async function draw({ name, query }) {
  const trial = await ask(`trial/${name}`);
  if (!trial) {
    const where = isLive ? "The store has no trial with this id." : "This report does not hold the page of this trial. `shrinkgrid serve` shows every trial of the store.";
    return [h("h1", {}, "Trial not found"), h("p", { class: "empty" }, where), h("p", {}, h("code", {}, name))];
  }
  return [
    h("h1", {}, named(trial.method), " on ", named(trial.model)),
    h("p", { class: "about" }, `${trial.task}, ratio ${format.number(trial.ratio)}${trial.ratio_of && trial.ratio_of !== "none" ? ` of ${format.ratioOf(trial.ratio_of)}` : ""}, seed ${trial.seed}. `,
      h("span", { class: `status ${trial.status}` }, trial.status), trial.error_class ? ` (${trial.error_class})` : ""),
    trial.reason ? h("p", { class: "reason", role: "note" }, trial.reason) : null,
    trial.traceback ? h("details", {}, h("summary", {}, "Traceback"), h("pre", { tabindex: "0" }, trial.traceback)) : null,
    trial.log ? h("details", {}, h("summary", {}, "What its process printed"), h("pre", { tabindex: "0" }, trial.log)) : null,
    h("section", {}, h("h2", {}, "Run it again"), h("pre", { class: "command", tabindex: "0" }, trial.command), copyButton("Copy the command", () => trial.command), " ",
      h("a", { href: comparing({ trials: [trial.trial] }) }, "Compare this trial with another")),
    numbers(trial), curves(trial), sizes(trial), layers(trial, query.get("map")), samples(trial),
    h("section", {}, h("h2", {}, "Settings"), tree(trial.identity ?? {}), protocol(trial)),
    facts(trial), lineage(trial), attempts(trial),
  ];
}

function numbers(trial) {
  if (!trial.metrics.length) return null;
  const better = { min: "lower", max: "higher" };
  const rows = trial.metrics.map((m) => [m.metric, format.withError(m.value, m.stderr), m.unit === "1" ? "" : m.unit ?? "", better[m.goal] ?? "", m.n?.toLocaleString("en") ?? ""]);
  return h("section", {}, h("h2", {}, "Numbers"), table("Numbers", ["Metric", "Value ± standard error", "Unit", "Better", "Samples"], rows, [1, 4], "cards"));
}

function sizes(trial) {
  const titles = { params: ["Parameters", format.count], params_nonzero: ["Parameters that are not zero", format.count], bytes: ["Bytes", format.bytes], macs: ["MACs", format.count] };
  const rows = Object.entries(trial.sizes).filter(([, [, now]]) => now !== null)
    .map(([key, [dense, now]]) => [titles[key][0], titles[key][1](dense), titles[key][1](now), format.saving(now, dense)]);
  return rows.length ? h("section", {}, h("h2", {}, "Size"), table("Size", ["What", "Dense", "Compressed", "Change"], rows, [1, 2, 3], "cards")) : null;
}

function curves(trial) {
  const names = Object.keys(trial.curves);
  if (!names.length) return null;
  return h("section", {}, h("h2", {}, "Training"), h("div", { class: "charts" }, names.map((name) => curve(trial, name))));
}

function curve(trial, name) {
  const points = trial.curves[name];
  // A method that trains twice counts its steps twice; a line would join the two.
  const several = new Set(points.map(([step]) => step)).size < points.length;
  return chart({
    title: several ? `${name} (several trainings)` : name, name: `${trial.trial}-${name}`, height: 220,
    description: `${name} by step of training: from ${format.number(points[0][1])} to ${format.number(points.at(-1)[1])}.`,
    spec: {
      data: { values: points.map(([step, value]) => ({ step, value })) },
      mark: several ? { type: "point", filled: true, size: 60, tooltip: true } : { type: "line", point: true, tooltip: true },
      encoding: { x: { field: "step", type: "quantitative", title: "step", axis: { tickMinStep: 1, format: "d" } }, y: { field: "value", type: "quantitative", title: name, scale: { zero: false } } },
    },
  });
}

function samples(trial) {
  if (!trial.samples.length) return null;
  return h("section", {}, h("h2", {}, "Samples"), trial.samples.map(({ metric, n, values }) => {
    const binary = values.every((value) => value === 0 || value === 1);
    const right = values.filter((value) => value === 1).length;
    const about = binary ? `${right.toLocaleString("en")} right, ${(values.length - right).toLocaleString("en")} wrong` : "one value per sample";
    const cut = values.length < n ? `; the first ${values.length.toLocaleString("en")} of ${n.toLocaleString("en")}` : "";
    const cells = values.slice(0, 400).map((value, i) => (binary
      ? h("i", { class: value ? "right" : "wrong", title: `sample ${i}: ${value ? "right" : "wrong"}` }, value ? "·" : "×")
      : h("span", {}, `${format.number(value)} `)));
    return h("details", {}, h("summary", {}, `${metric}: ${about}${cut}`), h("p", { class: "samples" }, cells));
  }));
}

// Nested settings, each name once; text of one line. Members of a list (the methods of
// a chain) stand one below the other.
function tree(value) {
  const entries = Object.entries(value ?? {});
  return h("dl", { class: "tree" }, entries.map(([key, inner]) => [h("dt", {}, key), h("dd", {}, branch(inner))]));
}

function branch(value) {
  const nested = (one) => one !== null && typeof one === "object" && Object.keys(one).length > 0;
  if (Array.isArray(value) && value.some(nested)) return value.map(branch);
  if (nested(value) && !Array.isArray(value)) return tree(value);
  return h("code", {}, typeof value === "string" ? value : JSON.stringify(value));
}

function protocol(trial) {
  const parts = [["Protocol of the task", trial.protocol_fields], ["Calibration", trial.calibration], ["Versions of packages", trial.versions]];
  return parts.filter(([, value]) => value).map(([name, value]) =>
    h("details", {}, h("summary", {}, name), typeof value === "string" ? h("code", {}, value) : tree(value)));
}

function facts(trial) {
  const shown = ([key, value]) => {
    if (key.endsWith("seconds")) return format.seconds(value);
    if (key.endsWith("bytes")) return format.bytes(value);
    return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
  };
  const rows = Object.entries(trial.facts).filter(([, value]) => value !== null).map((entry) => [FACTS[entry[0]], shown(entry)]);
  return h("section", {}, h("h2", {}, "Where and when"), table("Where and when", ["What", "Value"], rows));
}

function lineage(trial) {
  if (trial.siblings.length < 2) return null;
  const rows = trial.siblings.map((one) => [
    one.trial === trial.trial ? h("b", {}, "this trial") : h("a", { href: link("trial", one.trial) }, one.trial),
    one.task, format.number(one.ratio), String(one.seed), one.status]);
  return h("section", {}, h("h2", {}, "Trials that share its load and fit"),
    h("p", {}, `Grid ${trial.grid ?? format.DASH}, bundle ${trial.bundle}.`), table("Trials of the bundle", ["Trial", "Task", "Ratio", "Seed", "Status"], rows, [2, 3], "cards"));
}

function attempts(trial) {
  const rows = trial.attempts.map((one) => [one.attempt, one.status, one.started_at ?? format.DASH, format.seconds(one.seconds), one.reason ?? ""]);
  return h("section", {}, h("h2", {}, "Attempts"), table("Attempts", ["Attempt", "Status", "Started", "Time", "Reason"], rows, [3], "cards"));
}
