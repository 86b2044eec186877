/**
 * Beam search: the most probable texts are continued together, and the best finished one is returned (Graves
 * 2012, arXiv:1211.3711; with a length penalty as in Wu et al. 2016, arXiv:1609.08144). The rules of when a
 * beam is finished and when the search stops are those of `generate` of transformers, so that the texts are
 * the same.
 *
 * Dimension letters: V vocabulary.
 */

import { processLogits } from "#see/engine/logits_processors.js";
import { topIndices } from "#see/engine/sampling.js";

const IMPOSSIBLE = -1e9; // score of a beam that must not be chosen

/**
 * @typedef {Object} Candidate a continuation of a beam
 * @property {number} parent index of the beam that it continues
 * @property {number} id its new token
 * @property {number} score sum of the log-probabilities of its new tokens
 * @property {number[]} ids all its tokens, with the prompt
 * @property {boolean} ended whether it ends here: by a token that ends a text, or by the maximum length
 * @property {number} beam index of the beam that it becomes, or -1
 */

/**
 * @typedef {Object} BeamSearchResult
 * @property {number[]} ids the new tokens of the best text
 * @property {number} score its score, divided by its length to the power of the length penalty
 * @property {{ids: number[], score: number}[]} finished the best texts, best first
 * @property {Candidate[][]} steps the candidates of each step, best first
 */

/** log softmax(x) in float64. */
function logSoftmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
  return Float64Array.from(logits, (logit) => logit - largest - Math.log(total));
}

/** The best of objects with a score, best first; of equal ones the first. */
function best(items, count, score = (item) => item.score) {
  return topIndices(items.map(score), count).map((index) => items[index]);
}

/** The scores of all continuations of a beam (V,): its own plus their log-probabilities. */
function scoresOf(model, beam, context) {
  const { promptLength, maxLength, pass } = context;
  const { logits } = model.forward(beam.ids.slice(beam.cache.length), { ...pass, cache: beam.cache });
  const scores = logSoftmax(logits);
  processLogits(scores, beam.ids, promptLength, maxLength, model.generation);
  return scores.map((score) => score + beam.score);
}

/** The best continuations of all beams together. */
function candidatesOf(model, beams, count, context) {
  const found = beams.flatMap((beam, parent) => {
    const scores = scoresOf(model, beam, context);
    return topIndices(scores, count).map((id) => ({ parent, id, score: scores[id] }));
  });
  return best(found, count).map(({ parent, id, score }) => {
    const ids = [...beams[parent].ids, id];
    const ended = context.ends.includes(id) || ids.length >= context.maxLength;
    return { parent, id, score, ids, ended, beam: -1 };
  });
}

/** The beams of the next step: the best candidates that have not ended. Each gets a cache of its own. */
function nextBeams(candidates, beams, numBeams) {
  const used = new Set();
  const scoreOf = ({ score, ended }) => score + (ended ? IMPOSSIBLE : 0);
  return best(candidates, numBeams, scoreOf).map((candidate, index) => {
    candidate.beam = index;
    const { cache } = beams[candidate.parent];
    const own = used.has(cache) ? cache.copy() : cache;
    used.add(cache);
    return { ids: candidate.ids, score: scoreOf(candidate), cache: own };
  });
}

/**
 * Continue a text by beam search.
 *
 * @param {import("#see/engine/model.js").Model} model its generation config has `length_penalty` and
 *   `early_stopping`
 * @param {number[]} prompt ids of the text or, of an encoder-decoder, the decoder's start token
 * @param {number} maxLength maximum length of the text, with the prompt
 * @param {import("#see/engine/generation.js").GenerationOptions & {sourceIds?: number[]}} options
 * @returns {BeamSearchResult}
 */
export function beamSearch(model, prompt, maxLength, options) {
  const { numBeams, stopAtEnd = true, edits = null, sourceIds } = options;
  const { length_penalty: penalty, early_stopping: early } = model.generation;
  const ends = stopAtEnd ? model.generation.eos_token_ids : [];
  const pass = { edits, lastLogits: true, sourceIds };
  const context = { promptLength: prompt.length, maxLength, ends, pass };
  const count = Math.max(2, 1 + ends.length) * numBeams;
  const steps = [];
  let beams = [{ ids: [...prompt], score: 0, cache: model.newCache() }];
  let finished = []; // at most numBeams, best first
  let improvable = true;
  while (improvable && beams.length > 0 && beams[0].ids.length < maxLength) {
    const length = beams[0].ids.length + 1 - prompt.length; // of the candidates
    const candidates = candidatesOf(model, beams, count, context);
    steps.push(candidates);
    beams = nextBeams(candidates, beams, numBeams);
    const isFull = finished.length === numBeams && early === true;
    const ended = isFull ? [] : candidates.slice(0, numBeams).filter((candidate) => candidate.ended);
    const scored = ended.map(({ ids, score }) => ({ ids, score: score / length ** penalty }));
    finished = best([...finished, ...scored], numBeams);
    const bestLength = early === "never" && penalty > 0 ? maxLength - prompt.length : length;
    const possible = beams[0].score / bestLength ** penalty;
    improvable = finished.length < numBeams || possible > finished[numBeams - 1].score;
    if (finished.length === numBeams && early === true) break;
    if (candidates.every((candidate) => candidate.ended)) break;
  }
  const results = finished.map(({ ids, score }) => ({ ids: ids.slice(prompt.length), score }));
  return { ids: results[0]?.ids ?? [], score: results[0]?.score ?? 0, finished: results, steps };
}
