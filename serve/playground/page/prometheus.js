// Prometheus' text format, as far as a page that shows rates and quantiles needs it. Pure.

/**
 * @typedef {{labels: Record<string, string>, value: number}} Sample
 * @typedef {Map<string, Sample[]>} Samples by name
 */

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/**
 * @param {string} text
 * @returns {Samples}
 */
export function parseMetrics(text) {
  /** @type {Samples} */
  const samples = new Map();
  for (const line of text.split("\n")) {
    const match = line[0] === "#" ? null : LINE.exec(line);
    if (!match) continue;
    const [, name, labelText = "", number] = match;
    const value = number === "+Inf" ? Infinity : Number(number);
    const labels = Object.fromEntries([...labelText.matchAll(LABEL)].map(([, key, it]) => [key, it]));
    const known = samples.get(name);
    if (known) known.push({ labels, value });
    else samples.set(name, [{ labels, value }]);
  }
  return samples;
}

/**
 * @param {Samples} samples
 * @param {string} name
 * @param {Record<string, string>} [labels] that they must have
 */
export function sum(samples, name, labels = {}) {
  const wanted = Object.entries(labels);
  return (samples.get(name) ?? [])
    .filter((sample) => wanted.every(([key, value]) => sample.labels[key] === value))
    .reduce((total, { value }) => total + value, 0);
}

/**
 * What of a histogram came between two looks, as Prometheus' histogram_quantile reckons it.
 *
 * @param {Samples} before
 * @param {Samples} after
 * @param {string} name without `_bucket`
 * @param {number} q between 0 and 1
 * @returns {number | null} null: nothing came
 */
export function quantile(before, after, name, q) {
  const [old, all] = [before, after].map((samples) => buckets(samples, `${name}_bucket`));
  const counts = [...all].map(([bound, count]) => ({ bound, count: count - (old.get(bound) ?? 0) }));
  counts.sort((a, b) => a.bound - b.bound);
  const total = counts.at(-1)?.count ?? 0;
  if (total <= 0) return null;
  const rank = q * total;
  const at = counts.findIndex(({ count }) => count >= rank);
  const { bound, count } = counts[at];
  const low = at === 0 ? { bound: 0, count: 0 } : counts[at - 1];
  if (bound === Infinity) return low.bound;
  return low.bound + ((bound - low.bound) * (rank - low.count)) / (count - low.count || 1);
}

/**
 * @param {Samples} samples
 * @param {string} name
 * @returns {Map<number, number>} upper bound → count, over all labels
 */
function buckets(samples, name) {
  const found = new Map();
  for (const { labels, value } of samples.get(name) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    found.set(bound, (found.get(bound) ?? 0) + value);
  }
  return found;
}
