/**
 * The logit lens: what each layer would predict, if its output went through the last norm and the head
 * (nostalgebraist 2020, "interpreting GPT: the logit lens", lesswrong.com/posts/AcKRB8wDpdaN6v6ru).
 *
 * Dimension letters: T tokens, C hidden size, V vocabulary or labels.
 */

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
