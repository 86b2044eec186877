/**
 * Position encodings: attention is invariant to the order of tokens, so positions are encoded in its inputs.
 *
 * Learned positions (an `Embedding`) and sinusoidal ones are added to the token embeddings. Rotary position
 * embeddings rotate the queries and keys, so that their dot product depends only on the distance between two
 * tokens. Angles are rounded to float32, as in torch: far from the start, the rounding is visible in the
 * cosines.
 *
 * Dimension letters: T tokens, H heads, D head size, R rotated features of a head, C hidden size.
 */

/** Sinusoids of increasing wavelength: sines on even features, cosines on odd ones (Vaswani et al. 2017,
 * arXiv:1706.03762, section 3.5). */
export class SinusoidalPositions {
  /** @param {number} hiddenSize C */
  constructor(hiddenSize) {
    this.hiddenSize = hiddenSize;
  }

  /**
   * @param {ArrayLike<number>} positionIds (T,)
   * @returns {Float32Array} (T, C)
   */
  forward(positionIds) {
    const size = this.hiddenSize;
    const encodings = new Float32Array(positionIds.length * size);
    for (let even = 0; even < size; even += 2) {
      const frequency = Math.fround(10000 ** Math.fround(-even / size));
      for (let t = 0; t < positionIds.length; t++) {
        const angle = Math.fround(positionIds[t] * frequency);
        encodings[t * size + even] = Math.sin(angle);
        encodings[t * size + even + 1] = Math.cos(angle);
      }
    }
    return encodings;
  }
}

/**
 * @typedef {{cos: Float32Array, sin: Float32Array, half: number}} Rotation cosines and sines, each (T, R/2),
 *   and R/2
 */

/** Rotary position embedding (Su et al. 2021, arXiv:2104.09864): cosines and sines of position times
 * frequency. The frequencies of the scaled variants (linear, dynamic, llama3, yarn, longrope) are computed by
 * transformers and stored in the page. */
export class RotaryEmbedding {
  /**
   * @param {{inv_freq: number[], attention_scaling: number}} table frequencies (R/2,), and the factor of
   *   cosines and sines
   */
  constructor({ inv_freq, attention_scaling }) {
    this.invFreq = inv_freq;
    this.attentionScaling = attention_scaling;
  }

  /**
   * @param {ArrayLike<number>} positionIds (T,)
   * @returns {Rotation}
   */
  forward(positionIds) {
    const half = this.invFreq.length; // R/2
    const cos = new Float32Array(positionIds.length * half);
    const sin = new Float32Array(positionIds.length * half);
    for (let t = 0; t < positionIds.length; t++) {
      for (let i = 0; i < half; i++) {
        const angle = Math.fround(positionIds[t] * this.invFreq[i]);
        cos[t * half + i] = Math.cos(angle) * this.attentionScaling;
        sin[t * half + i] = Math.sin(angle) * this.attentionScaling;
      }
    }
    return { cos, sin, half };
  }
}

/**
 * Rotate, in place, each pair (x_i, x_{i+R/2}) of the first R features of queries or keys by the angle of its
 * position (Su et al. 2021, arXiv:2104.09864). The other features keep their values.
 *
 * @param {Float32Array} x (T, H, D)
 * @param {number} headDim D
 * @param {Rotation} rotation of the T tokens
 */
export function applyRotary(x, headDim, { cos, sin, half }) {
  const heads = x.length / headDim / (cos.length / half); // H
  for (let row = 0; row * headDim < x.length; row++) {
    const angles = Math.floor(row / heads) * half;
    for (let i = 0; i < half; i++) {
      const first = x[row * headDim + i];
      const second = x[row * headDim + half + i];
      x[row * headDim + i] = first * cos[angles + i] - second * sin[angles + i];
      x[row * headDim + half + i] = second * cos[angles + i] + first * sin[angles + i];
    }
  }
}

/**
 * The module of the position embeddings that are added to the token embeddings; null for rotary and relative
 * positions.
 *
 * @param {Object} config
 * @param {import("#see/engine/tensor.js").Weights} weights of the stack
 * @returns {import("#see/engine/tensor.js").Embedding | SinusoidalPositions | null}
 */
export function buildPositions(config, weights) {
  if (config.position_type === "learned") return weights.embedding("embed_positions");
  return config.position_type === "sinusoidal" ? new SinusoidalPositions(config.hidden_size) : null;
}

/**
 * The rotary embedding of each layer type; empty without rotary positions.
 *
 * @param {Object<string, {inv_freq: number[], attention_scaling: number}> | null} tables by layer type
 * @returns {Map<string, RotaryEmbedding>}
 */
export function buildRotary(tables) {
  const build = ([layerType, table]) => [layerType, new RotaryEmbedding(table)];
  return new Map(Object.entries(tables ?? {}).map(build));
}

/**
 * Cosines and sines of the positions for each layer type; empty without rotary positions.
 *
 * @param {Map<string, RotaryEmbedding>} rotaryEmb what `buildRotary` returned
 * @param {ArrayLike<number>} positionIds (T,)
 * @returns {Map<string, Rotation>}
 */
export function rotaryByLayerType(rotaryEmb, positionIds) {
  return new Map([...rotaryEmb].map(([layerType, rotary]) => [layerType, rotary.forward(positionIds)]));
}

/**
 * @param {number} start
 * @param {number} count
 * @returns {number[]} start, start + 1, …
 */
export function countPositions(start, count) {
  return Array.from({ length: count }, (_, i) => start + i);
}
