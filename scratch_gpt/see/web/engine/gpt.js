/**
 * The GPT: a stack of causal transformer blocks that predicts the next token.
 *
 * One set of modules implements GPT-2, Llama, Gemma, Mixtral and many others, selected by independent fields
 * of the config, as in scratch_gpt/models. Read in this order: tensor.js, normalization.js, positions.js,
 * relative_positions.js, attention.js, feed_forward.js, experts.js, block.js, this file.
 *
 * Dimension letters: T tokens, C hidden size, V vocabulary, K labels.
 */

import { TransformerBlock } from "#see/engine/block.js";
import { Cache } from "#see/engine/cache.js";
import { completeEdits } from "#see/engine/edits.js";
import { NgramEmbedding } from "#see/engine/ngram_embedding.js";
import { buildNorm } from "#see/engine/normalization.js";
import { buildPositions, buildRotary, countPositions, rotaryByLayerType } from "#see/engine/positions.js";
import { buildRelativeBias } from "#see/engine/relative_positions.js";
import { add } from "#see/engine/tensor.js";

/**
 * @typedef {Object} Trace what a forward pass computed
 * @property {number} start position of the first token: the number of tokens that were in the cache
 * @property {number} length number of tokens, T
 * @property {Float32Array} embeddings the residual stream before the first block (T, C)
 * @property {import("#see/engine/block.js").LayerTrace[]} layers of each block; empty unless recorded
 * @property {Float32Array} hidden after the last norm (T, C)
 * @property {Float32Array | null} logits (T, V), or of the last token alone (1, V)
 * @property {Float32Array | null} scores of the labels of a classifier (K,)
 * @property {Float32Array | null} pooled the vector that a classifier reads (C,)
 * @property {Trace | null} encoder of an encoder-decoder
 */

/**
 * @typedef {Object} Options of a forward pass
 * @property {Cache | null} [cache] of the tokens before these, which is extended
 * @property {Partial<import("#see/engine/edits.js").Edits> | null} [edits]
 * @property {boolean} [record] whether to keep what each block computed
 * @property {boolean} [lastLogits] whether to compute the logits of the last token only
 */

/**
 * Run the blocks of a stack.
 *
 * @param {TransformerBlock[]} layers
 * @param {Float32Array} hiddenStates (T, C)
 * @param {import("#see/engine/block.js").Pass} pass
 * @returns {{hiddenStates: Float32Array, traces: import("#see/engine/block.js").LayerTrace[]}}
 */
export function runLayers(layers, hiddenStates, pass) {
  const traces = [];
  for (const layer of layers) {
    const result = layer.forward(hiddenStates, pass); // (T, C)
    hiddenStates = result.hiddenStates;
    if (pass.record) traces.push(result.trace);
  }
  return { hiddenStates, traces };
}

/** Token ids as numbers, checked to be at least one. */
function checkIds(ids) {
  if (ids.length === 0) throw new RangeError("there is no token: give at least one");
  return Array.from(ids);
}

/** The trunk: embeddings, blocks and final norm; token ids to hidden states. */
export class ScratchGPTModel {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {Object | null} rotary tables of the rotary positions by layer type
   */
  constructor(config, weights, rotary) {
    this.config = config;
    this.embed_tokens = weights.embedding("embed_tokens");
    this.embed_ngrams = config.ngram_buckets
      ? new NgramEmbedding(config.ngram_size, -1, weights.under("embed_ngrams"))
      : null;
    this.embed_positions = buildPositions(config, weights);
    this.embedding_norm = config.embedding_norm ? buildNorm(config, weights, "embedding_norm") : null;
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new TransformerBlock(config, weights.under(`layers.${i}`), i),
    );
    this.norm = config.norm_position !== "post" ? buildNorm(config, weights, "norm") : null;
    this.rotary_emb = buildRotary(rotary);
    this.relative_bias = buildRelativeBias(config, weights, false);
  }

  /** @returns {Cache} an empty cache */
  newCache() {
    return new Cache(this.layers.map((layer) => layer.self_attn.window));
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @param {Options} options
   * @returns {Trace} without logits
   */
  forward(ids, { cache = null, edits = null, record = false } = {}) {
    ids = checkIds(ids);
    const start = cache === null ? 0 : cache.length;
    const positionIds = countPositions(start, ids.length);
    const all = cache === null ? ids : [...cache.ids, ...ids];
    let hiddenStates = this.embed_tokens.forward(ids); // (T, C)
    if (this.embed_ngrams !== null) {
      hiddenStates = add(hiddenStates, this.embed_ngrams.forward(this.embed_ngrams.bucketIds(all, start)));
    }
    const positions = this.embed_positions?.forward(positionIds) ?? null;
    if (positions !== null) hiddenStates = add(hiddenStates, positions);
    if (this.embedding_norm !== null) hiddenStates = this.embedding_norm.forward(hiddenStates);
    const embeddings = hiddenStates;

    const rotations = rotaryByLayerType(this.rotary_emb, positionIds);
    const shared = { start, rotations, relativeBias: this.relative_bias, cache, source: null };
    const pass = { ...shared, edits: completeEdits(edits), record };
    const { hiddenStates: output, traces } = runLayers(this.layers, hiddenStates, pass);
    if (cache !== null) cache.ids.push(...ids);
    const hidden = this.norm === null ? output : this.norm.forward(output);
    const none = { logits: null, scores: null, pooled: null, encoder: null };
    return { start, length: ids.length, embeddings, layers: traces, hidden, ...none };
  }
}

/**
 * The hidden states of the last token only, or of all.
 *
 * @param {Float32Array} hidden (T, C)
 * @param {number} size C
 * @param {boolean} lastOnly
 * @returns {Float32Array} (1, C) or (T, C)
 */
export function keptStates(hidden, size, lastOnly) {
  return lastOnly ? hidden.subarray(hidden.length - size) : hidden;
}

/** The trunk with a linear head: the logits of the next token. */
export class ScratchGPTForCausalLM {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {Object | null} rotary
   */
  constructor(config, weights, rotary) {
    this.config = config;
    this.model = new ScratchGPTModel(config, weights.under("model"), rotary);
    this.lm_head = weights.linear("lm_head");
  }

  /** @returns {Cache} an empty cache */
  newCache() {
    return this.model.newCache();
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @param {Options} options
   * @returns {Trace}
   */
  forward(ids, options = {}) {
    const trace = this.model.forward(ids, options);
    trace.logits = this.head(keptStates(trace.hidden, this.config.hidden_size, options.lastLogits));
    return trace;
  }

  /**
   * The logits of hidden states after the last norm, soft-capped if the config says so: c tanh(logits / c)
   * (Gemma 2, arXiv:2408.00118).
   *
   * @param {Float32Array} hidden (T, C)
   * @returns {Float32Array} (T, V)
   */
  head(hidden) {
    const logits = this.lm_head.forward(hidden);
    const cap = this.config.final_logit_softcapping;
    if (cap !== null) for (let i = 0; i < logits.length; i++) logits[i] = cap * Math.tanh(logits[i] / cap);
    return logits;
  }

  /** The last norm, or null without one. */
  get finalNorm() {
    return this.model.norm;
  }
}

/** The trunk with a linear head on the last token, the only one that attends to the whole text. */
export class ScratchGPTForSequenceClassification {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {Object | null} rotary
   */
  constructor(config, weights, rotary) {
    this.config = config;
    this.model = new ScratchGPTModel(config, weights.under("model"), rotary);
    this.score = weights.linear("score");
  }

  /** @returns {Cache} an empty cache */
  newCache() {
    return this.model.newCache();
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @param {Options} options
   * @returns {Trace} with `scores`
   */
  forward(ids, options = {}) {
    const trace = this.model.forward(ids, options);
    trace.pooled = this.pool(trace.hidden, ids);
    trace.scores = this.head(trace.pooled); // (K,)
    return trace;
  }

  /** The state (C,) of the last token that is not padding. */
  pool(hidden, ids) {
    const size = this.config.hidden_size;
    let last = ids.length - 1;
    while (last > 0 && ids[last] === this.config.pad_token_id) last--;
    return hidden.subarray(last * size, (last + 1) * size);
  }

  /**
   * @param {Float32Array} pooled (T, C)
   * @returns {Float32Array} the scores of the labels (T, K)
   */
  head(pooled) {
    return this.score.forward(pooled);
  }

  /** The last norm, or null without one. */
  get finalNorm() {
    return this.model.norm;
  }
}
