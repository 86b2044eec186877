/**
 * The tree of a beam search: coordinates for translate.js, without a document.
 *
 * @typedef {object} TreeNode
 * @property {number} x - column: the step
 * @property {number} y - row
 * @property {number} id - token
 * @property {number} score - sum of log-probabilities
 * @property {boolean} ended - whether the text ends here
 * @property {boolean} isBest - whether it is part of the text that was chosen
 * @property {TreeNode | null} parent
 */

/**
 * Nodes of the candidates that were kept as beams, and of those that ended among the best.
 *
 * @param {import("#see/engine/beam_search.js").Candidate[][]} steps
 * @param {number[]} bestIds - the new tokens of the chosen text
 * @param {number} numBeams
 * @returns {TreeNode[]}
 */
export function beamTree(steps, bestIds, numBeams) {
  const nodes = [];
  let beams = [];
  steps.forEach((candidates, x) => {
    // Beams that have not ended at the last step are not continued
    const isLast = x === steps.length - 1 && candidates.some(({ ended }) => ended);
    const kept = candidates.filter(
      ({ beam, ended }, rank) => beam >= 0 && (ended ? rank < numBeams : !isLast),
    );
    const ended = candidates
      .slice(0, numBeams)
      .filter((candidate) => candidate.ended && !kept.includes(candidate));
    const next = [];
    [...kept, ...ended]
      .sort((a, b) => b.score - a.score)
      .forEach((candidate, y) => {
        const ids = candidate.ids.slice(-(x + 1));
        const isBest =
          ids.every((id, index) => id === bestIds[index]) &&
          (!candidate.ended || ids.length === bestIds.length);
        const parent = beams[candidate.parent] ?? null;
        const node = {
          x,
          y,
          id: candidate.id,
          score: candidate.score,
          ended: candidate.ended,
          isBest,
          parent,
        };
        nodes.push(node);
        if (candidate.beam >= 0) next[candidate.beam] = node;
      });
    beams = next;
  });
  return nodes;
}

/**
 * The tokens from the first step to a node, with the log-probability that each added to the sum.
 *
 * @param {TreeNode} node
 * @returns {{id: number, logProbability: number}[]}
 */
export function beamPath(node) {
  const path = [];
  for (let each = node; each; each = each.parent) {
    path.unshift({ id: each.id, logProbability: each.score - (each.parent?.score ?? 0) });
  }
  return path;
}
