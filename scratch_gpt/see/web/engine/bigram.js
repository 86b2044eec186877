/**
 * The bigram model: the smallest language model, a table with the logits of the next token for each token.
 *
 * Dimension letters: T tokens, V vocabulary.
 */

import { Cache } from "#see/engine/cache.js";
import { keptStates } from "#see/engine/gpt.js";

/** Logits of the next token, which are rows of a V x V table. */
export class ScratchBigramForCausalLM {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   */
  constructor(config, weights) {
    this.config = config;
    this.table = weights.embedding("table");
    this.finalNorm = null;
  }

  /** @returns {Cache} an empty cache: there are no keys and values, only tokens */
  newCache() {
    return new Cache([]);
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @param {import("#see/engine/gpt.js").Options} options
   * @returns {import("#see/engine/gpt.js").Trace} without layers and hidden states
   */
  forward(ids, { cache = null, lastLogits = false } = {}) {
    if (ids.length === 0) throw new RangeError("there is no token: give at least one");
    const start = cache === null ? 0 : cache.length;
    const logits = keptStates(this.table.forward(ids), this.table.size, lastLogits); // (T, V)
    if (cache !== null) cache.ids.push(...ids);
    const none = new Float32Array(0);
    const trace = { start, length: ids.length, embeddings: none, layers: [], hidden: none, logits };
    return { ...trace, scores: null, pooled: null, encoder: null };
  }

  /** A bigram model has no hidden states: there is nothing to look at before the logits. */
  head() {
    return new Float32Array(0);
  }
}
