/**
 * What the logit lens shows, without a document (nostalgebraist 2020, "interpreting GPT: the logit lens").
 *
 * Dimension letters: T tokens, C hidden size, V vocabulary size.
 */

import { lensLogits } from "#see/engine/lens.js";
import { entropy, largest } from "#see/view/charts.js";
import { row, softmax } from "#see/view/numbers.js";

const BUDGET = 1.5e9; // multiplications for the whole table: about a second

/**
 * The residual stream before the first block and after each block, which the lens reads.
 *
 * @param {object} trace
 * @returns {{name: string, states: Float32Array}[]} states (T, C)
 */
export function lensRows(trace) {
  const blocks = trace.layers.map((layer, index) => ({ name: `Layer ${index + 1}`, states: layer.output }));
  return [{ name: "Embedding", states: trace.embeddings }, ...blocks];
}

/**
 * How many of the last positions are shown, so that the table takes about a second to compute.
 *
 * @param {number} tokens - T
 * @param {number} rows
 * @param {number} hiddenSize - C
 * @param {number} vocabulary - V
 * @returns {number} at least 4, at most T
 */
export function lensWidth(tokens, rows, hiddenSize, vocabulary) {
  const affordable = Math.floor(BUDGET / (rows * hiddenSize * vocabulary));
  return Math.min(tokens, Math.max(4, affordable));
}

/**
 * The table: for each row and each of the last positions, the most probable token, its probability, and the
 * entropy.
 *
 * @param {object} model - of the engine
 * @param {object} trace - recorded
 * @returns {{first: number, rows: {name: string, cells: {id: number, probability: number, entropy:
 *   number}[]}[]}} `first` is the position of the first column; entropies in bits
 */
export function lensTable(model, trace) {
  const sources = lensRows(trace);
  const hiddenSize = sources[0].states.length / trace.length;
  const vocabulary = trace.logits.length / trace.length;
  const width = lensWidth(trace.length, sources.length, hiddenSize, vocabulary);
  const first = trace.length - width;
  const rows = sources.map(({ name, states }) => {
    const logits = lensLogits(model, states.subarray(first * hiddenSize)); // (width, V)
    const cells = Array.from({ length: width }, (_, column) => {
      const distribution = softmax(row(logits, column, vocabulary));
      const [id] = largest(distribution, 1);
      return { id, probability: distribution[id], entropy: entropy(distribution) };
    });
    return { name, cells };
  });
  return { first, rows };
}

/**
 * The distribution that the lens reads at one row and position.
 *
 * @param {object} model - of the engine
 * @param {object} trace - recorded
 * @param {number} rowIndex - 0 for the embedding
 * @param {number} position
 * @returns {Float32Array} (V,)
 */
export function lensDistribution(model, trace, rowIndex, position) {
  return softmax(lensRowLogits(model, trace, rowIndex, position));
}

/** The logits (V,) that the lens reads; arguments as of `lensDistribution`. */
export function lensRowLogits(model, trace, rowIndex, position) {
  const { states } = lensRows(trace)[rowIndex];
  return lensLogits(model, row(states, position, states.length / trace.length));
}
