/**
 * Formulas of the numbers inside a model, with the numbers filled in, as lines of text; those of its answers
 * are in answer_formulas.js. Nothing here needs a document.
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

import { percent, wholePercent } from "#see/view/charts.js";
import { decimal, logSumExp, norm, precise, writtenSum } from "#see/view/numbers.js";

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
  const formula = ["weight = exp(score) / Σ exp(scores) = exp(score − ln Σ exp(scores))"];
  if (isMasked) formula.push("score = −∞, so the weight is 0");
  else {
    formula.push(
      `       = exp(${precise(score)} − ${precise(total)}) = ${decimal(weight)} = ${percent(weight)}`,
    );
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
    `      = ${precise(product)} / √${query.length} = ${precise(scaled)}`,
  ];
  let last = scaled;
  if (softcap) {
    last = softcap * Math.tanh(scaled / softcap);
    lines.push(`capped: ${softcap} · tanh(${precise(scaled)} / ${softcap}) = ${precise(last)}`);
  }
  if (hasBias)
    lines.push(
      `with the bias of this distance: ${precise(last)} + ${precise(score - last)} = ${precise(score)}`,
    );
  return lines;
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
  const x = precise(input[feature]);
  const hasBias = config.norm_type === "layer_norm";
  const hasWeight = config.norm_type !== "rms_norm_without_weight";
  const formula = isLayerNorm
    ? [
        "y = (x − mean) / √(variance + ε) · weight + bias",
        `(${x} − ${precise(mean)}) / √(${precise(variance)} + ${config.norm_eps}) = ${precise(normalized)}`,
      ]
    : [
        "y = x / √(mean of x² + ε) · weight",
        `${x} / √(${precise(variance)} + ${config.norm_eps}) = ${precise(normalized)}`,
      ];
  if (config.norm_type === "layer_norm_without_bias") formula[0] = formula[0].replace(" + bias", "");
  if (!hasWeight) formula[0] = formula[0].replace(" · weight", "");
  else formula.push(`with the weight${hasBias ? " and the bias" : ""}: y = ${decimal(output[feature])}`);
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
 * The length of a vector of a token: of the residual stream, or of what a part adds to it.
 *
 * @param {Float32Array} vector - (C,)
 * @param {string} title
 * @param {string} meaning
 * @returns {Explanation}
 */
export function explainLength(vector, title, meaning) {
  const sum = writtenSum(
    vector.map((value) => value * value),
    (index) => `${precise(Math.abs(vector[index]))}²`,
  );
  return {
    title,
    meaning: `${meaning} It is a list of ${vector.length} numbers.`,
    formula: ["length = √(x₁² + x₂² + x₃² + …)", `       = √(${sum.text}) = ${decimal(norm(vector))}`],
    values: sum.note,
    concept: "block",
  };
}

/**
 * A hidden number of a feed-forward network, a neuron.
 *
 * @param {object} numbers
 * @param {string} numbers.activation - name of the activation function
 * @param {number} numbers.after - the number after the activation
 * @param {Float32Array} numbers.input - of the network (C,)
 * @param {Float32Array} numbers.weights - of the neuron (C,): of the gate or, without one, the projection up
 * @param {number} numbers.bias - 0 if there is none
 * @param {number} numbers.before - the number before the activation
 * @param {number | null} numbers.up - what a gate is multiplied by; null without a gate
 * @param {number} numbers.neuron - index
 * @returns {Explanation}
 */
export function explainNeuron({ activation, input, weights, bias, before, after, up, neuron }) {
  const sum = writtenSum(
    input.map((value, index) => value * weights[index]),
    (index) => `${precise(weights[index])} · ${precise(input[index])}`,
  );
  const name = up === null ? "up" : "gate";
  const formula = [
    up === null ? `neuron = ${activation}(up · x)` : `neuron = ${activation}(gate · x) · (up · x)`,
    `${name} · x = ${sum.text}${bias === 0 ? "" : ` + ${precise(bias)}`} = ${precise(before)}`,
    `${activation}(${precise(before)}) = ${precise(after)}`,
  ];
  if (up !== null) formula.push(`neuron = ${precise(after)} · ${precise(up)} = ${decimal(after * up)}`);
  else formula.push(`neuron = ${decimal(after)}`);
  return {
    title: `Neuron ${neuron + 1}`,
    meaning:
      "Each neuron has a row of weights. The more the token's numbers are like this row, the larger the " +
      "neuron, and the more of its column of the projection down is added to the token.",
    formula,
    values: [
      ["before the activation", decimal(before)],
      ["after it", decimal(after)],
      ...(up === null ? [] : [["up · x", decimal(up)]]),
      ...sum.note,
    ],
    concept: "feed_forward",
  };
}

/**
 * A weight of attention as the mean over the heads of a layer.
 *
 * @param {number[]} weights - of each head
 * @param {string} queryToken
 * @param {string} keyToken
 * @returns {Explanation}
 */
export function explainMeanAttention(weights, queryToken, keyToken) {
  const mean = weights.reduce((sum, weight) => sum + weight, 0) / weights.length;
  return {
    title: `Attention from “${queryToken}” to “${keyToken}”`,
    meaning: "The mean over the heads of the last layer. Each of them has weights of its own.",
    formula: [
      "mean = (weight of head 1 + weight of head 2 + …) / heads",
      `     = (${weights.map(precise).join(" + ")}) / ${weights.length} = ${wholePercent(mean)}`,
    ],
    values: [],
    concept: "attention",
  };
}

/**
 * The mean over the tokens of the weights of a head that go to the token before, the first one or the token
 * itself.
 *
 * @param {Float32Array} weights - one per token (T,)
 * @param {string} where - to which token they go
 * @returns {Explanation}
 */
export function explainHeadMean(weights, where) {
  const sum = writtenSum(weights, (index) => precise(weights[index]));
  const mean = weights.reduce((total, weight) => total + weight, 0) / weights.length;
  return {
    title: `Weight that goes to ${where}`,
    meaning: "The mean of these weights of the head over the tokens of the text.",
    formula: ["mean = Σ weights / tokens", `     = (${sum.text}) / ${weights.length} = ${percent(mean)}`],
    values: sum.note,
    concept: "attention",
  };
}

/**
 * The mean over the tokens of the entropy of a head's weights, as a number of equally large weights.
 *
 * @param {number[]} entropies - in nats, one per token (T,)
 * @returns {Explanation}
 */
export function explainHeadSpread(entropies) {
  const sum = writtenSum(entropies, (index) => precise(entropies[index]));
  const mean = entropies.reduce((total, entropy) => total + entropy, 0) / entropies.length;
  return {
    title: "Spread of the weights of a head",
    meaning: "The entropy −Σ weight ln weight of each token's weights; the exponential of its mean is shown.",
    formula: [
      "spread = exp(Σ entropies / tokens)",
      `       = exp((${sum.text}) / ${entropies.length}) = ${Math.exp(mean).toFixed(1)} tokens`,
    ],
    values: sum.note,
    concept: "attention",
  };
}

/**
 * The weight of one expert of a token.
 *
 * @param {Float32Array} logits - of all experts (E,)
 * @param {ArrayLike<number>} chosen - indices (K,)
 * @param {number} expert
 * @param {boolean} isNormalized - whether the weights of the chosen add up to 1
 * @returns {Explanation}
 */
export function explainRouter(logits, chosen, expert, isNormalized) {
  const total = logSumExp(logits);
  const probability = (index) => Math.exp(logits[index] - total);
  const sum = Array.from(chosen).reduce((all, index) => all + probability(index), 0);
  const p = precise(probability(expert));
  const last = isNormalized
    ? `weight = p / Σ p of the chosen = ${p} / ${precise(sum)} = ${decimal(probability(expert) / sum)}`
    : `weight = p = ${decimal(probability(expert))}`;
  return {
    title: `Weight of expert ${expert + 1}`,
    meaning:
      "The router gives each expert a logit: the dot product of the token's numbers with a row of weights.",
    formula: [
      "p = exp(logit) / Σ exp(logits) = exp(logit − ln Σ exp(logits))",
      `  = exp(${precise(logits[expert])} − ${precise(total)}) = ${p}`,
      last,
    ],
    values: [["logit", decimal(logits[expert])]],
    concept: "router",
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
    const p = precise(probabilities[expert]);
    const division = isNormalized ? `${p} / ${precise(sum)} = ` : "";
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
