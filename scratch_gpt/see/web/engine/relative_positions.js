/**
 * Relative positions: a learned bias of the attention scores that depends on the distance between query and
 * key (T5, Raffel et al. 2019, arXiv:1910.10683, section 2.1).
 *
 * Distances are grouped into buckets: one for each small distance, and logarithmically wider ones for larger
 * distances. All layers of a stack share one table, a row per bucket and a column per head.
 */

/**
 * The bucket of a relative position, from 0 to `numBuckets` - 1. Half of the buckets of a direction are for
 * the distances 0, 1, 2, …; the others divide the larger ones up to `maxDistance` evenly by their logarithm,
 * and the last one also has all distances beyond (T5, arXiv:1910.10683).
 *
 * Each step is rounded to float32, as in torch, which decides where a distance is exactly on the border of
 * two buckets. torch's logarithm of some numbers is off by one unit in the last place; of 96 buckets up to
 * 81, distance 36 is therefore in another bucket there. With powers of two, as in T5, all are the same.
 *
 * @param {number} relativePosition index of the key minus index of the query
 * @param {number} numBuckets
 * @param {number} maxDistance
 * @param {boolean} bidirectional whether later keys have their own buckets; otherwise they share that of
 *   distance 0
 * @returns {number}
 */
export function relativePositionBucket(relativePosition, numBuckets, maxDistance, bidirectional) {
  let first = 0;
  let distance = Math.max(-relativePosition, 0);
  if (bidirectional) {
    numBuckets = Math.floor(numBuckets / 2);
    first = relativePosition > 0 ? numBuckets : 0;
    distance = Math.abs(relativePosition);
  }
  const exact = Math.floor(numBuckets / 2);
  if (distance < exact) return first + distance;
  const logarithm = Math.fround(Math.log(Math.fround(distance / exact)));
  const fraction = Math.fround(logarithm / Math.fround(Math.log(maxDistance / exact))); // 0 and more
  const bucket = exact + Math.trunc(Math.fround(fraction * (numBuckets - exact)));
  return first + Math.min(bucket, numBuckets - 1);
}

/** The table of the biases, with a row per bucket and a column per query head. */
export class RelativePositionBias {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights of the stack
   * @param {boolean} bidirectional whether queries attend to later keys
   */
  constructor(config, weights, bidirectional) {
    const { data, shape } = weights.tensor("relative_bias.weight");
    [this.numBuckets, this.heads] = shape;
    this.weight = data;
    this.maxDistance = config.relative_attention_max_distance;
    this.bidirectional = bidirectional;
    this.buckets = new Map(); // by relative position
  }

  /**
   * The bias of a score.
   *
   * @param {number} head
   * @param {number} relativePosition index of the key minus index of the query
   * @returns {number}
   */
  bias(head, relativePosition) {
    let bucket = this.buckets.get(relativePosition);
    if (bucket === undefined) {
      const { numBuckets, maxDistance, bidirectional } = this;
      bucket = relativePositionBucket(relativePosition, numBuckets, maxDistance, bidirectional);
      this.buckets.set(relativePosition, bucket);
    }
    return this.weight[bucket * this.heads + head];
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
