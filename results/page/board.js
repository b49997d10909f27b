// The leaderboard: who wins at which ratio, by how much, is it clear, at what saving.

import { changed, go, link } from "page/address.js";
import { comparing } from "page/compare.js";
import { copyButton, download, h, named, wide } from "page/html.js";
import * as format from "page/format.js";
import { labels, looks, symbol } from "page/methods.js";
import { boards, chosen, filters, nothing } from "page/rows.js";
import { unknown } from "page/suggest.js";

export const title = "Leaderboard";
const MOST_BOARDS = 12;
const MOST_CARDS = 4;
const SAME = format.saving(1, 1);
const MOST_ROWS = 300; // of one board, until the reader asks for more

// name, heading, what it means, text of a row, sort key, whether more is better
function columns(board) {
  const more = board.goal === "max";
  const list = [
    ["ratio", "Asked", "Share to remove that the grid asked for", (r) => format.share(r.ratio, 0), null, true],
    ["achieved", "Achieved", "Share that was removed, of what the method counts", achieved, null, true],
    ["mean", board.metric, `Mean over the seeds ± its standard error; ${more ? "higher" : "lower"} is better`, value, null, more],
    ["recovery", "Recovery", "Share of the dense model's quality that is kept", recovery, null, true],
    ["params", "Parameters", "Parameters of the network; a masked zero counts", (r) => format.count(r.params), null, false],
    ["bytes", "Bytes", "Bytes of the saved network", (r) => format.bytes(r.bytes), null, false],
    ["macs", "MACs", "Multiply-accumulates for one sample", (r) => format.count(r.macs), null, false],
    ["speed", "Speed", "Times as fast as the dense model, measured: the least of latency, prefill and decode", speed, null, true],
    ["latency", "Latency", "Milliseconds per batch of images, measured", (r) => format.seconds(r.latency / 1000), null, false],
    ["prefill", "Prefill", "Milliseconds per token read, measured", (r) => format.seconds(r.prefill / 1000), null, false],
    ["decode", "Decode", "Milliseconds per token written, measured", (r) => format.seconds(r.decode / 1000), null, false],
    ["trained_samples", "Trained on", "Training examples that the method read, each as often as it was read; those of the dense model do not count", trained, null, false],
    ["coverage", "Treated", "Share of the block weights that the method treats", (r) => format.share(r.coverage), null, true],
    ["seeds", "Seeds", "Trials in the mean, of those planned; each links to its trial", seeds, null, true],
  ];
  // A column without any number says nothing; full coverage and no training are not worth one.
  const says = { coverage: (v) => v < 1, trained_samples: (v) => v > 0 };
  const has = (name) => board.rows.some((row) => row[name] !== null && row[name] !== undefined && (says[name]?.(row[name]) ?? true));
  return list.filter(([name]) => has(name)).map(([name, heading, meaning, show, , up]) => ({ name, heading, meaning, show, up }));
}

function speed(row) {
  return row.speed === null ? format.DASH : `${format.number(row.speed, 3)} ×`;
}

function achieved(row) {
  return [format.share(row.achieved), h("small", {}, ` ${format.ratioOf(row.ratio_of)}`)];
}

function value(row) {
  const covers = { seeds: "over the seeds", samples: "over the samples of one seed; seeds are not covered" };
  const text = format.withError(row.mean, row.stderr);
  const error = row.stderr_over === "samples" ? h("small", {}, " samples") : null;
  return h("span", { title: row.stderr_over ? `± standard error ${covers[row.stderr_over]}` : "no error is known" }, text, error);
}

function trained(row) {
  if (!row.trained_samples) return row.trained_samples === 0 ? "0" : format.DASH;
  return h("span", { title: `${format.count(row.trained_epochs)} epochs` }, format.count(row.trained_samples));
}

function recovery(row) {
  if (row.at_chance) return h("b", { title: "No better than guessing by two standard errors" }, "at chance");
  if (row.recovery === null) return format.DASH;
  const width = `${Math.max(0, Math.min(1, row.recovery)) * 100}%`;
  return h("span", { class: "bar" }, h("i", { style: `width:${width}`, "aria-hidden": "true" }), format.share(row.recovery));
}

function seeds(row) {
  const links = (row.trials ?? []).map((trial, i) => [" ", h("a", { href: link("trial", trial), "aria-label": `Trial ${trial}` }, `#${i + 1}`)]);
  const missing = row.planned > row.seeds ? h("b", {}, `${row.seeds}/${row.planned}`) : `${row.seeds}/${row.planned ?? row.seeds}`;
  return [missing, h("span", { class: "seeds" }, links.slice(0, 5))];
}

function mark(row) {
  const slow = row.slower ? h("span", { title: `Slower than the dense model: ${speed(row)} the dense speed` }, "▼") : "";
  if (row.mark === "best") return [h("span", { class: "star", title: "Best of its ratio" }, "★"), " ", slow];
  if (row.mark === "like best") return [h("span", { title: "Not distinguishable from the best at 5 %" }, "†"), " ", slow];
  return slow;
}

export async function draw({ query }) {
  const all = await boards();
  const found = chosen(all, query);
  const style = looks(all.map((board) => board.rows.map((row) => row.method)));
  const most = Number(query.get("boards")) || MOST_BOARDS;
  const more = found.length > most
    ? h("p", {}, h("button", { type: "button", id: "more-boards", onclick: () => go({ boards: most + MOST_BOARDS }) },
      `Show more of ${format.plural(found.length, "leaderboard")}`))
    : null;
  const sort = query.get("sort");
  const known = new Set(found.flatMap((board) => columns(board).map((column) => column.name)));
  const unsorted = sort && found.length && !known.has(sort)
    ? h("div", { class: "empty" }, unknown("column", sort, known, (near) => changed({ sort: near }))) : null;
  return [
    h("h1", {}, title),
    filters(all, query),
    unsorted,
    ...(found.length ? found.slice(0, most).map((board) => section(board, query, style)) : [nothing(all, query)]),
    more,
    h("p", { class: "legend" }, "★ best of its ratio. † not distinguishable from the best at 5 % (paired test over the samples, ",
      "else over the standard errors; Holm's correction). A method without a rival at its ratio has no such mark. ▼ slower than the dense model by more than 5 %, where its speed was measured."),
  ];
}

function section(board, query, style) {
  const id = `board-${board.key}`;
  const arrow = board.goal === "max" ? "higher is better" : "lower is better";
  const dense = board.rows.find((row) => row.base === "dense");
  return h("section", { class: "board", "aria-labelledby": id },
    h("h2", { id }, h("a", { href: link("board", "", { board: board.key }) }, named(board.model), " on ", named(board.task))),
    h("p", { class: "about" }, h("b", {}, board.metric), `, ${arrow}. `,
      dense ? ["Dense model: ", h("b", {}, format.withError(dense.mean, dense.stderr)), "."] : "No dense model was measured, so that recovery is not known.",
      board.calibration ? ` Calibration, where a method reads it: ${board.calibration}.` : "",
      board.protocol ? ` Protocol: ${board.protocol}.` : ""),
    answers(board, style), folded(board, table(board, query, style)), tools(board));
}

// On a phone each row is a card: many are folded below the best ones.
function folded(board, made) {
  if (board.rows.length <= MOST_CARDS || !matchMedia("(max-width: 44rem)").matches) return made;
  return h("details", {}, h("summary", {}, `All ${format.plural(board.rows.length, "row")} of ${board.model} on ${board.task}`), made);
}

// Of each ratio: the best method, its distance to the next, and whether a test sees it.
// What only guesses is neither; `best` is missing where nothing is better than that.
export function winners(board) {
  const ratios = [...new Set(board.rows.filter((row) => row.base !== "dense").map((row) => row.ratio))];
  const sign = board.goal === "max" ? 1 : -1;
  return ratios.sort((a, b) => a - b).map((ratio) => {
    const rows = board.rows.filter((row) => row.ratio === ratio && row.base !== "dense" && !row.at_chance);
    rows.sort((a, b) => sign * (b.mean - a.mean));
    const like = rows.filter((row) => row !== rows[0] && row.mark === "like best");
    return { ratio, best: rows[0], next: rows[1], like, tied: rows.length > 1 && rows[1].mean === rows[0].mean };
  });
}

function answers(board, style) {
  const lines = winners(board);
  if (!lines.length) return null;
  // The table below has all options; here those do that tell two rows of a method apart.
  const brief = labels(board.rows.map((row) => short(row, board)));
  const called = (row) => brief.get(short(row, board));
  const row = ({ ratio, best, next, like, tied }) => h("tr", {},
    h("th", { scope: "row" }, format.share(ratio, 0)),
    !best ? h("td", { colspan: 5 }, "no method is better than guessing") : [
      cell("Best", [symbol(style.get(best.method)), name(best, called(best))]),
      cell(board.metric, value(best), "n"),
      cell("Recovery", recovery(best), "n"),
      cell("Ahead", [ahead(best, next, like, tied, called), next?.trials.length ? [" ", h("a", { href: comparing(best, next) }, "compare")] : null]),
      cell("Saves", savings(best))]);
  const heads = ["Ratio", "Best", board.metric, "Recovery", "Ahead of the next", "Really saves"];
  return wide(`Best per ratio, ${board.model} on ${board.task}`,
    h("table", { class: "answers cards" }, h("thead", {}, h("tr", {}, heads.map((head, i) =>
      h("th", { scope: "col", class: i === 2 || i === 3 ? "n" : null }, head)))), h("tbody", {}, lines.map(row))));
}

// On a phone a row is a card, in which each cell shows its heading beside its content.
function cell(heading, content, kind = null) {
  return h("td", { class: kind, "data-head": heading }, h("span", {}, content));
}

function ahead(best, next, like, tied, called) {
  if (!next) return "no rival at this ratio";
  if (tied) return `equal to ${called(next)}`;
  const gap = format.number(Math.abs(best.mean - next.mean), 2);
  if (like.length) return [`by ${gap}, `, h("b", {}, "not significant"), `: † ${like.map(called).join(", ")}`];
  return [`by ${gap}, `, h("b", {}, best.mark === "best" && (best.stderr || next.stderr) ? "significant" : "no test possible"), ` (next: ${called(next)})`];
}

function savings(row) {
  const known = [["params", "parameters"], ["bytes", "bytes"], ["macs", "MACs"]].filter(([key]) => row[key] !== null && row[`${key}_dense`])
    .map(([key, title]) => [format.saving(row[key], row[`${key}_dense`]), title]);
  const parts = known.filter(([saved]) => saved !== SAME).map(([saved, title]) => `${saved} ${title}`);
  if (!known.length) parts.push(`${format.share(row.achieved)} of ${format.ratioOf(row.ratio_of) || "an unknown size"}`);
  else if (!parts.length) parts.push(`no ${known.map(([, title]) => title).join(", ")}`);
  if (row.slower) parts.push(`▼ ${speed(row)} the dense speed`);
  return parts.map((part, i) => [i ? ", " : null, h("span", { class: "word" }, part)]);
}

// A calibration that all methods of a leaderboard share stands above it, once.
function short(row, board) {
  const shared = board.calibration ? ` ${board.calibration}` : "";
  return shared && row.method.endsWith(shared) ? row.method.slice(0, -shared.length) : row.method;
}

function name(row, called) {
  const trial = row.trials?.[0];
  const text = named(called);
  return trial ? h("a", { href: link("trial", trial) }, text) : h("span", {}, text);
}

function sorted(board, query) {
  const by = query.get("sort");
  const column = columns(board).find((one) => one.name === by);
  if (!column) return board.rows;
  const sign = (query.get("up") ? -1 : 1) * (column.up ? -1 : 1);
  return [...board.rows].sort((a, b) => (a[by] === null) - (b[by] === null) || sign * (a[by] - b[by]));
}

function table(board, query, style) {
  const list = columns(board);
  const rows = sorted(board, query);
  const shown = rows.slice(0, Number(query.get("rows")) || MOST_ROWS);
  const by = query.get("sort");
  const head = h("tr", {},
    h("th", { scope: "col", class: "sticky" }, "Method"),
    list.map((column) => heading(column, query, board)));
  const bodies = [];
  let band;
  for (const row of shown) {
    const key = by ? "" : row.base === "dense" ? "dense" : row.ratio;
    if (!bodies.length || key !== band) bodies.push(h("tbody", {}));
    band = key;
    bodies.at(-1).append(line(row, list, style, board));
  }
  const rest = rows.length > shown.length
    ? h("p", {}, `${shown.length} of ${format.plural(rows.length, "row")}. `,
      h("button", { type: "button", id: `rows-${board.key}`, onclick: () => go({ rows: shown.length + 1000 }) }, "Show more rows"))
    : null;
  return [wide(`All methods, ${board.model} on ${board.task}`,
    h("table", { class: "rows cards" }, h("thead", {}, head), bodies)), rest];
}

function heading(column, query, board) {
  const on = query.get("sort") === column.name;
  const down = on && column.up === !query.get("up");
  const sort = on && !query.get("up") ? { up: 1 } : on ? { sort: "", up: "" } : { sort: column.name, up: "" };
  return h("th", { scope: "col", class: "n", title: column.meaning, "aria-sort": on ? (down ? "descending" : "ascending") : null },
    h("button", { type: "button", id: `sort-${board.key}-${column.name}`, onclick: () => go(sort) }, column.heading,
      h("span", { "aria-hidden": "true" }, on ? (down ? " ↓" : " ↑") : "")));
}

function line(row, list, style, board) {
  const kind = row.base === "dense" ? "dense" : row.mark === "best" ? "best" : null;
  return h("tr", { class: kind },
    h("th", { scope: "row", class: "sticky" }, symbol(style.get(row.method)), name(row, short(row, board)), " ", mark(row)),
    list.map((column) => cell(column.heading, column.show(row), `n c-${column.name}`)));
}

// The table as plain texts, for copying.
export function plain(board) {
  const heads = ["method", "asked", "achieved", board.metric, "stderr", "recovery", "parameters", "bytes", "MACs", "speed", "seeds", "mark"];
  const rows = board.rows.map((r) => [r.method, r.ratio, r.achieved, r.mean, r.stderr, r.recovery, r.params, r.bytes, r.macs, r.speed, r.seeds, r.mark]);
  const marks = { best: "★", "like best": "†" };
  const short = board.rows.map((r) => [
    `${r.method}${marks[r.mark] ? ` ${marks[r.mark]}` : ""}${r.slower ? " ▼" : ""}`, format.share(r.ratio, 0), format.share(r.achieved),
    format.withError(r.mean, r.stderr), format.share(r.recovery), format.count(r.params), format.bytes(r.bytes), format.count(r.macs),
  ]);
  return { heads, rows, short, shortHeads: ["method", "asked", "achieved", board.metric, "recovery", "parameters", "bytes", "MACs"] };
}

function tools(board) {
  const made = () => plain(board);
  return h("p", { class: "tools" },
    copyButton("Copy Markdown", () => format.markdown(made().shortHeads, made().short)),
    copyButton("Copy LaTeX", () => format.latex(made().shortHeads, made().short)),
    copyButton("Copy CSV", () => format.csv(made().heads, made().rows)),
    h("button", { type: "button", onclick: () => download(`${board.key}.csv`, "text/csv", format.csv(made().heads, made().rows)) }, "Download CSV"),
    copyButton("Copy link", () => location.href),
    h("a", { class: "button", href: link("compare", "", { board: board.key }) }, "Compare rows"));
}
