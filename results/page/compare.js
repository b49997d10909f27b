// Two or more methods or trials beside each other: settings, numbers, sizes, samples.

import { go, link } from "page/address.js";
import { chart } from "page/chart.js";
import { ask, isLive } from "page/data.js";
import { h, table } from "page/html.js";
import * as format from "page/format.js";
import { colours } from "page/methods.js";
import { boards } from "page/rows.js";
import { holm, isDifferent, paired } from "page/statistics.js";

export const title = "Compare";
const MOST = 6; // compared at once
const MOST_CHOICES = 150; // rows of a leaderboard to choose from
const MOST_SAMPLES = 200; // numbers of samples that are listed
const SIZES = { params: ["Parameters", format.count], params_nonzero: ["Parameters that are not zero", format.count], bytes: ["Bytes", format.bytes], macs: ["MACs", format.count] };

// "a~b,c" -> [["a", "b"], ["c"]]: what is compared, each with the trials of its seeds.
export function parts(text) {
  return text.split(",").map((one) => one.split("~").filter(Boolean)).filter((one) => one.length);
}

// The address that compares some rows of a leaderboard.
export function comparing(...rows) {
  return link("compare", "", { of: joined(rows.map((row) => row.trials)) });
}

function joined(list) {
  return list.map((trials) => trials.join("~")).join(",");
}

export async function draw({ query }) {
  const wanted = parts(query.get("of") ?? "").slice(0, MOST);
  const all = await boards();
  const found = await Promise.all(wanted.map(item));
  const items = found.filter(Boolean);
  items.forEach((one, i) => (one.letter = "ABCDEF"[i]));
  const lacking = wanted.flatMap((trials, i) => (found[i] ? [] : trials));
  return [
    h("h1", {}, title),
    lacking.length ? h("p", { class: "warning" }, isLive ? "The store has no trial called " : "This report does not hold the page of every trial; `shrinkgrid serve` shows all. Missing: ", lacking.join(", "), ".") : null,
    chooser(all, query, wanted),
    items.length < 2 ? h("p", { class: "empty" }, "Choose two or more rows of a leaderboard; the first one is what the others are compared with.") : compared(items, all),
  ];
}

async function item(trials) {
  const pages = await Promise.all(trials.map((trial) => ask(`trial/${trial}`)));
  return pages.includes(null) ? null : { trials, pages, first: pages[0] };
}

function compared(items, all) {
  const primary = new Set(all.filter((board) => board.main && board.task === items[0].first.task).map((board) => board.metric));
  const metrics = common(items).sort((a, b) => primary.has(b) - primary.has(a));
  const tests = new Map(metrics.map((metric) => [metric, versus(items, metric)]));
  const shown = metrics.find((metric) => tests.get(metric).some(Boolean));
  return [
    h("section", {}, h("h2", {}, "What is compared"), table("What is compared", ["Letter", "Method", "Model", "Task", "Ratio", "Seeds"], items.map((one) => [
      one.letter, h("a", { href: link("trial", one.trials[0]) }, one.first.method), one.first.model, one.first.task,
      `${format.number(one.first.ratio)} ${format.ratioOf(one.first.ratio_of)}`, one.pages.map((page) => page.seed).join(", ")]), [], "cards")),
    differs(items, "protocol_fields") ? h("p", { class: "warning" }, "The protocols of the tasks differ, so that the numbers do not compare.") : null,
    numbers(items, metrics, tests),
    sizes(items),
    settings(items),
    shown ? samples(items, testedBy(items[0].pages, shown), tests.get(shown)) : null,
  ];
}

function differs(items, key) {
  return new Set(items.map((one) => JSON.stringify(one.first[key]))).size > 1;
}

// Metrics that every trial of every item measured.
function common(items) {
  const names = items.flatMap((one) => one.pages).map((page) => page.metrics.map((one) => one.metric));
  return names[0].filter((name) => names.every((known) => known.includes(name)));
}

// Mean over the seeds; the error is that over the seeds, else over the samples of one.
export function summary(pages, metric) {
  const found = pages.map((page) => page.metrics.find((one) => one.metric === metric));
  const n = found.length;
  const mean = found.reduce((sum, one) => sum + one.value, 0) / n;
  const spread = found.reduce((sum, one) => sum + (one.value - mean) ** 2, 0);
  return { mean, stderr: n > 1 ? Math.sqrt(spread / (n - 1) / n) : found[0].stderr, goal: found[0].goal, unit: found[0].unit };
}

// The metric whose samples stand for those of this one: a perplexity is tested by the
// losses of its windows.
function testedBy(pages, metric) {
  return pages[0].metrics.find((one) => one.metric === metric).tested_by ?? metric;
}

// One value per sample, the mean over the seeds; null where a trial lacks some of them.
function values(pages, metric) {
  const found = pages.map((page) => page.samples.find((one) => one.metric === metric));
  if (found.some((one) => !one || one.values.length < one.n || one.n !== found[0].n)) return null;
  return found[0].values.map((_, i) => found.reduce((sum, one) => sum + one.values[i], 0) / found.length);
}

// The paired test of each item against the first one; null where samples are not known.
function versus(items, metric) {
  const { goal } = summary(items[0].pages, metric);
  const tested = testedBy(items[0].pages, metric);
  const known = items.map((one) => values(one.pages, tested));
  const means = items[0].pages[0].samples.some((one) => one.metric === tested && one.means);
  const tests = known.map((own, i) => (i && own && known[0] && own.length === known[0].length && own.length && goal !== "none"
    ? { ...paired(known[0], own, goal, means), values: own, reference: known[0] } : null));
  const made = tests.filter(Boolean);
  const corrected = holm(made.map((one) => one.p));
  made.forEach((one, i) => (one.corrected = corrected[i]));
  return tests;
}

function numbers(items, metrics, tests) {
  if (!metrics.length) return h("p", { class: "warning" }, "They measured no metric in common.");
  const rows = metrics.flatMap((metric) => items.map((one, i) => {
    const own = summary(one.pages, metric);
    const gap = own.mean - summary(items[0].pages, metric).mean;
    const test = tests.get(metric)[i];
    const tested = testedBy(items[0].pages, metric);
    const goal = i ? null : { min: "lower is better", max: "higher is better" }[own.goal];
    return [[h("b", {}, metric), ` of ${one.letter}`, goal ? h("small", {}, `, ${goal}`) : null], format.withError(own.mean, own.stderr),
      i ? `${gap > 0 ? "+" : gap < 0 ? "−" : "±"}${format.number(Math.abs(gap))}` : "",
      test ? h("b", {}, verdict(test, gap, own.goal)) : "",
      test ? `${test.wins.toLocaleString("en")} better, ${test.losses.toLocaleString("en")} worse of ${test.n.toLocaleString("en")}` : "",
      test ? `${format.number(test.corrected, 2)} (${test.test}${tested === metric ? "" : `, of the ${tested}`})` : ""];
  }));
  return h("section", {}, h("h2", {}, "Numbers"),
    table("Numbers", ["Metric", "Value ± standard error", "Difference from A", "At 5 %", "Samples, against A", "p"], rows, [1, 2], "cards"),
    h("p", { class: "legend" }, "Paired tests over the samples that both read: McNemar's exact test where every value is right or wrong; Student's where each value is a mean (the loss of a window, by which a perplexity is tested too), else all sign flips of the differences of at most 16 samples and a bootstrap of their mean for more; from 1,000 samples on its normal limit; Holm's correction where several are compared with A. A sample's value is the mean over the seeds."));
}

function verdict(test, gap, goal) {
  if (!isDifferent(test.corrected)) return "not distinguishable";
  return gap > 0 === (goal === "max") ? "better than A" : "worse than A";
}

function sizes(items) {
  const rows = Object.entries(SIZES).filter(([key]) => items.every((one) => (one.first.sizes[key]?.[1] ?? null) !== null)).map(([key, [name, show]]) =>
    [name, ...items.map((one) => {
      const [dense, now] = one.first.sizes[key];
      return dense ? `${show(now)} (${format.saving(now, dense)})` : show(now);
    })]);
  rows.push(["Time of the trial", ...items.map((one) => format.seconds(one.first.facts.seconds))]);
  return h("section", {}, h("h2", {}, "Size and time"), table("Size and time", ["Size or time", ...items.map((one) => one.letter)], rows, items.map((_, i) => i + 1), "cards"),
    h("p", { class: "legend" }, "Of the first seed. In parentheses: the change from the dense network."));
}

// { a: { b: 1 } } -> [["a.b", "1"]]
export function flat(value, path = "") {
  if (value === null || typeof value !== "object") return [[path, JSON.stringify(value)]];
  return Object.entries(value).flatMap(([key, inner]) => flat(inner, path ? `${path}.${key}` : key));
}

function settings(items) {
  const known = items.map((one) => new Map(flat(one.first.identity ?? {})));
  const names = [...new Set(known.flatMap((own) => [...own.keys()]))];
  const differing = names.filter((name) => new Set(known.map((own) => own.get(name))).size > 1);
  if (!names.length) return h("section", {}, h("h2", {}, "Settings"), h("p", {}, "The store holds no settings of these trials."));
  const rows = differing.map((name) => [h("code", {}, name), ...known.map((own) => h("code", {}, own.get(name) ?? format.DASH))]);
  return h("section", {}, h("h2", {}, "Settings that differ"), rows.length
    ? table("Settings that differ", ["Setting", ...items.map((one) => one.letter)], rows, [], "cards") : h("p", {}, "None: these are trials of equal settings."));
}

function samples(items, metric, tests) {
  return h("section", {}, h("h2", {}, `Samples: ${metric}`), h("div", { class: "charts" },
    tests.map((test, i) => test && (test.binary ? agreement(items[i], test) : scatter(items[i], metric, test)))));
}

function agreement(one, { values: own, reference }) {
  const where = (a, b) => own.map((value, i) => (reference[i] === a && value === b ? i : -1)).filter((i) => i >= 0);
  const [better, worse] = [where(0, 1), where(1, 0)];
  const list = (name, found) => h("details", {}, h("summary", {}, `${name}: ${format.plural(found.length, "sample")}`),
    h("p", { class: "samples" }, found.slice(0, MOST_SAMPLES).join(", "), found.length > MOST_SAMPLES ? " …" : ""));
  return h("div", {}, table(`A and ${one.letter}`, ["Samples", `${one.letter} right`, `${one.letter} wrong`],
    [["A right", where(1, 1).length, worse.length], ["A wrong", better.length, where(0, 0).length]], [1, 2]),
    list(`Only ${one.letter} is right`, better), list("Only A is right", worse));
}

function scatter(one, metric, { values: own, reference, wins, losses }) {
  const points = own.map((value, i) => ({ a: reference[i], b: value, sample: i }));
  const range = [Math.min(...own, ...reference), Math.max(...own, ...reference)];
  const x = { field: "a", type: "quantitative", title: "A", scale: { zero: false } };
  const y = { field: "b", type: "quantitative", title: one.letter, scale: { zero: false } };
  return chart({
    title: `${metric} of each sample, A and ${one.letter}`, name: `samples-${one.letter}`, height: 320,
    description: `${metric} of each sample of A and ${one.letter}; ${one.letter} is better in ${wins} and worse in ${losses} of ${own.length}.`,
    spec: {
      layer: [
        { data: { values: range.map((value) => ({ a: value, b: value })) }, mark: { type: "line", strokeDash: [4, 4], color: "#808080" }, encoding: { x, y } },
        { data: { values: points }, mark: { type: "point", filled: true, size: 40, opacity: 0.85, color: colours()[0], tooltip: true }, encoding: { x, y } },
      ],
    },
  });
}

function chooser(all, query, wanted) {
  const board = all.find((one) => one.key === query.get("board"))
    ?? all.find((one) => one.rows.some((row) => row.trials.some((trial) => trial === wanted[0]?.[0]))) ?? all[0];
  if (!board) return null;
  const chosen = new Set(wanted.map((trials) => trials.join("~")));
  const toggle = (row) => {
    const key = row.trials.join("~");
    const left = [...chosen].filter((one) => one !== key);
    go({ of: (chosen.has(key) ? left : [...left, key]).join(","), board: board.key });
  };
  const picks = board.rows.filter((row) => row.trials.length).slice(0, MOST_CHOICES).map((row, i) => h("label", {},
    h("input", { type: "checkbox", id: `pick-${i}`, checked: chosen.has(row.trials.join("~")), onchange: () => toggle(row) }),
    ` ${row.method}, ${format.share(row.ratio, 0)}`));
  const names = all.filter((one) => one.main || one === board);
  return h("details", { open: wanted.length < 2 || query.has("board") }, h("summary", {}, "Choose what to compare"),
    h("form", { class: "filters" }, h("label", {}, "Leaderboard ", h("select", { id: "filter-board", onchange: (event) => go({ board: event.target.value, of: "" }) },
      names.map((one) => h("option", { value: one.key, selected: one === board }, `${one.model} on ${one.task}, ${one.metric}`))))),
    h("fieldset", { class: "picks" }, h("legend", {}, `Rows, at most ${MOST}`), picks));
}
