/**
 * Logits processors: what the generation config of a model forbids, forces or penalises, in the order of
 * transformers.
 *
 * Dimension letters: V vocabulary.
 */

/** Let only these tokens be possible. */
function force(scores, ids) {
  scores.fill(-Infinity);
  for (const id of ids) scores[id] = 0;
}

/** Divide positive scores of tokens that occurred by a penalty, and multiply negative ones (Keskar et al.
 * 2019, CTRL, arXiv:1909.05858). */
function penaliseRepetition(scores, ids, penalty) {
  for (const id of new Set(ids)) scores[id] = scores[id] < 0 ? scores[id] * penalty : scores[id] / penalty;
}

/** Forbid tokens that would complete an n-gram that occurred (Paulus et al. 2017, arXiv:1705.04304, section
 * 2.5). */
function forbidRepeatedNgrams(scores, ids, size) {
  const start = ids.length - size + 1; // of the n - 1 last tokens
  for (let i = 0; i + size <= ids.length; i++) {
    let same = true;
    for (let j = 0; j < size - 1 && same; j++) same = ids[i + j] === ids[start + j];
    if (same) scores[ids[i + size - 1]] = -Infinity;
  }
}

/** Forbid the last token of each sequence whose other tokens are the last ones of the text. */
function forbidSequences(scores, ids, sequences, ends) {
  for (const sequence of sequences) {
    if (sequence.length === 1 && ends.includes(sequence[0])) continue;
    if (sequence.length > ids.length && sequence.length > 1) continue;
    const start = ids.length - sequence.length + 1;
    if (sequence.slice(0, -1).every((id, i) => id === ids[start + i])) scores[sequence.at(-1)] = -Infinity;
  }
}

/**
 * Change the scores of the next token in place: logits in greedy decoding and sampling, log-probabilities in
 * beam search.
 *
 * @param {Float32Array | Float64Array} scores (V,)
 * @param {number[]} ids of the text so far, with the prompt or the decoder's start token
 * @param {number} promptLength
 * @param {number} maxLength maximum length of the text
 * @param {Object} generation the generation config
 */
export function processLogits(scores, ids, promptLength, maxLength, generation) {
  const { eos_token_ids: ends, forced_bos_token_id: first } = generation;
  const newTokens = ids.length - promptLength;
  if (generation.repetition_penalty !== 1) penaliseRepetition(scores, ids, generation.repetition_penalty);
  if (generation.no_repeat_ngram_size > 0) forbidRepeatedNgrams(scores, ids, generation.no_repeat_ngram_size);
  forbidSequences(scores, ids, generation.bad_words_ids, ends);
  if (ids.length < generation.min_length || newTokens < generation.min_new_tokens) {
    for (const id of ends) scores[id] = -Infinity;
  }
  if (first !== null && ids.length === 1) force(scores, [first]);
  const last = generation.forced_eos_token_ids;
  if (last.length > 0 && ids.length === maxLength - 1) force(scores, last);
  for (const id of generation.suppress_tokens) scores[id] = -Infinity;
  if (newTokens === 0) for (const id of generation.begin_suppress_tokens) scores[id] = -Infinity;
}
