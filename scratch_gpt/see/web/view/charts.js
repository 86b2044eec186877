/** Numbers and small charts. */

import { element } from "#see/view/dom.js";

/**
 * A probability as a percentage with two significant digits, such as `12%`, `1.2%` or `<0.01%`.
 *
 * @param {number} value - between 0 and 1
 * @returns {string}
 */
export function percent(value) {
  const scaled = 100 * value;
  if (scaled === 0) return "0%";
  if (scaled < 0.01) return "<0.01%";
  if (scaled < 1) return `${scaled.toFixed(2)}%`;
  return `${scaled.toFixed(scaled < 10 || (scaled > 99 && scaled < 100) ? 1 : 0)}%`;
}

/**
 * A probability in a narrow cell: as a percentage without decimals.
 *
 * @param {number} value - between 0 and 1
 * @returns {string}
 */
export function wholePercent(value) {
  return `${Math.round(100 * value)}%`;
}

/**
 * A number in thousands or millions, such as `1.2M`.
 *
 * @param {number} value
 * @returns {string}
 */
export function compact(value) {
  return new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(value);
}

/**
 * A horizontal bar of a share, with a mark at another one.
 *
 * @param {number} filled - between 0 and 1
 * @param {number | null} [marked] - between 0 and 1; null: no mark
 * @returns {HTMLElement}
 */
export function bar(filled, marked = null) {
  const width = (share) => ({ width: `${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%` });
  return element(
    "span",
    { class: "bar", "aria-hidden": "true" },
    element("span", { class: "filled", style: width(filled) }),
    marked === null ? null : element("span", { class: "marked", style: width(marked) }),
  );
}

/**
 * Indices of the largest values, the largest first; of equal ones, the first.
 *
 * @param {Float32Array} values
 * @param {number} count
 * @returns {number[]}
 */
export function largest(values, count) {
  const found = [];
  for (let index = 0; index < values.length; index += 1) {
    if (found.length === count && values[index] <= values[found[count - 1]]) continue;
    let place = found.length;
    while (place > 0 && values[found[place - 1]] < values[index]) place -= 1;
    found.splice(place, 0, index);
    if (found.length > count) found.pop();
  }
  return found;
}

/**
 * Entropy of a distribution in bits.
 *
 * @param {Float32Array} probabilities
 * @returns {number}
 */
export function entropy(probabilities) {
  let sum = 0;
  for (const value of probabilities) if (value > 0) sum -= value * Math.log2(value);
  return sum;
}
