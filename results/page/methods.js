// One colour and one shape per method, the same in every view.

export const SHAPES = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left"];
// At least 3:1 against the background, and told apart by common colour blindness.
const LIGHT = ["#0072b2", "#c44e00", "#00795a", "#a3468a", "#7a6200", "#5646b5", "#a8242c", "#33717f"];
const DARK = ["#56b4e9", "#ff9e5e", "#3cc79c", "#e59bc9", "#dbbd4a", "#a99eff", "#ff8f8f", "#80d2df"];

export function isDark() {
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

export function colours() {
  return isDark() ? DARK : LIGHT;
}

// Label -> { colour, shape }; dense is grey. Order of names alone decides.
export function looks(labels) {
  const known = colours();
  const sorted = [...new Set(labels)].filter((label) => label !== "dense").sort();
  const found = new Map(sorted.map((label, i) => [label, {
    colour: known[i % known.length],
    shape: SHAPES[(i + Math.floor(i / known.length)) % SHAPES.length],
  }]));
  found.set("dense", { colour: isDark() ? "#b0b0b0" : "#595959", shape: "circle" });
  return found;
}

// Short names for the points of a chart: a method with those options only that not all
// of its entries share.
export function labels(names) {
  const words = (name) => (name.includes(" + ") ? [name] : name.split(" "));
  return new Map(names.map((name) => {
    const [first, ...options] = words(name);
    const same = names.map(words).filter((other) => other[0] === first);
    return [name, [first, ...options.filter((word) => !same.every((other) => other.includes(word)))].join(" ")];
  }));
}
