/**
 * Formulas of a model's answers with their numbers filled in, as lines of text: probabilities, losses, and
 * what is computed from them. Nothing here needs a document.
 *
 * Dimension letters: T tokens, V vocabulary size, K labels.
 *
 * @typedef {import("#see/view/formulas.js").Explanation} Explanation
 */

import { distribution } from "#see/engine/sampling.js";
import { percent } from "#see/view/charts.js";
import { decimal, divergence, logSumExp, precise, writtenSum } from "#see/view/numbers.js";
import { labelAnswers, writers } from "#see/view/outcomes.js";

function rankOf(values, index) {
  return 1 + values.reduce((count, value) => count + Number(value > values[index]), 0);
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
  return {
    title: `Probability of “${token}”`,
    meaning:
      `The head gives each of the ${logits.length} choices a number, its logit. Softmax turns them ` +
      `into probabilities that add up to 100%. ${after}`,
    formula: [
      "probability = exp(logit) / Σ exp(logits) = exp(logit − ln Σ exp(logits))",
      `            = exp(${precise(logits[id])} − ${precise(total)}) = ` +
        `${decimal(probability)} = ${percent(probability)}`,
    ],
    values: [
      ["logit", decimal(logits[id])],
      ["ln Σ exp(logits)", decimal(total)],
      ["rank", `${rankOf(logits, id)} of ${logits.length}`],
    ],
    concept: "head",
  };
}

/**
 * The probability of a token with the settings of sampling.
 *
 * @param {Float32Array} logits - (V,)
 * @param {number} id
 * @param {{temperature: number, topK: number, topP: number}} settings
 * @param {string} token
 * @param {string} after - as of `explainProbability`
 * @returns {Explanation}
 */
export function explainSampled(logits, id, settings, token, after) {
  const { temperature, topK, topP } = settings;
  const plain = explainProbability(logits, id, token, after);
  if (temperature === 1 && topK === 0 && topP === 1) return plain;
  const probabilities = distribution(logits, settings);
  const kept = logits.filter((_, index) => probabilities[index] > 0);
  const own = percent(Math.exp(logits[id] - logSumExp(logits)));
  const found = {
    ...plain,
    meaning: `${plain.meaning} Here it is what sampling chooses with: with the temperature, top-k and top-p.`,
    values: [
      ...plain.values,
      ["of the model itself", own],
      ["tokens kept", `${kept.length} of ${logits.length}`],
    ],
    concept: "sampling",
  };
  if (temperature === 0) {
    const is = probabilities[id] > 0 ? "largest" : "not the largest";
    const formula = [
      "temperature 0: all probability for the largest logit",
      `this logit is ${is}: ${percent(probabilities[id])}`,
    ];
    return { ...found, formula };
  }
  const rules = [
    topK > 0 ? `the ${topK} most probable` : "",
    topP < 1 ? `the fewest that have ${topP} together` : "",
  ];
  const formula = [
    "probability = exp(logit / temperature) / Σ exp(logits / temperature)",
    `the sum is over the tokens kept: ${rules.filter(Boolean).join(", then ") || "all"}`,
  ];
  if (probabilities[id] === 0) return { ...found, formula: [...formula, "this token is not kept: 0%"] };
  const total = logSumExp(kept.map((logit) => logit / temperature));
  const line =
    `probability = exp(${precise(logits[id])} / ${temperature} − ${precise(total)}) = ` +
    `${decimal(probabilities[id])} = ${percent(probabilities[id])}`;
  return { ...found, formula: [...formula, line] };
}

/**
 * The answer of a classifier for one label.
 *
 * @param {Float32Array} scores - (K,)
 * @param {number} label
 * @param {string} name
 * @param {object} config
 * @param {"softmax" | "sigmoid" | "none"} kind - from `labelFunction`
 * @returns {Explanation}
 */
export function explainClass(scores, label, name, config, kind) {
  const one = "The classifier reads one vector for the whole text.";
  const plain = { ...explainProbability(scores, label, name, one), concept: "pooling" };
  if (kind === "softmax") return plain;
  const [score, text] = [precise(scores[label]), writers(kind).write(labelAnswers(scores, config)[label])];
  if (kind === "none") {
    return {
      ...plain,
      title: `Value of “${name}”`,
      meaning: `${one} Its head gives a number: a regression has no probabilities.`,
      formula: ["value = x · row[label] + bias", `      = ${decimal(scores[label])}`],
      values: [],
    };
  }
  return {
    ...plain,
    meaning: `${one} Each label is a question of its own, so the probabilities need not add up to 100%.`,
    formula: ["probability = 1 / (1 + exp(−score))", `            = 1 / (1 + exp(−(${score}))) = ${text}`],
    values: [["score", decimal(scores[label])]],
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
      `     = ${precise(total)} − ${precise(logits[id])} = ${decimal(loss)} nats`,
      `     = −ln(${precise(Math.exp(-loss))})`,
    ],
    values: [
      ["probability", percent(Math.exp(-loss))],
      ["rank", `${rankOf(logits, id)} of ${logits.length}`],
      ["in bits", decimal(loss / Math.LN2)],
    ],
    concept: "loss",
  };
}

/**
 * The mean loss of a text, and what is computed from it.
 *
 * @param {number[]} losses - of the tokens, in nats
 * @param {number} bytes - of the text
 * @returns {Explanation}
 */
export function explainMeanLoss(losses, bytes) {
  const total = losses.reduce((sum, loss) => sum + loss, 0);
  const mean = total / losses.length;
  const sum = writtenSum(losses, (index) => precise(losses[index]));
  const formula = [
    "mean loss = Σ losses / tokens",
    `          = (${sum.text}) / ${losses.length} = ${decimal(mean)} nats per token`,
    `perplexity = exp(mean loss) = exp(${precise(mean)}) = ${decimal(Math.exp(mean))}`,
  ];
  if (bytes > 0) {
    formula.push(
      "bits per byte = Σ losses / (ln(2) · bytes)",
      `              = ${precise(total)} / (ln(2) · ${bytes}) = ${decimal(total / Math.LN2 / bytes)}`,
    );
  }
  return {
    title: "Mean loss of the text",
    meaning:
      "The first token is not predicted. Bits per byte can be compared between models with other tokenizers.",
    formula,
    values: sum.note,
    concept: "loss",
  };
}

/**
 * The entropy of a distribution.
 *
 * @param {Float32Array} p - (V,)
 * @returns {Explanation}
 */
export function explainEntropy(p) {
  const terms = p.map((value) => (value > 0 ? -value * Math.log2(value) : 0));
  const bits = terms.reduce((sum, term) => sum + term, 0);
  const sum = writtenSum(terms, (index) => `${precise(p[index])} · log₂(1 / ${precise(p[index])})`);
  return {
    title: "Entropy",
    meaning:
      "Entropy measures how uncertain the model is: 0 bits if it is certain, and one bit more " +
      "whenever there are twice as many equally probable choices.",
    formula: [
      "entropy = −Σ p log₂ p = Σ p log₂(1 / p)",
      `        = ${sum.text} = ${bits.toFixed(2)} bits`,
      `an even choice among 2^entropy = 2^${bits.toFixed(4)} = ${writtenChoices(bits)} tokens`,
    ],
    values: [["most possible", `${decimal(Math.log2(p.length))} bits`], ...sum.note],
    concept: "sampling",
  };
}

/**
 * How many equally probable choices have this entropy.
 *
 * @param {number} bits
 * @returns {string}
 */
export function writtenChoices(bits) {
  return Math.max(1, 2 ** bits).toFixed(1);
}

/**
 * The Kullback-Leibler divergence of one answer from another.
 *
 * @param {Float32Array} p - probabilities before (V,)
 * @param {Float32Array} q - probabilities after (V,)
 * @param {string} what - what changed
 * @returns {Explanation}
 */
export function explainDivergence(p, q, what) {
  const terms = p.map((value, index) =>
    value > 0 ? value * Math.log(value / Math.max(q[index], 1e-30)) : 0,
  );
  const write = (index) => `${precise(p[index])} · ln(${precise(p[index])} / ${precise(q[index])})`;
  const sum = writtenSum(terms, write);
  return {
    title: "Kullback-Leibler divergence",
    meaning: `How far the second answer is from the first, ${what}: 0 if they are equal, else positive.`,
    formula: ["divergence = Σ p ln(p / q)", `           = ${sum.text} = ${decimal(divergence(p, q))} nats`],
    values: [["p", "probabilities of the first answer"], ["q", "of the second"], ...sum.note],
    concept: "divergence",
  };
}

/**
 * A difference of two numbers.
 *
 * @param {object} numbers
 * @param {string} numbers.title
 * @param {string} numbers.meaning
 * @param {number} numbers.before
 * @param {number} numbers.after
 * @param {[string, string]} numbers.names - of the two
 * @param {string} numbers.text - the difference as it is shown
 * @param {string} numbers.unit
 * @param {string} numbers.concept
 * @param {number} [scale] - 100 for percentage points
 * @returns {Explanation}
 */
export function explainDifference({ title, meaning, before, after, names, text, unit, concept }, scale = 1) {
  const [first, second] = [precise(scale * before), precise(scale * after)];
  return {
    title,
    meaning,
    formula: [
      `difference = ${names[1]} − ${names[0]}`,
      `           = ${second} − ${first} = ${text} ${unit}`.trimEnd(),
    ],
    values: [],
    concept,
  };
}

/**
 * The score of a text in a beam search: the sum of the log-probabilities, and that divided by the length.
 *
 * @param {{token: string, logProbability: number}[]} terms - of the new tokens
 * @param {number} penalty - the exponent of the length
 * @param {boolean} ended - whether the text ends there
 * @returns {Explanation}
 */
export function explainBeam(terms, penalty, ended) {
  const sum = terms.reduce((total, { logProbability }) => total + logProbability, 0);
  const length = terms.length;
  const formula = [
    "sum = Σ ln p(token | tokens before)",
    `    = ${terms.map(({ logProbability }) => precise(logProbability)).join(" + ")} = ${decimal(sum)}`,
    "score = sum / length^penalty",
    `      = ${precise(sum)} / ${length}^${penalty} = ${decimal(sum / length ** penalty)}`,
  ];
  return {
    title: ended ? "Score of a finished text" : "Sum of log-probabilities of a beam",
    meaning:
      "Beam search keeps the texts with the largest sums of log-probabilities. A finished text competes " +
      "with its score: the sum divided by the number of its new tokens to the power of the length penalty " +
      "(`length_penalty` of generate in transformers; 0 does not divide, above 1 favours longer texts).",
    formula,
    values: terms.map(({ token, logProbability }) => [`ln p of “${token}”`, decimal(logProbability)]),
    concept: "beam_search",
  };
}

/**
 * Bytes per token.
 *
 * @param {number} bytes
 * @param {number} tokens - without special ones
 * @returns {Explanation}
 */
export function explainRatio(bytes, tokens) {
  return {
    title: "Bytes per token",
    meaning: "How much text a token stands for on average: the more, the fewer steps the model has to make.",
    formula: [
      "bytes of the text / its tokens, without special ones",
      `${bytes} / ${tokens} = ${(bytes / tokens).toFixed(1)}`,
    ],
    values: [],
    concept: "embedding",
  };
}
