/**
 * Edits: parts of a model that are switched off, to see what they contribute (ablation; Michel, Levy and
 * Neubig 2019, "Are sixteen heads really better than one?", arXiv:1905.10650).
 *
 * @typedef {Object} Edits of a stack; in an encoder-decoder those of the decoder
 * @property {Set<string>} heads "layer.head": the head's output is 0, so that its share of the sum is absent
 * @property {Set<string>} crossHeads the same for cross-attention
 * @property {Set<number>} attentions layers whose self-attention adds 0 to the residual stream
 * @property {Set<number>} crossAttentions layers whose cross-attention adds 0
 * @property {Set<number>} mlps layers whose feed-forward network adds 0
 * @property {Set<number>} blocks layers that are the identity
 * @property {Set<number>} hiddenTokens positions that no other position attends to. In an encoder, they are
 *   treated as padding at their positions: they are also left out of pooling, n-grams and token weights, and
 *   of cross-attention.
 * @property {Edits | null} encoder those of the encoder of an encoder-decoder
 */

const SETS = ["heads", "crossHeads", "attentions", "crossAttentions", "mlps", "blocks", "hiddenTokens"];

/**
 * Edits with an empty set for those that are not given.
 *
 * @param {Partial<Edits> | null | undefined} edits
 * @returns {Edits}
 */
export function completeEdits(edits) {
  const complete = { encoder: edits?.encoder ?? null };
  for (const name of SETS) complete[name] = new Set(edits?.[name] ?? []);
  return complete;
}
