/**
 * Weights of tokens and n-grams for text classification, computed from the labels before training: how
 * informative they are about the labels, as the range over the labels of their log-probabilities in a naive
 * Bayes model (Wang and Manning 2012, aclanthology.org/P12-2018).
 *
 * Dimension letters: T tokens, V vocabulary.
 */

/** The weights of tokens (V,) and of n-grams (number of n-gram sizes, buckets). */
export class TokenWeights {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   */
  constructor(config, weights) {
    this.sizes = config.ngram_sizes;
    this.tokens = weights.tensor("tokens").data;
    this.ngrams = weights.tensor("ngrams").data;
    this.buckets = config.ngram_buckets;
  }

  /**
   * Weights of tokens; 0 for all but the first occurrence of a token in a text.
   *
   * @param {ArrayLike<number>} ids (T,)
   * @returns {Float32Array} (T,)
   */
  forTokens(ids) {
    return firstOccurrences(ids).map((first, t) => first * this.tokens[ids[t]]);
  }

  /**
   * Weights of n-grams; 0 for all but the first occurrence of an n-gram in a text, and for n-grams with a
   * token of weight 0, such as `<mask>` or padding.
   *
   * @param {number} sizeIdx index of n in `config.ngram_sizes`
   * @param {Int32Array} bucketIds bucket of the n-gram that ends at each token (T,)
   * @param {ArrayLike<number>} ids (T,)
   * @returns {Float32Array} (T,)
   */
  forNgrams(sizeIdx, bucketIds, ids) {
    const size = this.sizes[sizeIdx];
    const isValid = (t) => {
      for (let back = 0; back < size; back++) if (t < back || this.tokens[ids[t - back]] === 0) return false;
      return true;
    };
    const valid = bucketIds.map((bucket, t) => (isValid(t) ? bucket : -1));
    const table = this.ngrams.subarray(sizeIdx * this.buckets, (sizeIdx + 1) * this.buckets);
    return firstOccurrences(valid).map((first, t) => (valid[t] < 0 ? 0 : first * table[bucketIds[t]]));
  }
}

/**
 * Whether each id is the first occurrence of its value.
 *
 * @param {ArrayLike<number>} ids (T,)
 * @returns {Float32Array} 1 or 0 (T,)
 */
export function firstOccurrences(ids) {
  const seen = new Set();
  return Float32Array.from(ids, (id) => {
    const isFirst = !seen.has(id);
    seen.add(id);
    return isFirst ? 1 : 0;
  });
}

/**
 * Multiply the vector of each token by its weight, in place.
 *
 * @param {Float32Array} vectors (T, C)
 * @param {Float32Array} weights (T,)
 * @returns {Float32Array} the vectors
 */
export function scaleRows(vectors, weights) {
  const size = vectors.length / weights.length;
  for (let i = 0; i < vectors.length; i++) vectors[i] *= weights[Math.floor(i / size)];
  return vectors;
}
