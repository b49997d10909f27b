// The leaderboard: sorted and filtered here; only the rows in view are in the page.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const columns = data.columns; // {name, title, kind: "text" | "number" | "share"}
  const at = Object.fromEntries(columns.map((c, i) => [c.name, i]));
  const box = document.getElementById("board");
  const count = document.getElementById("count");
  const search = document.getElementById("search");
  const selects = [...document.querySelectorAll("select[data-filter]")];
  const HEIGHT = 31; // pixels of a row; measured once the first rows are in
  const SPARE = 20;
  let height = HEIGHT;
  let rows = data.rows;
  let sort = { column: -1, down: false };

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };

  const shown = (value, kind) => {
    if (value === null) return "–";
    if (kind === "share") return (100 * value).toFixed(1) + " %";
    if (kind !== "number") return String(value);
    if (Number.isInteger(value)) return value.toLocaleString("en");
    return Number(value.toPrecision(4)).toString();
  };

  const head = make("tr");
  columns.forEach((column, i) => {
    const cell = make("th", { scope: "col", className: column.kind === "text" ? "" : "n" });
    const button = make("button", { type: "button", textContent: column.title });
    button.addEventListener("click", () => {
      sort = { column: i, down: sort.column === i ? !sort.down : false };
      [...head.children].forEach((th) => th.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
      update();
    });
    cell.append(button);
    head.append(cell);
  });
  const body = make("tbody");
  box.append(make("table", {}, make("thead", {}, head), body));

  // Values of a select: each distinct one, as text.
  for (const select of selects) {
    const values = new Set(data.rows.map((row) => row[at[select.dataset.filter]]));
    for (const value of [...values].sort()) {
      select.append(make("option", { value, textContent: value }));
    }
    select.addEventListener("change", () => update());
  }
  search.addEventListener("input", () => update());

  const texts = data.rows.map((row) =>
    columns.map((c, i) => (c.kind === "text" ? row[i] : "")).join(" ").toLowerCase());
  const index = new Map(data.rows.map((row, i) => [row, i]));

  function update() {
    const wanted = selects
      .filter((select) => select.value)
      .map((select) => [at[select.dataset.filter], select.value]);
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    rows = data.rows.filter((row, i) =>
      wanted.every(([column, value]) => row[column] === value) &&
      words.every((word) => texts[i].includes(word)));
    if (sort.column >= 0) {
      const { column, down } = sort;
      const sign = down ? -1 : 1;
      rows = rows.slice().sort((a, b) => {
        const x = a[column], y = b[column];
        if (x === null || y === null) return (x === null) - (y === null); // holes last
        const order = x < y ? -1 : x > y ? 1 : 0;
        return order ? sign * order : index.get(a) - index.get(b);
      });
    }
    count.textContent = `${rows.length.toLocaleString("en")} rows`;
    box.scrollTop = 0;
    draw();
  }

  function line(row) {
    const marks = [];
    if (row[at.method] === "dense") marks.push("dense");
    else if (row[at.place] === 1) marks.push("best");
    const node = make("tr", { className: marks.join(" ") });
    columns.forEach((column, i) => {
      let text = shown(row[i], column.kind);
      if (column.name === "method" && marks.includes("best")) text = "★ " + text;
      node.append(make("td", {
        className: column.kind === "text" ? "" : "n", textContent: text,
      }));
    });
    return node;
  }

  function space(pixels) {
    const cell = make("td", { colSpan: columns.length });
    cell.style.cssText = `height:${pixels}px;padding:0;border:0`;
    const node = make("tr", {}, cell);
    node.setAttribute("aria-hidden", "true");
    return node;
  }

  function draw(everything = false) {
    const first = everything ? 0 : Math.max(0, Math.floor(box.scrollTop / height) - SPARE);
    const fits = Math.ceil(Math.max(box.clientHeight, innerHeight) / height) + 2 * SPARE;
    const last = everything ? Math.min(rows.length, 2000) : Math.min(rows.length, first + fits);
    body.replaceChildren(
      space(first * height), ...rows.slice(first, last).map(line),
      space((everything ? 0 : rows.length - last) * height));
    if (body.children[1]) height = body.children[1].offsetHeight || HEIGHT;
  }

  box.addEventListener("scroll", () => requestAnimationFrame(() => draw()), { passive: true });
  addEventListener("resize", () => draw());
  addEventListener("beforeprint", () => draw(true)); // the first 2,000 rows
  addEventListener("afterprint", () => draw());
  update();
})();
