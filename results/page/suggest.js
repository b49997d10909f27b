// What a wrong name in an address most likely means.

import { changed } from "page/address.js";
import { h } from "page/html.js";

// Says that a value of the address does not exist, with a link to the nearest one.
export function unknown(key, value, known, address = (near) => changed({ [key]: near })) {
  const near = suggestion(value, known);
  return h("p", {}, `No ${key} is called “${value}”.`, near === null ? null : [" Did you mean ", h("a", { href: address(near) }, near), "?"]);
}

// Like `suggestion` in results/errors.py: case is ignored, and so are letters left out of
// an abbreviation ("ppl" means perplexity). Null where nothing is near.
export function suggestion(name, known) {
  const wanted = name.toLowerCase();
  const all = [...new Set(known)].sort((a, b) => a.length - b.length);
  const [near] = [...all].sort((a, b) => likeness(wanted, b.toLowerCase()) - likeness(wanted, a.toLowerCase()));
  if (near !== undefined && likeness(wanted, near.toLowerCase()) >= 0.5) return near;
  return all.find((one) => abbreviates(wanted, one.toLowerCase())) ?? null;
}

// The share of pairs of neighbouring letters that two names have in common (Dice 1945).
function likeness(a, b) {
  const pairs = (text) => [...text].slice(1).map((letter, i) => text[i] + letter);
  const [one, other] = [pairs(a), pairs(b)];
  const common = one.filter((pair) => other.includes(pair)).length;
  return a === b ? 1 : (2 * common) / Math.max(1, one.length + other.length);
}

function abbreviates(short, full) {
  let at = 0;
  for (const letter of full) if (letter === short[at]) at += 1;
  return short.length > 2 && short[0] === full[0] && at === short.length;
}
