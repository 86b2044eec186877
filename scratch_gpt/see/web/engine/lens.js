/**
 * The logit lens: what each layer would predict, if its output went through the last norm and the head
 * (nostalgebraist 2020, "interpreting GPT: the logit lens", lesswrong.com/posts/AcKRB8wDpdaN6v6ru).
 *
 * Dimension letters: T tokens, C hidden size, V vocabulary or labels.
 */

import { topIndices } from "#see/engine/sampling.js";
import { softmaxInPlace } from "#see/engine/tensor.js";

/**
 * The logits of the residual stream at any layer: the last norm and the head.
 *
 * @param {import("#see/engine/model.js").Model} model
 * @param {Float32Array} hidden (T, C)
 * @returns {Float32Array} (T, V)
 */
export function lensLogits(model, hidden) {
  const { finalNorm } = model.network;
  return model.network.head(finalNorm === null ? hidden : finalNorm.forward(hidden));
}

/**
 * The predictions of each layer at each position, with their entropy in nats.
 *
 * @param {import("#see/engine/model.js").Model} model
 * @param {import("#see/engine/gpt.js").Trace} trace of a recorded pass
 * @param {{top?: number}} options number of predictions
 * @returns {{ids: number[], probabilities: number[], entropy: number}[][]} for the embeddings and after each
 *   block, at each position
 */
export function logitLens(model, trace, { top = 5 } = {}) {
  return [trace.embeddings, ...trace.layers.map((layer) => layer.output)].map((hidden) => {
    const logits = lensLogits(model, hidden);
    const size = logits.length / trace.length; // V
    return Array.from({ length: trace.length }, (_, t) => {
      const probabilities = logits.slice(t * size, (t + 1) * size);
      softmaxInPlace(probabilities);
      const ids = topIndices(probabilities, top);
      return { ids, probabilities: ids.map((id) => probabilities[id]), entropy: entropy(probabilities) };
    });
  });
}

/**
 * The entropy of a distribution in nats (Shannon 1948).
 *
 * @param {Float32Array} probabilities (V,)
 * @returns {number}
 */
export function entropy(probabilities) {
  let sum = 0;
  for (const probability of probabilities) if (probability > 0) sum -= probability * Math.log(probability);
  return sum;
}
