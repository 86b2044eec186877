/**
 * Attention: each token's output is a weighted average of the values of all tokens; the weights are the
 * softmax of the scaled dot products of its query with their keys.
 *
 * Dimension letters: T query tokens, S key tokens, H query heads, G key-value heads, D head size, C hidden
 * size.
 */

import { buildNorm } from "#see/engine/normalization.js";
import { applyRotary } from "#see/engine/positions.js";
import { softmaxInPlace } from "#see/engine/tensor.js";

/**
 * @typedef {Object} AttentionRecord what a recorded pass keeps of attention
 * @property {Float32Array} weights (H, T, S)
 * @property {Float32Array} scores before the softmax (H, T, S), -Infinity where a query does not attend
 * @property {Float32Array} queries (T, H, D)
 * @property {Float32Array} keys (S - firstKey, G, D)
 * @property {Float32Array} values (S - firstKey, G, D)
 * @property {number} firstKey position of the first of these keys: a sliding window drops earlier ones
 */

/** Multi-head attention with grouped key-value heads, optional rotary positions, query-key norm, sliding
 * window and soft-capping of the scores. */
export class ScratchAttention {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {number} layerIdx
   * @param {boolean} isCausal whether a token attends only to itself and earlier ones
   */
  constructor(config, weights, layerIdx, isCausal) {
    this.heads = config.num_attention_heads;
    this.groups = config.num_key_value_heads;
    this.headDim = config.head_dim;
    this.isCausal = isCausal;
    this.softcap = config.attn_logit_softcapping;
    const isSliding = config.layer_types?.[layerIdx] === "sliding_attention";
    // With the token itself if causal, else on each side of it
    this.window = isSliding ? config.sliding_window : null;
    for (const name of ["q_proj", "k_proj", "v_proj", "o_proj"]) this[name] = weights.linear(name);
    const size = (heads) => (config.qk_norm_per_head ? 1 : heads) * this.headDim;
    const norm = (name, heads) => buildNorm(config, weights, name, size(heads));
    this.q_norm = config.qk_norm ? norm("q_norm", this.heads) : null;
    this.k_norm = config.qk_norm ? norm("k_norm", this.groups) : null;
  }

  /**
   * Self-attention.
   *
   * @param {Float32Array} hiddenStates (T, C)
   * @param {Object} options
   * @param {number} options.start position of the first token
   * @param {import("#see/engine/positions.js").Rotation | null} options.rotation of the tokens
   * @param {import("#see/engine/relative_positions.js").RelativePositionBias | null} options.relativeBias
   * @param {import("#see/engine/cache.js").LayerCache | null} options.cache of the block, which is extended
   * @param {Set<number>} options.hidden positions that only themselves attend to
   * @param {function(number): boolean} options.isOff whether a head is switched off
   * @param {boolean} options.record
   * @returns {{output: Float32Array, record: AttentionRecord | null}} the output (T, C)
   */
  forward(hiddenStates, { start, rotation, relativeBias, cache, hidden, isOff, record }) {
    const queries = this.queries(hiddenStates, rotation); // (T, H, D)
    const { keys, values } = this.keysAndValues(hiddenStates, rotation); // (T, G, D)
    const length = queries.length / (this.heads * this.headDim); // T
    const own = { keys, values, first: start, count: length };
    const source = cache === null ? own : cache.append(keys, values, length);
    const last = source.first + source.count - 1;
    const { window } = this;
    const range = (position) => [
      window === null ? 0 : position - window + (this.isCausal ? 1 : 0),
      this.isCausal ? position : Math.min(last, window === null ? last : position + window),
    ];
    return this.attend(queries, source, { start, range, relativeBias, hidden, isOff, record });
  }

  /**
   * Cross-attention to the states of a source.
   *
   * @param {Float32Array} hiddenStates (T, C)
   * @param {import("#see/engine/cache.js").KeyValues} source what `sourceKeysAndValues` returned
   * @param {Object} options as of `forward`
   * @returns {{output: Float32Array, record: AttentionRecord | null}} the output (T, C)
   */
  forwardCross(hiddenStates, source, { rotation, hidden, isOff, record }) {
    const queries = this.queries(hiddenStates, rotation);
    const range = () => [0, source.count - 1];
    const options = { start: -Infinity, range, relativeBias: null, hidden, isOff, record };
    return this.attend(queries, source, options);
  }

  /**
   * Keys and values of a source (S, C), which are the same for all target tokens.
   *
   * @param {Float32Array} states (S, C)
   * @param {import("#see/engine/positions.js").Rotation | null} rotation of the source tokens
   * @returns {import("#see/engine/cache.js").KeyValues}
   */
  sourceKeysAndValues(states, rotation) {
    return { ...this.keysAndValues(states, rotation), first: 0, count: states.length / this.k_proj.inputs };
  }

  /** Queries (T, H, D) of hidden states (T, C). */
  queries(hiddenStates, rotation) {
    let queries = this.q_proj.forward(hiddenStates);
    if (this.q_norm !== null) queries = this.q_norm.forward(queries); // each head, or all of them together
    if (rotation !== null) applyRotary(queries, this.headDim, rotation);
    return queries;
  }

  /** Keys and values, each (T, G, D), of hidden states (T, C). */
  keysAndValues(hiddenStates, rotation) {
    let keys = this.k_proj.forward(hiddenStates);
    if (this.k_norm !== null) keys = this.k_norm.forward(keys);
    if (rotation !== null) applyRotary(keys, this.headDim, rotation);
    return { keys, values: this.v_proj.forward(hiddenStates) };
  }

  /**
   * softmax(Q K^T / sqrt(D) + bias) V (Vaswani et al. 2017, arXiv:1706.03762, equation 1), and the output
   * projection. Each key-value head serves H/G query heads (Ainslie et al. 2023, arXiv:2305.13245).
   */
  attend(queries, source, { start, range, relativeBias, hidden, isOff, record }) {
    const { heads, groups, headDim } = this;
    const length = queries.length / (heads * headDim); // T
    const total = source.first + source.count; // S
    const attended = new Float32Array(queries.length); // (T, H, D)
    const scores = new Float64Array(total);
    const kept = record ? this.newRecord(queries, source, length) : null;
    for (let t = 0; t < length; t++) {
      const position = start + t;
      const [begin, last] = range(position);
      const from = Math.max(begin, source.first);
      for (let head = 0; head < heads; head++) {
        const q = (t * heads + head) * headDim;
        const kv = Math.floor((head * groups) / heads) * headDim;
        this.score(queries, q, source, kv, from, last, scores);
        if (relativeBias !== null) {
          for (let s = from; s <= last; s++) scores[s] += relativeBias.bias(head, s - position);
        }
        for (const s of hidden) if (s >= from && s <= last && s !== position) scores[s] = -Infinity;
        const row = (head * length + t) * total;
        if (kept !== null) kept.scores.set(scores.subarray(from, last + 1), row + from);
        softmaxInPlace(scores, from, last + 1);
        if (kept !== null) kept.weights.set(scores.subarray(from, last + 1), row + from);
        if (!isOff(head)) this.average(scores, source, kv, from, last, attended, q);
      }
    }
    return { output: this.o_proj.forward(attended), record: kept };
  }

  /** The scores q k / sqrt(D) of the keys from `from` to `last`, soft-capped if the config says so: c
   * tanh(score / c) (Gemma 2, arXiv:2408.00118). */
  score(queries, q, { keys, first }, kv, from, last, scores) {
    const { headDim, softcap } = this;
    const size = this.groups * headDim;
    const scaling = headDim ** -0.5;
    for (let s = from; s <= last; s++) {
      const k = (s - first) * size + kv;
      let sum = 0;
      for (let i = 0; i < headDim; i++) sum += queries[q + i] * keys[k + i];
      scores[s] = sum * scaling;
      if (softcap !== null) scores[s] = softcap * Math.tanh(scores[s] / softcap);
    }
  }

  /** The average of the values from `from` to `last`, each multiplied by its weight, added to a head's
   * output. */
  average(weights, { values, first }, kv, from, last, attended, q) {
    const { headDim } = this;
    const size = this.groups * headDim;
    for (let s = from; s <= last; s++) {
      const v = (s - first) * size + kv;
      const weight = weights[s];
      for (let i = 0; i < headDim; i++) attended[q + i] += weight * values[v + i];
    }
  }

  /** An empty record of attention from T queries to the keys of a source. */
  newRecord(queries, { keys, values, first, count }, length) {
    const shape = this.heads * length * (first + count);
    const size = count * this.groups * this.headDim;
    return {
      weights: new Float32Array(shape),
      scores: new Float32Array(shape).fill(-Infinity),
      queries,
      keys: keys.slice(0, size),
      values: values.slice(0, size),
      firstKey: first,
    };
  }
}
