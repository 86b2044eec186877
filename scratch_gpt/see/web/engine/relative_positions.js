/**
 * Relative positions: a learned bias of the attention scores that depends on the distance between query and
 * key (T5, Raffel et al. 2019, arXiv:1910.10683, section 2.1).
 *
 * Distances are grouped into buckets: one for each small distance, and logarithmically wider ones for larger
 * distances. All layers of a stack share one table, a row per bucket and a column per head.
 */

/** The table of the biases, with a row per bucket and a column per query head. */
export class RelativePositionBias {
  /**
   * @param {Object} config `relative_attention_buckets` has the bucket of each distance to an earlier key
   * @param {import("#see/engine/tensor.js").Weights} weights of the stack
   * @param {boolean} bidirectional whether queries attend to later keys, which then have their own buckets
   */
  constructor(config, weights, bidirectional) {
    const { data, shape } = weights.tensor("relative_bias.weight");
    [this.numBuckets, this.heads] = shape;
    this.weight = data;
    this.buckets = config.relative_attention_buckets[bidirectional ? "bidirectional" : "causal"];
    this.bidirectional = bidirectional;
  }

  /**
   * The bucket of a relative position, from 0 to the number of buckets - 1. Half of the buckets of a
   * direction are for the distances 0, 1, 2, …; the others divide the larger ones evenly by their logarithm,
   * and the last one also has all distances beyond (T5, arXiv:1910.10683).
   *
   * @param {number} relativePosition index of the key minus index of the query
   * @returns {number}
   */
  bucket(relativePosition) {
    const { buckets, bidirectional } = this;
    if (relativePosition > 0 && !bidirectional) return buckets[0];
    const first = relativePosition > 0 ? Math.floor(this.numBuckets / 2) : 0;
    return first + buckets[Math.min(Math.abs(relativePosition), buckets.length - 1)];
  }

  /**
   * The bias of a score.
   *
   * @param {number} head
   * @param {number} relativePosition index of the key minus index of the query
   * @returns {number}
   */
  bias(head, relativePosition) {
    return this.weight[this.bucket(relativePosition) * this.heads + head];
  }
}

/**
 * The relative positions of a stack; null for other positions.
 *
 * @param {Object} config
 * @param {import("#see/engine/tensor.js").Weights} weights of the stack
 * @param {boolean} bidirectional
 * @returns {RelativePositionBias | null}
 */
export function buildRelativeBias(config, weights, bidirectional) {
  if (config.position_type !== "relative") return null;
  return new RelativePositionBias(config, weights, bidirectional);
}
