// Makes elements. Text is always set as text, so that a name cannot become markup.

import { seconds } from "page/format.js";

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "path", "circle", "line", "g", "title", "rect"]);

// h("a", { href: "#/" , class: "n" }, "text", node, null): null children are left out.
export function h(tag, properties = {}, ...children) {
  const node = SVG_TAGS.has(tag)
    ? document.createElementNS(SVG, tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

// A label, with its options smaller behind the name; a chain of methods stays whole.
export function named(label) {
  const [first, ...options] = label.includes(" + ") ? [label] : label.split(" ");
  return [breakable(first), options.length ? h("small", { class: "options" }, " ", breakable(options.join(" "))) : null];
}

// A narrow column breaks a text between its words, and a word that is wider than the
// column behind one of these signs.
export function breakable(text) {
  return text.split(" ").flatMap((word, i) => [i ? " " : null,
    h("span", { class: "word" }, word.split(/(?<=[_=.,/])/).flatMap((part, at) => (at ? [h("wbr"), part] : [part])))]);
}

// A box for a wide table: it scrolls sideways only, and can be reached by keyboard.
export function wide(label, table) {
  return h("div", { class: "wide", role: "region", "aria-label": label, tabindex: "0" }, table);
}

// A table of plain cells; the first cell of a row is its heading, `numeric` columns align
// right. With the style "cards" each row is a card on a phone.
export function table(label, heads, rows, numeric = [], style = null) {
  const kind = (i) => (numeric.includes(i) ? "n" : null);
  return wide(label, h("table", { class: style },
    h("thead", {}, h("tr", {}, heads.map((head, i) => h("th", { scope: "col", class: kind(i) }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, i) =>
      (i === 0 ? h("th", { scope: "row" }, cell) : h("td", { class: kind(i), "data-head": heads[i] }, h("span", {}, cell)))))))));
}

// The time since a moment, which counts on; `now` is the moment by the same clock.
export function clock(since, now) {
  const start = Date.now() / 1000 - (now - since);
  const node = h("span", { class: "clock" });
  const show = () => (node.textContent = seconds(Math.max(0, Math.round(Date.now() / 1000 - start))));
  show();
  const timer = setInterval(() => (node.isConnected ? show() : clearInterval(timer)), 1000);
  return node;
}

export function copyButton(title, text) {
  const button = h("button", { type: "button", onclick: copy }, title);
  async function copy() {
    const content = text();
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      // A page that was opened from a file may have no clipboard.
      const area = h("textarea", { class: "offscreen" });
      area.value = content;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = title), 1500);
  }
  return button;
}

export function download(name, type, content) {
  const link = h("a", { download: name, href: URL.createObjectURL(new Blob([content], { type })) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
