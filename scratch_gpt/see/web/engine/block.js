/**
 * The transformer block: attention mixes information between positions, then the feed-forward network
 * transforms each position.
 *
 * Each of them is a residual branch: its output is added to its input. A norm is applied to the input of each
 * branch (pre-norm, GPT-2 and later), to each sum (post-norm, Vaswani et al. 2017, GPT-1), to the output of
 * each branch (OLMo 2, arXiv:2501.00656) or to its input and its output (sandwich, Gemma 2,
 * arXiv:2408.00118). The decoder of an encoder-decoder has a third branch between the two: cross-attention to
 * the source. In a parallel block, attention and feed-forward network read the same hidden states (Chowdhery
 * et al. 2022, arXiv:2204.02311, section 2).
 *
 * Dimension letters: T tokens, S source or key tokens, H heads, C hidden size.
 */

import { ScratchAttention } from "#see/engine/attention.js";
import { MixtureOfExperts } from "#see/engine/experts.js";
import { FeedForward } from "#see/engine/feed_forward.js";
import { buildNorm } from "#see/engine/normalization.js";
import { add } from "#see/engine/tensor.js";

/**
 * @typedef {Object} LayerTrace what a recorded pass keeps of a block
 * @property {Float32Array} input the residual stream before the block (T, C)
 * @property {Float32Array} output the residual stream after it (T, C)
 * @property {Float32Array} attention weights (H, T, S), 0 where a query does not attend
 * @property {import("#see/engine/attention.js").AttentionRecord} attentionDetail scores, queries, keys and
 *   values
 * @property {Float32Array} attentionOutput what attention adds to the residual stream (T, C)
 * @property {Float32Array | null} crossAttention weights of cross-attention (H, T, S)
 * @property {import("#see/engine/attention.js").AttentionRecord | null} crossAttentionDetail
 * @property {Float32Array | null} crossAttentionOutput what cross-attention adds (T, C)
 * @property {Float32Array} mlpInput what the feed-forward network reads (T, C)
 * @property {Float32Array} mlpOutput what the feed-forward network adds (T, C)
 * @property {import("#see/engine/experts.js").Routing | null} experts
 * @property {Object<string, {input: Float32Array, output: Float32Array}>} norms by name, each (T, C)
 */

/**
 * @typedef {Object} Pass what the blocks of a stack share in a forward pass
 * @property {number} start position of the first token
 * @property {Map<string, import("#see/engine/positions.js").Rotation>} rotations by layer type
 * @property {import("#see/engine/relative_positions.js").RelativePositionBias | null} relativeBias
 * @property {import("#see/engine/cache.js").Cache | null} cache
 * @property {import("#see/engine/edits.js").Edits} edits
 * @property {boolean} record
 * @property {{trace: import("#see/engine/gpt.js").Trace, states: Float32Array, rotation: Object | null,
 *   hidden: Set<number>} | null} source trace of the encoder, its states (S, C), the rotation of their keys
 *   or null, and hidden positions
 */

/** Self-attention, optional cross-attention and feed-forward network, with residual connections and norms. */
export class TransformerBlock {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   * @param {number} layerIdx
   * @param {{isCausal?: boolean, crossAttention?: boolean}} options whether self-attention is causal, and
   *   whether there is cross-attention
   */
  constructor(config, weights, layerIdx, { isCausal = true, crossAttention = false } = {}) {
    this.layerIdx = layerIdx;
    this.preNorm = ["pre", "sandwich"].includes(config.norm_position);
    this.postNorm = config.norm_position === "post";
    this.parallelResidual = config.parallel_residual;
    const attentionType = config.layer_types?.[layerIdx] ?? "full_attention";
    const hasRotary = config.no_rope_layers ? config.no_rope_layers[layerIdx] : true;
    this.rotaryType = hasRotary ? attentionType : null; // whose cosines and sines the layer uses
    const norm = (name, exists) => (exists ? buildNorm(config, weights, name) : null);
    const hasNorm = this.preNorm || this.postNorm;
    const hasOutputNorm = ["branch", "sandwich"].includes(config.norm_position);
    const skipsFirst = layerIdx === 0 && !config.first_attention_norm;
    this.input_layernorm = norm("input_layernorm", hasNorm && !skipsFirst);
    this.self_attn = new ScratchAttention(config, weights.under("self_attn"), layerIdx, isCausal);
    this.attn_output_layernorm = norm("attn_output_layernorm", hasOutputNorm);
    this.cross_attn_layernorm = norm("cross_attn_layernorm", crossAttention);
    this.cross_attn = crossAttention
      ? new ScratchAttention(config, weights.under("cross_attn"), layerIdx, false)
      : null;
    this.post_attention_layernorm = norm("post_attention_layernorm", hasNorm && !config.parallel_shared_norm);
    const FeedForwardClass = config.num_experts ? MixtureOfExperts : FeedForward;
    this.mlp = new FeedForwardClass(config, weights.under("mlp"));
    this.mlp_output_layernorm = norm("mlp_output_layernorm", hasOutputNorm);
  }

  /**
   * @param {Float32Array} hiddenStates (T, C)
   * @param {Pass} pass
   * @returns {{hiddenStates: Float32Array, trace: LayerTrace}} (T, C), and what was recorded
   */
  forward(hiddenStates, pass) {
    const noCross = { crossAttention: null, crossAttentionDetail: null, crossAttentionOutput: null };
    const trace = { input: hiddenStates, norms: {}, experts: null, ...noCross };
    const residual = hiddenStates; // (T, C)
    const attnInput = this.maybePreNorm("input_layernorm", hiddenStates, trace);
    const attnOutput = this.attention(attnInput, pass, trace);
    if (this.parallelResidual) {
      const shared = this.post_attention_layernorm === null;
      const mlpInput = shared ? attnInput : this.maybePreNorm("post_attention_layernorm", residual, trace);
      hiddenStates = add(add(residual, attnOutput), this.feedForward(mlpInput, pass, trace));
    } else {
      hiddenStates = this.add(residual, attnOutput, "input_layernorm", trace);
      if (this.cross_attn !== null) {
        const crossInput = this.maybePreNorm("cross_attn_layernorm", hiddenStates, trace);
        const crossOutput = this.crossAttention(crossInput, pass, trace);
        hiddenStates = this.add(hiddenStates, crossOutput, "cross_attn_layernorm", trace);
      }
      const mlpInput = this.maybePreNorm("post_attention_layernorm", hiddenStates, trace);
      const mlpOutput = this.feedForward(mlpInput, pass, trace);
      hiddenStates = this.add(hiddenStates, mlpOutput, "post_attention_layernorm", trace);
    }
    if (pass.edits.blocks.has(this.layerIdx)) hiddenStates = residual;
    trace.output = hiddenStates;
    return { hiddenStates, trace };
  }

  /** What self-attention adds to the residual stream (T, C). */
  attention(attnInput, { start, rotations, relativeBias, cache, edits, record }, trace) {
    const { layerIdx } = this;
    const { output, record: detail } = this.self_attn.forward(attnInput, {
      start,
      rotation: rotations.get(this.rotaryType) ?? null,
      relativeBias,
      cache: cache === null ? null : cache.layers[layerIdx],
      hidden: edits.hiddenTokens,
      isOff: (head) => edits.heads.has(`${layerIdx}.${head}`),
      record,
    });
    trace.attention = detail?.weights ?? null;
    trace.attentionDetail = detail;
    trace.attentionOutput = this.branchOutput("attn_output_layernorm", output, edits.attentions, trace);
    return trace.attentionOutput;
  }

  /** What cross-attention adds to the residual stream (T, C). */
  crossAttention(crossInput, { rotations, cache, edits, record, source }, trace) {
    const { layerIdx, cross_attn } = this;
    let keysAndValues = cache === null ? null : cache.sourceLayers[layerIdx];
    if (keysAndValues === null) {
      keysAndValues = cross_attn.sourceKeysAndValues(source.states, source.rotation);
      if (cache !== null) cache.sourceLayers[layerIdx] = keysAndValues;
    }
    const { output, record: detail } = cross_attn.forwardCross(crossInput, keysAndValues, {
      rotation: source.rotation === null ? null : rotations.get(this.rotaryType),
      hidden: source.hidden,
      isOff: (head) => edits.crossHeads.has(`${layerIdx}.${head}`),
      record,
    });
    trace.crossAttention = detail?.weights ?? null;
    trace.crossAttentionDetail = detail;
    trace.crossAttentionOutput = this.branchOutput(null, output, edits.crossAttentions, trace);
    return trace.crossAttentionOutput;
  }

  /** What the feed-forward network adds to the residual stream (T, C). */
  feedForward(mlpInput, { edits, record }, trace) {
    trace.mlpInput = mlpInput;
    const output = this.mlp.forward(mlpInput, record ? trace : null);
    trace.mlpOutput = this.branchOutput("mlp_output_layernorm", output, edits.mlps, trace);
    return trace.mlpOutput;
  }

  /** The output of a branch (T, C): normalized if there is such a norm, and 0 if the branch of this layer is
   * off. */
  branchOutput(name, output, off, trace) {
    if (off.has(this.layerIdx)) return new Float32Array(output.length);
    return name === null || this[name] === null ? output : this.normalize(name, output, trace);
  }

  /** The input (T, C) of a branch: normalized in a pre-norm block. */
  maybePreNorm(name, hiddenStates, trace) {
    return this.preNorm && this[name] !== null ? this.normalize(name, hiddenStates, trace) : hiddenStates;
  }

  /** Add the output of a branch to its input, each (T, C); a post-norm block normalizes the sum. */
  add(residual, output, name, trace) {
    const sum = add(residual, output);
    return this.postNorm && this[name] !== null ? this.normalize(name, sum, trace) : sum;
  }

  /** Apply a norm, and record its input and output. */
  normalize(name, input, trace) {
    const output = this[name].forward(input);
    trace.norms[name] = { input, output };
    return output;
  }
}
