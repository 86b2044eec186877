/**
 * Generation: greedy decoding, sampling and beam search, with a cache.
 *
 * Dimension letters: V vocabulary.
 */

import { beamSearch } from "#see/engine/beam_search.js";
import { processLogits } from "#see/engine/logits_processors.js";
import { argmax, distribution, randomGenerator, sample } from "#see/engine/sampling.js";

/**
 * @typedef {Object} GenerationOptions
 * @property {number} [temperature] 0 (the default) is greedy decoding
 * @property {number} [topK] 0 keeps all tokens
 * @property {number} [topP] 1 keeps all tokens
 * @property {number} [seed]
 * @property {number} [numBeams] above 1 for beam search
 * @property {boolean} [stopAtEnd] whether to stop after a token that ends a text; by default true
 * @property {Partial<import("#see/engine/edits.js").Edits>} [edits]
 */

/**
 * Continue a text.
 *
 * @param {import("#see/engine/model.js").Model} model
 * @param {number[]} prompt ids of the text or, of an encoder-decoder, the decoder's start token
 * @param {number} count maximum number of new tokens; the model's positions limit it too
 * @param {GenerationOptions & {sourceIds?: number[]}} options
 * @returns {number[]} the new ids, with the one that ends the text
 */
export function generate(model, prompt, count, options = {}) {
  const maxLength = Math.min(prompt.length + count, model.maxPositions);
  if ((options.numBeams ?? 1) > 1) return beamSearch(model, prompt, maxLength, options).ids;
  const { temperature = 0, topK = 0, topP = 1, seed = 0, stopAtEnd = true, edits = null } = options;
  const random = randomGenerator(seed);
  const ends = stopAtEnd ? model.generation.eos_token_ids : [];
  const cache = model.newCache();
  const ids = [...prompt];
  while (ids.length < maxLength) {
    const pass = { cache, edits, lastLogits: true, sourceIds: options.sourceIds };
    const { logits } = model.forward(ids.slice(cache.length), pass);
    processLogits(logits, ids, prompt.length, maxLength, model.generation);
    const probabilities = temperature === 0 ? null : distribution(logits, { temperature, topK, topP });
    const next = probabilities === null ? argmax(logits) : sample(probabilities, random);
    ids.push(next);
    if (ends.includes(next)) break;
  }
  return ids.slice(prompt.length);
}
