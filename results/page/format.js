// Numbers and names as a person reads them. Pure functions, tested on their own.

export const DASH = "–";
const PREFIXES = [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]];

function trimmed(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function grouped(text) {
  const [whole, rest] = text.split(".");
  const spaced = whole.replace(/\B(?=(\d{3})+$)/g, ",");
  return rest === undefined ? spaced : `${spaced}.${rest}`;
}

// Significant digits without an exponent where that is short: 0.0123, 12.3, 1,230.
export function number(value, digits = 3) {
  if (value === null || value === undefined) return DASH;
  if (value === 0 || !Number.isFinite(value)) return String(value);
  const size = Math.floor(Math.log10(Math.abs(value)));
  if (size >= 7 || size < -4) return value.toExponential(digits - 1).replace("e+", "e");
  return grouped(trimmed(value.toFixed(Math.max(0, digits - 1 - size))));
}

// A value with its error: the error has two digits, the value as many decimals.
export function withError(value, error) {
  if (value === null || value === undefined) return DASH;
  if (!error || !Number.isFinite(error)) return number(value, 4);
  const size = Math.floor(Math.log10(Math.abs(error)));
  if (size >= 5 || Math.abs(value) >= 1e7) return `${number(value, 4)} ± ${number(error, 2)}`;
  const decimals = Math.min(8, Math.max(0, 1 - size));
  return `${grouped(value.toFixed(decimals))} ± ${grouped(error.toFixed(decimals))}`;
}

// A count with an SI prefix: 134.5 M, 15.1 G, 823.
export function count(value, unit = "") {
  if (value === null || value === undefined) return DASH;
  const end = unit ? ` ${unit}` : "";
  for (const [prefix, size] of PREFIXES) {
    if (Math.abs(value) >= size) return `${trimmed((value / size).toPrecision(4))} ${prefix}${unit}`;
  }
  return `${number(value)}${end}`;
}

export function bytes(value) {
  return count(value, "B");
}

export function share(value, decimals = 1) {
  if (value === null || value === undefined) return DASH;
  return `${(100 * value).toFixed(decimals)} %`;
}

// What a network saves of the dense one: "−30 %", or "+2 %" where it has more.
export function saving(value, dense) {
  if (!dense || value === null || value === undefined) return DASH;
  const change = Math.round((1000 * (value - dense)) / dense) / 10;
  if (change === 0) return "±0 %";
  return `${change < 0 ? "−" : "+"}${trimmed(Math.abs(change).toFixed(1))} %`;
}

export function seconds(value) {
  if (value === null || value === undefined) return DASH;
  if (value === 0) return "0 s";
  if (value < 1e-3) return `${number(value * 1e6)} µs`;
  if (value < 1) return `${number(value * 1e3)} ms`;
  if (value < 120) return `${number(value)} s`;
  const minutes = Math.round(value / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.round(value / 360) / 10;
  return hours < 72 ? `${hours} h` : `${number(value / 86400)} d`;
}

// Seconds since 1970 as the time in UTC, to the second.
export function moment(value) {
  return `${new Date(value * 1000).toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

export function plural(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

const OF = {
  weights: "weights", tracked_weights: "tracked weights", parameters: "parameters",
  width: "width of the hidden states",
  zeros: "weights, as zeros", macs: "MACs", bits: "bits", none: "",
};

export function ratioOf(name) {
  return OF[name] ?? name ?? "";
}

// A table as text. `rows` are lists of texts; the first column is a name.
export function markdown(heads, rows) {
  const cell = (text) => String(text).replace(/[\\|`*_<[\]]/g, (c) => `\\${c}`).replace(/\s+/g, " ");
  const line = (cells) => `| ${cells.map(cell).join(" | ")} |`;
  const rule = heads.map((_, i) => (i === 0 ? "---" : "---:"));
  return [line(heads), `| ${rule.join(" | ")} |`, ...rows.map(line)].join("\n");
}

export function csv(heads, rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    let text = String(value);
    // A spreadsheet would compute a text that begins like a formula.
    if (typeof value === "string" && /^\s*[=+\-@\uff1d\uff0b\uff0d\uff20]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [heads, ...rows].map((row) => row.map(cell).join(",")).join("\n");
}

const TEX = {
  "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
  "±": "$\\pm$", "†": "$^{\\dagger}$", "★": "$\\star$", "−": "$-$", "–": "--",
  "<": "\\textless{}", ">": "\\textgreater{}", "µ": "$\\mu$",
};

export function latex(heads, rows) {
  const cell = (text) => String(text).replace(/[\\~^±†★−–<>µ#$%&_{}]/g, (c) => TEX[c] ?? `\\${c}`);
  const line = (cells) => `${cells.map(cell).join(" & ")} \\\\`;
  return [
    `\\begin{tabular}{l${"r".repeat(heads.length - 1)}}`, "\\toprule", line(heads), "\\midrule",
    ...rows.map(line), "\\bottomrule", "\\end{tabular}",
  ].join("\n");
}
