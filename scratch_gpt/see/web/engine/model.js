/**
 * The model of a page: what all kinds of models have in common, for the views and the console.
 */

import { beamSearch } from "#see/engine/beam_search.js";
import { ScratchBigramForCausalLM } from "#see/engine/bigram.js";
import {
  ScratchEncoderForMaskedLM,
  ScratchEncoderForSequenceClassification,
  ScratchEncoderModel,
} from "#see/engine/encoder.js";
import { ScratchGPTForCausalLM, ScratchGPTForSequenceClassification } from "#see/engine/gpt.js";
import { generate } from "#see/engine/generation.js";
import { ScratchSeq2SeqForConditionalGeneration } from "#see/engine/seq2seq.js";
import { ServedNetwork } from "#see/engine/served_network.js";
import { Weights } from "#see/engine/tensor.js";
import { Tokenizer } from "#see/tokenization/tokenizer.js";

/** The class of each kind of model, by its config's `model_type`. */
const NETWORKS = {
  scratch_gpt: { causal: ScratchGPTForCausalLM, classifier: ScratchGPTForSequenceClassification },
  scratch_encoder: {
    encoder: ScratchEncoderModel,
    masked: ScratchEncoderForMaskedLM,
    classifier: ScratchEncoderForSequenceClassification,
  },
  scratch_seq2seq: { seq2seq: ScratchSeq2SeqForConditionalGeneration },
  scratch_bigram: { bigram: ScratchBigramForCausalLM },
};

/**
 * Load a model from a page.
 *
 * @param {Object} payload the model's part of the page's content, see payload.py
 * @param {Uint8Array | null} bytes its weights; null for a model that a server computes
 * @returns {Model}
 * @throws {Error} if the page has no code for this kind of model
 */
export function loadModel(payload, bytes) {
  const network = loadNetwork(payload, bytes);
  const { source = null, target = null } = payload.tokenizers ?? {};
  const tokenizer = source === null ? null : new Tokenizer(source);
  return new Model(payload, network, tokenizer, target === null ? tokenizer : new Tokenizer(target));
}

/** The model itself; arguments as of `loadModel`. */
function loadNetwork(payload, bytes) {
  if (payload.served) return new ServedNetwork(payload);
  const Network = NETWORKS[payload.config.model_type]?.[payload.kind];
  if (Network === undefined) throw new Error(`unknown model: ${payload.config.model_type}, ${payload.kind}`);
  return new Network(payload.config, Weights.fromBytes(payload, bytes), payload.rotary);
}

/**
 * A model with other weights, such as those of an earlier step of its training, and the same tokenizers.
 *
 * @param {Model} model
 * @param {Object} payload the model's part of the page's content, with the `tensors` of these weights
 * @param {Uint8Array} bytes the weights
 * @returns {Model}
 */
export function withWeights(model, payload, bytes) {
  return new Model(payload, loadNetwork(payload, bytes), model.tokenizer, model.targetTokenizer);
}

/** A model with its tokenizers. */
export class Model {
  /**
   * @param {Object} payload
   * @param {Object} network the model itself
   * @param {Object | null} tokenizer of the text or, of an encoder-decoder, of the source
   * @param {Object | null} targetTokenizer of the target; the same object without one of its own
   */
  constructor(payload, network, tokenizer, targetTokenizer) {
    this.name = payload.name;
    this.kind = payload.kind;
    this.config = payload.config;
    this.generation = payload.generation;
    this.labels = payload.labels;
    this.maxPositions = payload.max_positions;
    this.network = network;
    this.tokenizer = tokenizer;
    this.targetTokenizer = targetTokenizer;
  }

  /**
   * @param {string} text
   * @returns {number[]} its token ids, with the special tokens that the tokenizer adds
   */
  encode(text) {
    return this.tokenizer.encode(text);
  }

  /**
   * @param {ArrayLike<number>} ids of the text or, of an encoder-decoder, of the target
   * @returns {string} the text without special tokens
   */
  decode(ids) {
    return this.targetTokenizer.decode(ids);
  }

  /** @returns {import("#see/engine/cache.js").Cache} an empty cache */
  newCache() {
    if (this.network.newCache === undefined) throw new TypeError(`a ${this.kind} model has no cache`);
    return this.network.newCache();
  }

  /**
   * Run the model.
   *
   * @param {ArrayLike<number>} ids (T,); of an encoder-decoder the decoder's input, which begins with its
   *   start token
   * @param {import("#see/engine/gpt.js").Options & {sourceIds?: ArrayLike<number>}} options
   * @returns {import("#see/engine/gpt.js").Trace}
   * @throws {RangeError} if there are more tokens than positions, no token, or one that does not exist
   */
  forward(ids, options = {}) {
    const count = Math.max((options.cache?.length ?? 0) + ids.length, options.sourceIds?.length ?? 0);
    if (count > this.maxPositions) {
      throw new RangeError(`there are ${count} tokens, and this model has ${this.maxPositions} positions`);
    }
    return this.network.forward(ids, options);
  }

  /**
   * The logits of the last position; of a classifier, the scores of the labels.
   *
   * @param {...ArrayLike<number>} ids the ids of the text or, of an encoder-decoder, the source and the
   *   decoder's input
   * @returns {Float32Array} (V,) or (K,)
   */
  logits(...ids) {
    const [text, sourceIds] = this.kind === "seq2seq" ? [ids[1], ids[0]] : [ids[0], []];
    const { logits, scores } = this.forward(text, { sourceIds, lastLogits: true });
    return scores ?? logits;
  }

  /**
   * Generate a continuation of a text, or the translation of a source; by default greedily.
   *
   * @param {ArrayLike<number>} ids of the text or the source
   * @param {number} count maximum number of new tokens
   * @param {import("#see/engine/generation.js").GenerationOptions} options
   * @returns {number[]} the new ids
   */
  generate(ids, count, options = {}) {
    const { prompt, sourceIds } = this.promptFor(ids);
    return generate(this, prompt, count, { ...options, sourceIds });
  }

  /**
   * Beam search, with all its steps; the arguments are those of `generate`.
   *
   * @param {ArrayLike<number>} ids
   * @param {number} count
   * @param {import("#see/engine/generation.js").GenerationOptions} options
   * @returns {import("#see/engine/beam_search.js").BeamSearchResult}
   */
  beamSearch(ids, count, options = {}) {
    const { prompt, sourceIds } = this.promptFor(ids);
    const numBeams = options.numBeams ?? this.generation.num_beams;
    const maxLength = Math.min(prompt.length + count, this.maxPositions);
    return beamSearch(this, prompt, maxLength, { ...options, numBeams, sourceIds });
  }

  /** The tokens that generation begins with, and the source of an encoder-decoder. */
  promptFor(ids) {
    if (this.generation === null) throw new TypeError(`a ${this.kind} model does not generate`);
    const given = Array.from(ids);
    if (this.kind !== "seq2seq") return { prompt: given, sourceIds: [] };
    return { prompt: [this.generation.decoder_start_token_id], sourceIds: given };
  }
}
