// Paired tests over samples: those of results/tables/statistics.py.

const DRAWS = 10000;
const LEVEL = 0.05;
const FEW = 16; // as there
const MANY = 1000; // as there

// Exact two-sided p value that a win is as likely as a loss (McNemar's test).
export function mcnemar(wins, losses) {
  const n = wins + losses;
  let [term, total] = [-n * Math.LN2, 0]; // logarithm of C(n, i) / 2^n
  for (let i = 0; i <= Math.min(wins, losses); i += 1) {
    total += Math.exp(term);
    term += Math.log((n - i) / (i + 1));
  }
  return Math.min(1, 2 * total);
}

// Of all choices of signs of the differences, the share with a mean as far from 0.
export function signFlips(differences) {
  let sums = [0];
  for (const one of differences) sums = [...sums.map((sum) => sum + one), ...sums.map((sum) => sum - one)];
  const observed = Math.abs(differences.reduce((sum, one) => sum + one, 0));
  return sums.filter((sum) => Math.abs(sum) >= observed * (1 - 1e-9)).length / sums.length;
}

// Student's paired test, for values that are means over many predictions.
export function student(differences) {
  const n = differences.length;
  const mean = differences.reduce((sum, one) => sum + one, 0) / n;
  const spread = Math.sqrt(differences.reduce((sum, one) => sum + (one - mean) ** 2, 0) / n);
  if (spread === 0) return differences[0] === 0 ? 1 : 2 ** (1 - n);
  const freedom = n - 1;
  const square = (mean / spread) ** 2 * freedom; // t^2
  // p = I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + t^2), by the series that
  // loses no digits: for small t that of 1 - I_(1 - x)(1 / 2, freedom / 2).
  const x = freedom / (freedom + square);
  const beta = halfBeta(freedom);
  if (square < 2) return 1 - betaSeries(1 - x, 0.5, freedom / 2) / beta;
  return betaSeries(x, freedom / 2, 0.5) / beta;
}

// B(n / 2, 1 / 2), from B(1 / 2, 1 / 2) = pi and B(1, 1 / 2) = 2.
function halfBeta(n) {
  let value = n % 2 ? Math.PI : 2;
  for (let a = n % 2 ? 0.5 : 1; a < n / 2; a += 1) value *= a / (a + 0.5);
  return value;
}

// The incomplete beta function, x^a sum_k (1 - b)_k / k! x^k / (a + k).
function betaSeries(x, a, b) {
  let [term, sum] = [1, 1 / a];
  for (let k = 1; Math.abs(term) > 1e-17 * sum; k += 1) {
    term *= ((k - b) / k) * x;
    sum += term / (a + k);
  }
  return x ** a * sum;
}

// How often the mean of resampled, centred differences is as far from 0 as the observed one.
export function bootstrap(differences, draws = DRAWS) {
  const n = differences.length;
  const mean = differences.reduce((sum, one) => sum + one, 0) / n;
  const centred = Float64Array.from(differences, (one) => one - mean);
  const random = generator(1);
  let extreme = 0;
  for (let draw = 0; draw < draws; draw += 1) {
    let sum = 0;
    for (let i = 0; i < n; i += 1) sum += centred[(random() * n) | 0];
    if (Math.abs(sum / n) >= Math.abs(mean) - 1e-12) extreme += 1;
  }
  return (extreme + 1) / (draws + 1);
}

// The limit of the bootstrap: the mean of many centred differences is normal.
export function normalTest(differences) {
  const n = differences.length;
  const mean = differences.reduce((sum, one) => sum + one, 0) / n;
  const spread = Math.sqrt(differences.reduce((sum, one) => sum + (one - mean) ** 2, 0) / n);
  if (spread === 0) return mean === 0 ? 1 : 0;
  return erfc((Math.abs(mean) / spread) * Math.sqrt(n / 2));
}

// 1 - erf(x) for x >= 0: the series of erf, and for large x the continued fraction
// (Abramowitz & Stegun 7.1.6 and 7.1.14), which does not lose the tail.
export function erfc(x) {
  if (x > 2) {
    let fraction = x;
    for (let k = 60; k > 0; k -= 1) fraction = x + k / 2 / fraction;
    return Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction;
  }
  let [term, sum] = [x, x];
  for (let n = 1; term > 1e-17 * sum; n += 1) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

// Mulberry32: the same numbers in every browser, so that a page says the same each time.
function generator(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Holm's correction of the p values of one family, in the same order.
export function holm(values) {
  const order = values.map((_, i) => i).sort((a, b) => values[a] - values[b]);
  const corrected = [];
  let largest = 0;
  order.forEach((index, rank) => {
    largest = Math.max(largest, values[index] * (values.length - rank));
    corrected[index] = Math.min(1, largest);
  });
  return corrected;
}

function tested(differences, means) {
  if (differences.length > MANY) return ["normal", normalTest(differences)];
  if (means) return ["Student", student(differences)];
  if (differences.length <= FEW) return ["sign flips", signFlips(differences)];
  return ["bootstrap", bootstrap(differences)];
}

// Of equal samples: how often `b` is better and worse than `a`, and the fitting test;
// `means`: whether each value is a mean over many predictions.
export function paired(a, b, goal, means = false) {
  const sign = goal === "min" ? -1 : 1;
  const differences = a.map((value, i) => sign * (b[i] - value));
  const wins = differences.filter((one) => one > 0).length;
  const losses = differences.filter((one) => one < 0).length;
  const binary = [...a, ...b].every((value) => value === 0 || value === 1);
  const [test, p] = binary ? ["McNemar", mcnemar(wins, losses)] : tested(differences, means);
  return { n: a.length, wins, losses, binary, p, test };
}

export function isDifferent(p) {
  return p <= LEVEL;
}
