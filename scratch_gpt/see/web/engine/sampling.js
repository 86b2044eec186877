/**
 * Sampling: from logits to the probabilities of the next token, and to a token.
 *
 * Dimension letters: V vocabulary.
 */

import { softmaxInPlace } from "#see/engine/tensor.js";

/**
 * Index of the largest number; the first one of equal ones.
 *
 * @param {ArrayLike<number>} values
 * @returns {number}
 */
export function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}

/**
 * The indices of the largest numbers, the largest first; of equal ones the first.
 *
 * @param {ArrayLike<number>} values
 * @param {number} count
 * @returns {number[]}
 */
export function topIndices(values, count) {
  if (count >= values.length / 4) {
    const order = Array.from({ length: values.length }, (_, i) => i);
    return order.sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
  }
  const best = []; // in descending order
  for (let i = 0; i < values.length; i++) {
    if (best.length === count && !(values[i] > values[best[count - 1]])) continue;
    let place = best.length;
    while (place > 0 && values[i] > values[best[place - 1]]) place--;
    best.splice(place, 0, i);
    if (best.length > count) best.pop();
  }
  return best;
}

/**
 * The probabilities of the next token: the softmax of logits / temperature, of the `topK` most probable
 * tokens (Fan et al. 2018, arXiv:1805.04833), of which the most probable ones are kept that together have at
 * least the probability `topP` (nucleus sampling, Holtzman et al. 2019, arXiv:1904.09751).
 *
 * @param {Float32Array} logits (V,)
 * @param {Object} options
 * @param {number} [options.temperature] 0 gives the most probable token all probability
 * @param {number} [options.topK] 0 keeps all tokens
 * @param {number} [options.topP] 1 keeps all tokens
 * @returns {Float32Array} (V,)
 */
export function distribution(logits, { temperature = 1, topK = 0, topP = 1 } = {}) {
  const probabilities = new Float32Array(logits.length);
  if (temperature === 0) {
    probabilities[argmax(logits)] = 1;
    return probabilities;
  }
  const scores = Float64Array.from(logits, (logit) => logit / temperature);
  if (topK > 0 && topK < scores.length) {
    const least = scores[topIndices(scores, topK)[topK - 1]];
    for (let i = 0; i < scores.length; i++) if (scores[i] < least) scores[i] = -Infinity;
  }
  softmaxInPlace(scores);
  if (topP < 1) keepNucleus(scores, topP);
  probabilities.set(scores);
  return probabilities;
}

/** Keep the fewest most probable tokens that together have at least the probability `topP`; the others get 0.
 * */
function keepNucleus(probabilities, topP) {
  const order = topIndices(probabilities, probabilities.length);
  let total = 0;
  let kept = 0;
  while (kept < order.length && (kept === 0 || total < topP)) total += probabilities[order[kept++]];
  for (const id of order.slice(kept)) probabilities[id] = 0;
  for (const id of order.slice(0, kept)) probabilities[id] /= total;
}

/**
 * Draw a token.
 *
 * @param {Float32Array} probabilities (V,)
 * @param {function(): number} random returns a number in [0, 1)
 * @returns {number}
 */
export function sample(probabilities, random) {
  let rest = random() * probabilities.reduce((sum, probability) => sum + probability, 0);
  let last = 0;
  for (let id = 0; id < probabilities.length; id++) {
    if (probabilities[id] === 0) continue;
    last = id;
    rest -= probabilities[id];
    if (rest < 0) break;
  }
  return last;
}

/**
 * A generator of random numbers with a seed: xoshiro128** (Blackman and Vigna 2018, arXiv:1805.01407), whose
 * state is filled by SplitMix32 from the seed.
 *
 * @param {number} seed an integer
 * @returns {function(): number} returns numbers in [0, 1)
 */
export function randomGenerator(seed) {
  let mixed = seed | 0;
  const state = Uint32Array.from({ length: 4 }, () => {
    mixed = (mixed + 0x9e3779b9) | 0;
    let z = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
    return z ^ (z >>> 16);
  });
  const rotate = (x, count) => (x << count) | (x >>> (32 - count));
  return () => {
    const result = Math.imul(rotate(Math.imul(state[1], 5), 7), 9) >>> 0;
    const shifted = state[1] << 9;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= shifted;
    state[3] = rotate(state[3], 11);
    return result / 2 ** 32;
  };
}
