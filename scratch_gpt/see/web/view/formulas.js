/**
 * Formulas with their numbers filled in, as lines of text: what the page shows when a number is selected.
 * Nothing here needs a document.
 *
 * Dimension letters: D head size, S keys, V vocabulary size, C hidden size.
 *
 * @typedef {object} Explanation
 * @property {string} title
 * @property {string} meaning - one or two sentences
 * @property {string[]} formula - lines: symbols first, then the same with numbers
 * @property {[string, string][]} values - names of further numbers, and the numbers
 * @property {string} concept - of the source excerpt
 */

import { percent } from "#see/view/charts.js";
import { decimal, logSumExp, norm } from "#see/view/numbers.js";

/**
 * A weight of attention: softmax of the scores of a query.
 *
 * @param {object} numbers
 * @param {Float32Array} numbers.query - (D,)
 * @param {Float32Array | null} numbers.keyVector - (D,); null if it was dropped from the window
 * @param {Float32Array} numbers.scores - of the query (S,), -Infinity where it may not attend
 * @param {number} numbers.key - index of the key
 * @param {number | null} numbers.softcap - c of scores = c tanh(scores / c)
 * @param {boolean} numbers.hasBias - whether the scores have a bias of relative positions
 * @param {string} numbers.queryToken
 * @param {string} numbers.keyToken
 * @returns {Explanation}
 */
export function explainAttention({ query, keyVector, scores, key, softcap, hasBias, queryToken, keyToken }) {
  const total = logSumExp(scores);
  const score = scores[key];
  const weight = Math.exp(score - total);
  const seen = scores.filter((value) => value > -Infinity).length;
  const isMasked = score === -Infinity;
  const formula = ["weight = exp(score) / Σ exp(scores)"];
  if (isMasked) formula.push("score = −∞, so the weight is 0");
  else {
    formula.push(`       = exp(${decimal(score)}) / ${decimal(Math.exp(total))} = ${decimal(weight)}`);
    if (keyVector) formula.push(...scoreLines(query, keyVector, score, softcap, hasBias));
  }
  return {
    title: `Attention from “${queryToken}” to “${keyToken}”`,
    meaning: isMasked
      ? "This token can't be seen from there: the mask sets its score to −∞."
      : `${percent(weight)} of what this head takes for “${queryToken}” comes from “${keyToken}”. ` +
        `The weights of the ${seen} tokens that can be seen add up to 100%.`,
    formula,
    values: [
      ["length of the query", decimal(norm(query))],
      ...(keyVector ? [["length of the key", decimal(norm(keyVector))]] : []),
      ["tokens that can be seen", String(seen)],
    ],
    concept: "attention",
  };
}

function scoreLines(query, key, score, softcap, hasBias) {
  let product = 0;
  for (let index = 0; index < query.length; index += 1) product += query[index] * key[index];
  const scaled = product / Math.sqrt(query.length);
  const lines = [
    "score = query · key / √D",
    `      = ${decimal(product)} / √${query.length} = ${decimal(scaled)}`,
  ];
  let last = scaled;
  if (softcap) {
    last = softcap * Math.tanh(scaled / softcap);
    lines.push(`capped: ${softcap} tanh(${decimal(scaled)} / ${softcap}) = ${decimal(last)}`);
  }
  if (hasBias)
    lines.push(
      `with the bias of this distance: ${decimal(last)} + ${decimal(score - last)} = ${decimal(score)}`,
    );
  return lines;
}

/**
 * The probability of a token: softmax of the logits.
 *
 * @param {Float32Array} logits - (V,)
 * @param {number} id
 * @param {string} token
 * @param {string} after - what it is the probability of, such as the text before
 * @returns {Explanation}
 */
export function explainProbability(logits, id, token, after) {
  const total = logSumExp(logits);
  const probability = Math.exp(logits[id] - total);
  let rank = 1;
  for (const logit of logits) if (logit > logits[id]) rank += 1;
  return {
    title: `Probability of “${token}”`,
    meaning:
      `The head gives each of the ${logits.length} choices a number, its logit. Softmax turns them ` +
      `into probabilities that add up to 100%. ${after}`,
    formula: [
      "probability = exp(logit) / Σ exp(logits)",
      `            = exp(${decimal(logits[id])}) / ${decimal(Math.exp(total))} = ` +
        `${decimal(probability)} = ${percent(probability)}`,
    ],
    values: [
      ["logit", decimal(logits[id])],
      ["ln Σ exp(logits)", decimal(total)],
      ["rank", `${rank} of ${logits.length}`],
    ],
    concept: "head",
  };
}

/**
 * The loss of a token: −ln of its probability.
 *
 * @param {Float32Array} logits - (V,)
 * @param {number} id
 * @param {string} token
 * @returns {Explanation}
 */
export function explainLoss(logits, id, token) {
  const total = logSumExp(logits);
  const loss = total - logits[id];
  return {
    title: `Loss of “${token}”`,
    meaning:
      "The loss is small if the model gave the token a high probability before it saw it. Training " +
      "changes the weights so that the mean loss becomes smaller.",
    formula: [
      "loss = −ln probability = ln Σ exp(logits) − logit",
      `     = ${decimal(total)} − ${decimal(logits[id])} = ${decimal(loss)} nats`,
      `     = −ln ${decimal(Math.exp(-loss))}`,
    ],
    values: [
      ["probability", percent(Math.exp(-loss))],
      ["in bits", decimal(loss / Math.LN2)],
    ],
    concept: "loss",
  };
}

/**
 * The entropy of a distribution.
 *
 * @param {Float32Array} probabilities - (V,)
 * @param {number[]} best - the most probable choices
 * @returns {Explanation}
 */
export function explainEntropy(probabilities, best) {
  let bits = 0;
  for (const p of probabilities) if (p > 0) bits -= p * Math.log2(p);
  const terms = best.map((id) => `${decimal(probabilities[id])} · log₂ ${decimal(probabilities[id])}`);
  return {
    title: "Entropy",
    meaning:
      "Entropy measures how uncertain the model is: 0 bits if it is certain, and one bit more " +
      "whenever there are twice as many equally probable choices.",
    formula: [
      "entropy = −Σ p log₂ p",
      `        = −(${terms.join(" + ")} + …)`,
      `        = ${decimal(bits)} bits`,
    ],
    values: [
      ["as an even choice among", `${decimal(2 ** bits)} tokens`],
      ["most possible", `${decimal(Math.log2(probabilities.length))} bits`],
    ],
    concept: "sampling",
  };
}

/**
 * One number of a norm's output, and the statistics that it is computed from.
 *
 * @param {Float32Array} input - (C,)
 * @param {Float32Array} output - (C,)
 * @param {object} config
 * @param {number} feature - index of the number that is shown
 * @returns {Explanation}
 */
export function explainNorm(input, output, config, feature) {
  const isLayerNorm = config.norm_type.startsWith("layer_norm");
  const mean = isLayerNorm ? input.reduce((sum, value) => sum + value, 0) / input.length : 0;
  const variance = input.reduce((sum, value) => sum + (value - mean) ** 2, 0) / input.length;
  const normalized = (input[feature] - mean) / Math.sqrt(variance + config.norm_eps);
  const [x, y] = [decimal(input[feature]), decimal(output[feature])];
  const hasWeight = config.norm_type !== "rms_norm_without_weight";
  const formula = isLayerNorm
    ? [
        "y = (x − mean) / √(variance + ε) · weight + bias",
        `(${x} − ${decimal(mean)}) / √(${decimal(variance)} + ${config.norm_eps}) = ${decimal(normalized)}`,
      ]
    : [
        "y = x / √(mean of x² + ε) · weight",
        `${x} / √(${decimal(variance)} + ${config.norm_eps}) = ${decimal(normalized)}`,
      ];
  if (config.norm_type === "layer_norm_without_bias") formula[0] = formula[0].replace(" + bias", "");
  if (!hasWeight) formula[0] = formula[0].replace(" · weight", "");
  else formula.push(`with the weight${config.norm_type === "layer_norm" ? " and the bias" : ""}: y = ${y}`);
  return {
    title: isLayerNorm ? "Layer normalization" : "Root-mean-square normalization",
    meaning:
      `A norm scales the ${input.length} numbers of a token to a common size, so that the next ` +
      `part works with numbers of a known size. Shown is number ${feature + 1}.`,
    formula,
    values: [
      ...(isLayerNorm
        ? [
            ["mean", decimal(mean)],
            ["variance", decimal(variance)],
          ]
        : [["mean of the squares", decimal(variance)]]),
      ["length before", decimal(norm(input))],
      ["length after", decimal(norm(output))],
    ],
    concept: isLayerNorm ? "layer_norm" : "rms_norm",
  };
}

/**
 * The length of the residual stream's vector of a token.
 *
 * @param {Float32Array} vector - (C,)
 * @param {string} where
 * @returns {Explanation}
 */
export function explainLength(vector, where) {
  const squares = Array.from(vector.subarray(0, 3), (value) => `${decimal(value)}²`);
  return {
    title: `Length of the residual stream ${where}`,
    meaning:
      `The residual stream of a token is a list of ${vector.length} numbers. Its length as a vector ` +
      "changes as the parts of the model add to it.",
    formula: [
      "length = √(x₁² + x₂² + x₃² + …)",
      `       = √(${squares.join(" + ")} + …) = ${decimal(norm(vector))}`,
    ],
    values: [["numbers", String(vector.length)]],
    concept: "block",
  };
}

/**
 * The experts that a router chose for a token.
 *
 * @param {Float32Array} probabilities - of all experts (E,)
 * @param {ArrayLike<number>} chosen - indices (K,)
 * @param {ArrayLike<number>} weights - of the chosen (K,)
 * @returns {Explanation}
 */
export function explainExperts(probabilities, chosen, weights) {
  const sum = Array.from(chosen).reduce((total, expert) => total + probabilities[expert], 0);
  const isNormalized = Math.abs(Array.from(weights).reduce((total, weight) => total + weight, 0) - 1) < 1e-3;
  const lines = Array.from(chosen, (expert, rank) => {
    const p = decimal(probabilities[expert]);
    const division = isNormalized ? `${p} / ${decimal(sum)} = ` : "";
    return `expert ${expert + 1}: ${division}${decimal(weights[rank])}`;
  });
  return {
    title: "Experts of this token",
    meaning:
      `A router gives each of the ${probabilities.length} feed-forward networks a probability. Only ` +
      `the ${chosen.length} most probable ones process the token; their outputs are added with these ` +
      "weights.",
    formula: [isNormalized ? "weight = p / Σ p of the chosen" : "weight = p", ...lines],
    values: [],
    concept: "router",
  };
}
