/**
 * The encoder: a stack of transformer blocks with bidirectional attention, for masked-LM and classification
 * (BERT, Devlin et al. 2018, arXiv:1810.04805; RoBERTa, DistilBERT, ModernBERT). Without blocks it is a bag
 * of tokens and n-grams (fastText, Joulin et al. 2016, arXiv:1607.01759).
 *
 * Hidden tokens are what padding is in scratch_gpt/models: other tokens do not attend to them, and they are
 * left out of pooling, n-grams and token weights.
 *
 * Dimension letters: T tokens, C hidden size, V vocabulary, K labels.
 */

import { TransformerBlock } from "#see/engine/block.js";
import { completeEdits } from "#see/engine/edits.js";
import { activate } from "#see/engine/feed_forward.js";
import { keptStates, runLayers } from "#see/engine/gpt.js";
import { NgramEmbedding } from "#see/engine/ngram_embedding.js";
import { buildNorm } from "#see/engine/normalization.js";
import { buildPositions, buildRotary, countPositions, rotaryByLayerType } from "#see/engine/positions.js";
import { buildRelativeBias } from "#see/engine/relative_positions.js";
import { add } from "#see/engine/tensor.js";
import { scaleRows, TokenWeights } from "#see/engine/token_weights.js";

/** A dense layer, an activation and a norm: BERT's pooler of a text's vector, or its transform before the
 * masked-LM head. */
class DenseLayer {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {string} activation
   * @param {boolean} hasNorm
   */
  constructor(config, weights, activation, hasNorm) {
    this.dense = weights.linear("dense");
    this.activation = activation;
    this.norm = hasNorm ? buildNorm(config, weights, "norm") : null;
  }

  /**
   * @param {Float32Array} x (T, C)
   * @returns {Float32Array} (T, C)
   */
  forward(x) {
    const activated = activate(this.activation, this.dense.forward(x));
    return this.norm === null ? activated : this.norm.forward(activated);
  }
}

/** The trunk: embeddings, blocks, final norm and pooler; token ids to hidden states and a vector for the
 * text. */
export class ScratchEncoderModel {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {Object | null} rotary tables of the rotary positions by layer type
   */
  constructor(config, weights, rotary) {
    this.config = config;
    this.embed_tokens = weights.embedding("embed_tokens");
    this.embed_token_types = config.type_vocab_size ? weights.embedding("embed_token_types") : null;
    this.embed_ngrams = config.ngram_sizes.map(
      (size, i) => new NgramEmbedding(size, config.pad_token_id ?? 0, weights.under(`embed_ngrams.${i}`)),
    );
    const tokenWeights = weights.under("token_weights");
    this.token_weights = config.token_weights ? new TokenWeights(config, tokenWeights) : null;
    this.embed_positions = buildPositions(config, weights);
    this.embedding_norm = config.embedding_norm ? buildNorm(config, weights, "embedding_norm") : null;
    this.layers = Array.from(
      { length: config.num_hidden_layers },
      (_, i) => new TransformerBlock(config, weights.under(`layers.${i}`), i, { isCausal: false }),
    );
    this.norm = config.norm_position !== "post" ? buildNorm(config, weights, "norm") : null;
    const hasPooler = config.pooler && weights.has("pooler.dense"); // a masked language model has none
    this.pooler = hasPooler
      ? new DenseLayer(config, weights.under("pooler"), config.pooler_activation, config.pooler_norm)
      : null;
    this.rotary_emb = buildRotary(rotary);
    this.relative_bias = buildRelativeBias(config, weights, true);
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @param {import("#see/engine/gpt.js").Options & {typeIds?: ArrayLike<number> | null}} options `typeIds`
   *   has the token types (T,), by default 0
   * @returns {import("#see/engine/gpt.js").Trace} without logits
   */
  forward(ids, { edits = null, record = false, typeIds = null } = {}) {
    if (ids.length === 0) throw new RangeError("there is no token: give at least one");
    ids = Array.from(ids);
    const complete = completeEdits(edits);
    const positionIds = countPositions(0, ids.length);
    let hiddenStates = this.embed(ids, complete.hiddenTokens); // (T, C)
    if (this.embed_token_types !== null) {
      hiddenStates = add(hiddenStates, this.embed_token_types.forward(typeIds ?? ids.map(() => 0)));
    }
    const positions = this.embed_positions?.forward(positionIds) ?? null;
    if (positions !== null) hiddenStates = add(hiddenStates, positions);
    if (this.embedding_norm !== null) hiddenStates = this.embedding_norm.forward(hiddenStates);
    const embeddings = hiddenStates;
    const rotations = rotaryByLayerType(this.rotary_emb, positionIds);
    const shared = { start: 0, rotations, relativeBias: this.relative_bias, cache: null, source: null };
    const result = runLayers(this.layers, hiddenStates, { ...shared, edits: complete, record });
    const hidden = this.norm === null ? result.hiddenStates : this.norm.forward(result.hiddenStates);
    const none = { logits: null, scores: null, encoder: null };
    const pooled = this.pool(hidden, complete.hiddenTokens);
    return { start: 0, length: ids.length, embeddings, layers: result.traces, hidden, pooled, ...none };
  }

  /**
   * Token ids (T,) to embeddings (T, C): the sum of token and n-gram embeddings, each multiplied by its
   * weight if the model has token weights. For n-grams and weights, hidden tokens are padding.
   */
  embed(ids, hiddenTokens) {
    const { token_weights: weights } = this;
    if (this.embed_ngrams.length > 0 || weights !== null) {
      ids = ids.map((id, t) => (hiddenTokens.has(t) ? (this.config.pad_token_id ?? 0) : id));
    }
    let embeds = this.embed_tokens.forward(ids); // (T, C)
    if (weights !== null) scaleRows(embeds, weights.forTokens(ids));
    ids = this.replaceBoundaries(ids);
    this.embed_ngrams.forEach((embedNgrams, sizeIdx) => {
      const bucketIds = embedNgrams.bucketIds(ids); // (T,)
      const ngramEmbeds = embedNgrams.forward(bucketIds); // (T, C)
      if (weights !== null) scaleRows(ngramEmbeds, weights.forNgrams(sizeIdx, bucketIds, ids));
      embeds = add(embeds, ngramEmbeds);
    });
    return embeds;
  }

  /** Token ids (T,) for n-grams: `config.boundary_token_id`, if set, replaces `<bos>` and `<eos>`. */
  replaceBoundaries(ids) {
    const { boundary_token_id: boundary, bos_token_id, eos_token_id, pad_token_id } = this.config;
    if (boundary === null) return ids;
    const edges = [bos_token_id, eos_token_id].flat().filter((id) => id !== null && id !== pad_token_id);
    return ids.map((id) => (edges.includes(id) ? boundary : id));
  }

  /**
   * Pool hidden states (T, C) to the vector of the text (C,): the state of the first token, or a mean or sum
   * over tokens, according to `config.classifier_pooling`. Hidden tokens are left out.
   */
  pool(hidden, hiddenTokens) {
    const { hidden_size: size, classifier_pooling: how } = this.config;
    const kept = countPositions(0, hidden.length / size).filter((t) => !hiddenTokens.has(t));
    if (how === "cls") {
      const first = kept[0] ?? 0;
      return hidden.slice(first * size, (first + 1) * size);
    }
    const length = Math.max(kept.length, 1);
    const weight = 1 / (how === "mean" ? length : Math.sqrt(length));
    const pooled = new Float32Array(size);
    for (const t of kept) for (let i = 0; i < size; i++) pooled[i] += hidden[t * size + i] * weight;
    return pooled;
  }
}

/** The trunk with a linear head: the logits of the token at each position. */
export class ScratchEncoderForMaskedLM {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {Object | null} rotary
   */
  constructor(config, weights, rotary) {
    this.model = new ScratchEncoderModel(config, weights.under("model"), rotary);
    this.hiddenSize = config.hidden_size;
    this.transform = config.masked_lm_transform
      ? new DenseLayer(config, weights.under("transform"), config.hidden_act, true)
      : null;
    this.lm_head = weights.linear("lm_head");
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @param {import("#see/engine/gpt.js").Options & {typeIds?: ArrayLike<number> | null}} options
   * @returns {import("#see/engine/gpt.js").Trace}
   */
  forward(ids, options = {}) {
    const trace = this.model.forward(ids, options);
    trace.logits = this.head(keptStates(trace.hidden, this.hiddenSize, options.lastLogits));
    return trace;
  }

  /**
   * @param {Float32Array} hidden states after the last norm (T, C)
   * @returns {Float32Array} logits (T, V)
   */
  head(hidden) {
    return this.lm_head.forward(this.transform === null ? hidden : this.transform.forward(hidden));
  }

  /** The last norm, or null without one. */
  get finalNorm() {
    return this.model.norm;
  }
}

/** The trunk, pooling of its states into one vector, and a linear head. */
export class ScratchEncoderForSequenceClassification {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {Object | null} rotary
   */
  constructor(config, weights, rotary) {
    this.model = new ScratchEncoderModel(config, weights.under("model"), rotary);
    this.classifier = weights.linear("classifier");
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @param {import("#see/engine/gpt.js").Options & {typeIds?: ArrayLike<number> | null}} options
   * @returns {import("#see/engine/gpt.js").Trace} with `scores`
   */
  forward(ids, options = {}) {
    const trace = this.model.forward(ids, options);
    trace.scores = this.head(trace.pooled); // (K,)
    return trace;
  }

  /**
   * @param {Float32Array} pooled vectors (T, C)
   * @returns {Float32Array} the scores of the labels (T, K)
   */
  head(pooled) {
    const { pooler } = this.model;
    return this.classifier.forward(pooler === null ? pooled : pooler.forward(pooled));
  }

  /** The last norm, or null without one. */
  get finalNorm() {
    return this.model.norm;
  }
}
