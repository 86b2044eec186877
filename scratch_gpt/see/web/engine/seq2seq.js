/**
 * The encoder-decoder Transformer: an encoder processes the source; a decoder with cross-attention to the
 * source generates the target (Vaswani et al. 2017, arXiv:1706.03762; BART, Pegasus, T5). Encoder and decoder
 * are stacks of the GPT's block.
 *
 * Dimension letters: S source tokens, T target tokens, C hidden size, V target vocabulary.
 */

import { TransformerBlock } from "#see/engine/block.js";
import { Cache } from "#see/engine/cache.js";
import { completeEdits } from "#see/engine/edits.js";
import { keptStates, runLayers } from "#see/engine/gpt.js";
import { buildNorm } from "#see/engine/normalization.js";
import { buildPositions, buildRotary, countPositions, rotaryByLayerType } from "#see/engine/positions.js";
import { buildRelativeBias } from "#see/engine/relative_positions.js";
import { add } from "#see/engine/tensor.js";

/** Encoder or decoder: embeddings, positions, blocks and the final norm. The blocks of a decoder are causal
 * and have cross-attention. */
class ScratchSeq2SeqStack {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {Object | null} rotary
   * @param {number} numLayers
   * @param {boolean} isDecoder
   */
  constructor(config, weights, rotary, numLayers, isDecoder) {
    this.embedScale = config.scale_embedding ? Math.sqrt(config.hidden_size) : 1;
    this.embed_tokens = weights.embedding("embed_tokens");
    this.embed_positions = buildPositions(config, weights);
    this.embedding_norm = config.embedding_norm ? buildNorm(config, weights, "embedding_norm") : null;
    const options = { isCausal: isDecoder, crossAttention: isDecoder };
    this.layers = Array.from(
      { length: numLayers },
      (_, i) => new TransformerBlock(config, weights.under(`layers.${i}`), i, options),
    );
    this.norm = config.norm_position !== "post" ? buildNorm(config, weights, "norm") : null;
    this.rotary_emb = buildRotary(rotary);
    this.relative_bias = buildRelativeBias(config, weights, !isDecoder);
  }

  /**
   * Run the stack.
   *
   * @param {number[]} ids (T,)
   * @param {{cache: Cache | null, edits: import("#see/engine/edits.js").Edits, record: boolean, source:
   *   Object | null}} pass what the blocks share
   * @returns {import("#see/engine/gpt.js").Trace} without logits
   */
  forward(ids, pass) {
    if (ids.length === 0) throw new RangeError("there is no token: give at least one");
    const start = pass.cache === null ? 0 : pass.cache.length;
    const positionIds = countPositions(start, ids.length);
    let hiddenStates = this.embed_tokens.forward(ids).map((value) => value * this.embedScale); // (T, C)
    const positions = this.embed_positions?.forward(positionIds) ?? null;
    if (positions !== null) hiddenStates = add(hiddenStates, positions);
    if (this.embedding_norm !== null) hiddenStates = this.embedding_norm.forward(hiddenStates);
    const embeddings = hiddenStates;
    const rotations = rotaryByLayerType(this.rotary_emb, positionIds);
    const shared = { ...pass, start, rotations, relativeBias: this.relative_bias };
    const { hiddenStates: output, traces } = runLayers(this.layers, hiddenStates, shared);
    if (pass.cache !== null) pass.cache.ids.push(...ids);
    const hidden = this.norm === null ? output : this.norm.forward(output);
    const none = { logits: null, scores: null, pooled: null, encoder: null };
    return { start, length: ids.length, embeddings, layers: traces, hidden, ...none };
  }
}

/** Encoder, decoder and a linear head: the logits of the next target token. */
export class ScratchSeq2SeqForConditionalGeneration {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {Object | null} rotary
   */
  constructor(config, weights, rotary) {
    this.config = config;
    const stack = (side, numLayers) =>
      new ScratchSeq2SeqStack(config, weights.under(`model.${side}`), rotary, numLayers, side === "decoder");
    this.encoder = stack("encoder", config.encoder_layers);
    this.decoder = stack("decoder", config.decoder_layers);
    this.lm_head = weights.linear("lm_head");
  }

  /** @returns {Cache} an empty cache of the target and its source */
  newCache() {
    return new Cache(this.decoder.layers.map(() => null));
  }

  /**
   * @param {ArrayLike<number>} sourceIds (S,)
   * @param {{edits?: Object | null, record?: boolean}} options
   * @returns {import("#see/engine/gpt.js").Trace} of the encoder
   */
  encode(sourceIds, { edits = null, record = false } = {}) {
    const pass = { cache: null, edits: completeEdits(edits), record, source: null };
    return this.encoder.forward(Array.from(sourceIds), pass);
  }

  /**
   * @param {ArrayLike<number>} ids input of the decoder (T,), which begins with its start token
   * @param {import("#see/engine/gpt.js").Options & {sourceIds?: ArrayLike<number>, encoder?:
   *   import("#see/engine/gpt.js").Trace}} options `sourceIds` (S,), or the trace of the encoder for them;
   *   neither with a cache that has seen them
   * @returns {import("#see/engine/gpt.js").Trace}
   */
  forward(ids, options = {}) {
    const { sourceIds = [], cache = null, record = false, lastLogits = false } = options;
    const edits = completeEdits(options.edits);
    let source = cache?.source ?? null;
    if (source === null) {
      const encoder = options.encoder ?? this.encode(sourceIds, { edits: edits.encoder, record });
      source = this.source(encoder, completeEdits(edits.encoder).hiddenTokens);
      if (cache !== null) cache.source = source;
    }
    const trace = this.decoder.forward(Array.from(ids), { cache, edits, record, source });
    trace.encoder = source.trace;
    trace.logits = this.head(keptStates(trace.hidden, this.config.hidden_size, lastLogits));
    return trace;
  }

  /** What the blocks of the decoder read of the source. */
  source(trace, hiddenTokens) {
    const rotary = this.decoder.rotary_emb.get("full_attention");
    const isRotated = this.config.cross_attention_rotary && rotary !== undefined;
    const rotation = isRotated ? rotary.forward(countPositions(0, trace.length)) : null;
    return { trace, states: trace.hidden, rotation, hidden: hiddenTokens };
  }

  /**
   * @param {Float32Array} hidden the decoder's states after the last norm (T, C)
   * @returns {Float32Array} logits (T, V)
   */
  head(hidden) {
    return this.lm_head.forward(hidden);
  }

  /** The last norm, or null without one. */
  get finalNorm() {
    return this.decoder.norm;
  }
}
