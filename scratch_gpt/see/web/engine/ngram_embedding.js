/**
 * N-gram embeddings: hashed embeddings of n-grams. Attention has to learn which tokens belong together; with
 * n-gram embeddings, n-grams are features from the start.
 *
 * Dimension letters: T tokens, C hidden size.
 */

const MULTIPLIER = 16_777_619; // the 32-bit FNV prime, with which few n-grams of characters collide

/** A vector for each n-gram. Every n-gram is hashed to one of a fixed number of buckets, where n-grams may
 * collide (Joulin et al. 2016, arXiv:1607.01759). */
export class NgramEmbedding {
  /**
   * @param {number} size n
   * @param {number} fillId id used in place of the tokens before the first one of a text
   * @param {import("#see/engine/tensor.js").Weights} weights
   */
  constructor(size, fillId, weights) {
    this.size = size;
    this.fillId = fillId;
    this.embedding = weights.embedding("embedding");
  }

  /**
   * The bucket of the n-gram that ends at each token: a polynomial hash of its ids, modulo the number of
   * buckets. That is a power of two, so the remainder is the last bits, which `Math.imul` computes exactly,
   * also of negative ids.
   *
   * @param {ArrayLike<number>} ids all tokens of the text so far (S,)
   * @param {number} start index of the first token whose bucket is wanted
   * @returns {Int32Array} (S - start,)
   */
  bucketIds(ids, start = 0) {
    const lastBits = this.embedding.count - 1;
    const buckets = new Int32Array(ids.length - start);
    for (let t = start; t < ids.length; t++) {
      let bucket = 0;
      for (let back = this.size - 1; back >= 0; back--) {
        const token = t < back ? this.fillId : ids[t - back];
        bucket = (Math.imul(bucket, MULTIPLIER) + token) & lastBits;
      }
      buckets[t - start] = bucket;
    }
    return buckets;
  }

  /**
   * @param {Int32Array} bucketIds (T,)
   * @returns {Float32Array} (T, C)
   */
  forward(bucketIds) {
    return this.embedding.forward(bucketIds);
  }
}
