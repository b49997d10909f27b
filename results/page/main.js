// Shows the view that the address names, and draws it again when the store changes.

import { read, link } from "page/address.js";
import { ask, isLive, watch } from "page/data.js";
import { h } from "page/html.js";
import * as board from "page/board.js";
import * as compare from "page/compare.js";
import * as coverage from "page/coverage.js";
import * as curves from "page/curves.js";
import * as grid from "page/grid.js";
import * as overview from "page/overview.js";
import * as papers from "page/papers.js";
import { unknown } from "page/suggest.js";
import * as tradeoff from "page/tradeoff.js";
import * as trial from "page/trial.js";

// Address -> module with `title` and `draw(route)`, which returns the nodes of the view.
const VIEWS = { board, tradeoff, curves, compare, coverage, papers, overview, grid, trial };
const LISTED = ["board", "tradeoff", "curves", "compare", "coverage", "papers", "overview"];
const content = document.getElementById("content");
let drawn = 0; // counts calls, so that a slow answer does not replace a later view
let shown = ""; // view and name of what is on the page

async function draw() {
  const turn = ++drawn;
  const route = read();
  if (!route.view) route.view = "board";
  const view = VIEWS[route.view];
  const place = `${route.view}/${route.name}`;
  navigation(route.view);
  let nodes;
  try {
    nodes = view ? await view.draw(route) : [h("h1", {}, "No such page"), unknown("page", route.view, LISTED, (near) => link(near)), home()];
  } catch (why) {
    nodes = [h("h1", {}, "This view cannot be shown"), h("p", { role: "alert" }, String(why.message ?? why)), home()];
  }
  if (turn !== drawn) return;
  const same = shown === place;
  const focused = same ? document.activeElement?.id : "";
  const [x, y] = [scrollX, scrollY];
  const unfolded = new Set(same ? opened() : []);
  content.replaceChildren(...nodes.flat(Infinity).filter(Boolean));
  for (const summary of content.querySelectorAll("summary")) if (unfolded.has(summary.textContent)) summary.parentNode.open = true;
  document.title = `${view?.title ?? "Not found"} · shrinkgrid`;
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  scrollTo(same ? x : 0, same ? y : 0);
  if (shown && !same) content.focus({ preventScroll: true });
  shown = place;
}

// Texts of what the reader has unfolded: it stays so when new rows arrive.
function opened() {
  return [...content.querySelectorAll("details[open] > summary")].map((summary) => summary.textContent);
}

function home() {
  return h("p", {}, h("a", { href: link("board") }, "Go to the leaderboard"));
}

function navigation(current) {
  const links = LISTED.map((name) =>
    h("a", { href: link(name), "aria-current": name === current ? "page" : null }, VIEWS[name].title));
  document.getElementById("views").replaceChildren(...links);
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the state of the page
  content.focus();
});
addEventListener("hashchange", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw); // charts have colours of their own
await draw();
const live = document.getElementById("live");
if (!isLive) {
  const { totals } = await ask("overview");
  live.textContent = `Report, last row ${totals.newest ?? "without a time"}`;
}
watch(draw, (state, text) => {
  live.className = state;
  live.textContent = text;
});
