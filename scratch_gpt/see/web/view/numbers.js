/**
 * How numbers are written on the page, and the few sums that several views need.
 *
 * Dimension letters: T tokens, V vocabulary size.
 */

import { largest } from "#see/view/charts.js";

/**
 * A number with a typographic minus and three digits: 0.0213, 0.213, 2.13, 21.3, 2130.
 *
 * @param {number} value
 * @returns {string}
 */
export function decimal(value) {
  if (!Number.isFinite(value)) return value === -Infinity ? "−∞" : value === Infinity ? "∞" : "–";
  const size = Math.abs(value);
  if (size !== 0 && size < 0.0005) {
    const [digits, exponent] = value.toExponential(1).split("e");
    return `${digits.replace("-", "−")} · 10^${exponent.replace("-", "−")}`;
  }
  if (size === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(size) + 1e-9));
  return value.toFixed(digits).replace("-", "−");
}

/**
 * A number of a formula, with five digits, so that the formula can be computed from what is written.
 *
 * @param {number} value
 * @returns {string}
 */
export function precise(value) {
  if (!Number.isFinite(value)) return decimal(value);
  const [digits, exponent] = value.toPrecision(5).split("e");
  const size = Math.abs(value);
  if (exponent === undefined && (size === 0 || size >= 1e-4)) return digits.replace("-", "−");
  const [most, power] = value.toExponential(4).split("e");
  return `(${most} · 10^${Number(power)})`.replaceAll("-", "−");
}

/**
 * A sum with its largest terms, and the sum of all others as one number.
 *
 * @param {ArrayLike<number>} terms
 * @param {(index: number) => string} write - how a term is written
 * @param {number} [count] - of the terms that are written
 * @returns {{text: string, note: [string, string][]}} the sum, and what its last number is
 */
export function writtenSum(terms, write, count = 3) {
  const shown = largest(Float64Array.from(terms, Math.abs), count);
  const texts = shown.map(write);
  const rest =
    Array.from(terms).reduce((sum, term) => sum + term, 0) -
    shown.reduce((sum, index) => sum + terms[index], 0);
  const others = terms.length - shown.length;
  if (others === 0) return { text: texts.join(" + "), note: [] };
  return {
    text: [...texts, precise(rest)].join(" + "),
    note: [[`sum of the ${others} other terms`, precise(rest)]],
  };
}

/**
 * A difference with its sign: "+0.21", "−1.30", "0".
 *
 * @param {number} value
 * @param {(size: number) => string} [write] - how its size is written
 * @returns {string}
 */
export function signed(value, write = decimal) {
  if (value === 0) return "0";
  return `${value > 0 ? "+" : "−"}${write(Math.abs(value))}`;
}

/**
 * The difference of two probabilities in percentage points: "+1.2", "−30", "0".
 *
 * @param {number} difference
 * @returns {string}
 */
export function points(difference) {
  const size = Math.abs(100 * difference);
  if (size < 0.05) return "0";
  return `${difference > 0 ? "+" : "−"}${size.toFixed(size < 9.95 ? 1 : 0)}`;
}

/**
 * Logarithm of the sum of the exponentials: log softmax of a logit is the logit minus this.
 *
 * @param {Float32Array} logits - (V,)
 * @returns {number}
 */
export function logSumExp(logits) {
  let maximum = -Infinity;
  for (const logit of logits) if (logit > maximum) maximum = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - maximum);
  return maximum + Math.log(sum);
}

/**
 * softmax(logits), (V,) to (V,).
 *
 * @param {Float32Array} logits
 * @returns {Float32Array}
 */
export function softmax(logits) {
  const total = logSumExp(logits);
  return Float32Array.from(logits, (logit) => Math.exp(logit - total));
}

/**
 * Row `index` of a matrix that is stored row by row.
 *
 * @param {Float32Array} matrix - (T, width)
 * @param {number} index
 * @param {number} width
 * @returns {Float32Array} (width,), a view of the same memory
 */
export function row(matrix, index, width) {
  return matrix.subarray(index * width, (index + 1) * width);
}

/**
 * The Euclidean length of a vector.
 *
 * @param {Float32Array} vector
 * @returns {number}
 */
export function norm(vector) {
  let sum = 0;
  for (const value of vector) sum += value * value;
  return Math.sqrt(sum);
}

/**
 * An index into `count` elements; the last one in place of null and of an index that a shorter text made
 * too large.
 *
 * @param {number | null | undefined} index
 * @param {number} count
 * @returns {number}
 */
export function clampIndex(index, count) {
  return index === null || index === undefined || index >= count || index < 0 ? count - 1 : index;
}

/**
 * Kullback-Leibler divergence of the distribution `q` from `p` in nats: 0 if they are equal.
 *
 * @param {Float32Array} p - probabilities (V,)
 * @param {Float32Array} q - probabilities (V,)
 * @returns {number}
 */
export function divergence(p, q) {
  let sum = 0;
  for (let index = 0; index < p.length; index += 1) {
    if (p[index] > 0) sum += p[index] * Math.log(p[index] / Math.max(q[index], 1e-30));
  }
  return Math.max(0, sum);
}
