/**
 * Normalization: scale the features of each token to unit variance or unit root mean square, so that deep
 * stacks train.
 *
 * Dimension letters: T tokens, C hidden size.
 */

/** Layer normalization (Ba, Kiros and Hinton 2016, arXiv:1607.06450). */
export class LayerNorm {
  /**
   * @param {Float32Array} weight (C,)
   * @param {Float32Array | null} bias (C,)
   * @param {number} eps
   */
  constructor(weight, bias, eps) {
    this.size = weight.length;
    this.weight = weight;
    this.bias = bias;
    this.eps = eps;
  }

  /**
   * y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, for each token.
   *
   * @param {Float32Array} x (T, C)
   * @returns {Float32Array} (T, C)
   */
  forward(x) {
    const { size, weight, bias, eps } = this;
    const y = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += size) {
      let mean = 0;
      for (let i = 0; i < size; i++) mean += x[start + i];
      mean /= size;
      let variance = 0;
      for (let i = 0; i < size; i++) variance += (x[start + i] - mean) ** 2;
      const scale = 1 / Math.sqrt(variance / size + eps);
      for (let i = 0; i < size; i++) {
        y[start + i] = (x[start + i] - mean) * scale * weight[i] + (bias === null ? 0 : bias[i]);
      }
    }
    return y;
  }
}

/** Root-mean-square normalization (Zhang and Sennrich 2019, arXiv:1910.07467). */
export class RMSNorm {
  /**
   * @param {Float32Array | null} weight (C,)
   * @param {number} size C
   * @param {number} eps
   */
  constructor(weight, size, eps) {
    this.size = size;
    this.weight = weight;
    this.eps = eps;
  }

  /**
   * y = x / sqrt(mean(x^2) + eps) * weight, for each token.
   *
   * @param {Float32Array} x (T, C)
   * @returns {Float32Array} (T, C)
   */
  forward(x) {
    const { size, weight, eps } = this;
    const y = new Float32Array(x.length);
    for (let start = 0; start < x.length; start += size) {
      let squares = 0;
      for (let i = 0; i < size; i++) squares += x[start + i] ** 2;
      const scale = 1 / Math.sqrt(squares / size + eps);
      for (let i = 0; i < size; i++) y[start + i] = x[start + i] * scale * (weight === null ? 1 : weight[i]);
    }
    return y;
  }
}

/**
 * The norm of type `config.norm_type`, over `size` features.
 *
 * @param {Object} config
 * @param {import("#see/engine/tensor.js").Weights} weights of the module that has the norm
 * @param {string} name
 * @param {number} size by default the hidden size
 * @returns {LayerNorm | RMSNorm}
 */
export function buildNorm(config, weights, name, size = config.hidden_size) {
  if (config.norm_type === "rms_norm_without_weight") return new RMSNorm(null, size, config.norm_eps);
  const weight = weights.tensor(`${name}.weight`).data;
  if (config.norm_type === "rms_norm") return new RMSNorm(weight, size, config.norm_eps);
  const bias = config.norm_type === "layer_norm" ? weights.tensor(`${name}.bias`).data : null;
  return new LayerNorm(weight, bias, config.norm_eps);
}
