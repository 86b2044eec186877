/**
 * What a model answers to the current text, for each kind of model, and how wrong it was about the text:
 * what the views that compare two answers show.
 *
 * Dimension letters: T tokens, V vocabulary size, K labels.
 */

import { percent } from "#see/view/charts.js";
import { decimal, divergence, logSumExp, points, row, signed, softmax } from "#see/view/numbers.js";
import { visibleToken } from "#see/view/token_text.js";

/**
 * The loss of each token given the tokens before it. The first token is not scored.
 *
 * @param {Float32Array} logits - (T, V)
 * @param {number[]} ids - (T,)
 * @returns {{position: number, id: number, loss: number, probability: number, rank: number}[]} losses in
 *   nats; the rank of the most probable token is 1
 */
export function tokenLosses(logits, ids) {
  const vocabulary = logits.length / ids.length;
  return ids.slice(1).map((id, index) => {
    const values = row(logits, index, vocabulary);
    const loss = logSumExp(values) - values[id];
    let rank = 1;
    for (const value of values) if (value > values[id]) rank += 1;
    return { position: index + 1, id, loss, probability: Math.exp(-loss), rank };
  });
}

/**
 * The mean loss of a text, its perplexity, and the bits per byte, which are comparable between tokenizers.
 *
 * @param {{id: number, loss: number}[]} losses - from `tokenLosses`
 * @param {(id: number) => number} byteCount - number of UTF-8 bytes of a token; 0 for special tokens
 * @returns {{mean: number, perplexity: number, bytes: number, bitsPerByte: number}} the mean in nats per
 *   token
 */
export function lossSummary(losses, byteCount) {
  const total = losses.reduce((sum, { loss }) => sum + loss, 0);
  const bytes = losses.reduce((sum, { id }) => sum + byteCount(id), 0);
  const mean = total / losses.length;
  return { mean, perplexity: Math.exp(mean), bytes, bitsPerByte: total / Math.LN2 / bytes };
}

/**
 * The difference of two losses in a narrow cell.
 *
 * @param {number} difference - in nats
 * @returns {string}
 */
export function writtenLossChange(difference) {
  return Math.abs(difference) < 0.005 ? "0" : signed(difference, (size) => size.toFixed(2));
}

/**
 * How many bytes of text a token stands for: 0 for special ones.
 *
 * @param {object} tokenizer
 * @returns {(id: number) => number}
 */
export function byteCounter(tokenizer) {
  return (id) => (tokenizer.isSpecial(id) ? 0 : tokenizer.bytes(id).length);
}

/**
 * Positions of the mask token.
 *
 * @param {object} session
 * @returns {number[]}
 */
export function maskPositions(session) {
  const mask = maskId(session.model().tokenizer);
  return session.ids().flatMap((id, position) => (id === mask ? [position] : []));
}

/**
 * Id of the mask token, whatever it is called: `<mask>` or `[MASK]`.
 *
 * @param {object} tokenizer
 * @returns {number} -1 if there is none
 */
export function maskId(tokenizer) {
  for (let id = 0; id < tokenizer.size; id += 1) {
    if (tokenizer.isSpecial(id) && /^[<[]\|?mask\|?[>\]]$/i.test(tokenizer.token(id))) return id;
  }
  return -1;
}

/**
 * The function that turns the scores of a classifier into its answers, as in the pipeline of transformers
 * (`function_to_apply`): softmax if one label is right, sigmoid if each can be, none for regression.
 *
 * @param {{problem_type?: string | null}} config
 * @param {number} count - of labels
 * @returns {"softmax" | "sigmoid" | "none"}
 */
export function labelFunction({ problem_type: problem }, count) {
  if (problem === "regression") return "none";
  return problem === "multi_label_classification" || count === 1 ? "sigmoid" : "softmax";
}

/**
 * The answers of a classifier: probabilities of its labels or, of a regression, the values themselves.
 *
 * @param {Float32Array} scores - (K,)
 * @param {object} config
 * @returns {Float32Array} (K,)
 */
export function labelAnswers(scores, config) {
  const kind = labelFunction(config, scores.length);
  if (kind === "softmax") return softmax(scores);
  return kind === "none" ? scores : scores.map((score) => 1 / (1 + Math.exp(-score)));
}

/**
 * How answers and their differences are written: probabilities in percent and points, others as numbers.
 *
 * @param {"softmax" | "sigmoid" | "none"} kind - from `labelFunction`
 * @returns {{write: (value: number) => string, writeChange: (difference: number) => string}}
 */
export function writers(kind) {
  return kind === "none" ? { write: decimal, writeChange: signed } : { write: percent, writeChange: points };
}

/**
 * How far one answer is from another: the Kullback-Leibler divergence of distributions; of answers that are
 * no distribution the largest difference.
 *
 * @param {object} before - from `outcome`
 * @param {object} after - from `outcome`
 * @returns {number}
 */
export function distance(before, after) {
  if (before.kind === "softmax") return divergence(before.values, after.values);
  return Math.max(...before.values.map((value, index) => Math.abs(after.values[index] - value)));
}

/** Name and unit of `distance`. */
export function distanceName({ kind }) {
  if (kind === "softmax") return { name: "Kullback-Leibler divergence", unit: "nats" };
  return { name: "Largest difference of an answer", unit: "" };
}

/**
 * Positions at which a model answers: those of the masks, or all.
 *
 * @param {object} session
 * @returns {number[]}
 */
export function answerPositions(session) {
  return session.model().kind === "masked" ? maskPositions(session) : session.ids().map((_, index) => index);
}

/**
 * The position of the answer: the wanted one if the model answers there; else the first mask, or the last
 * token before the end of the text.
 *
 * @param {object} session
 * @param {number | null | undefined} wanted
 * @returns {number | null} null if there is none
 */
export function answerPosition(session, wanted) {
  const positions = answerPositions(session);
  if (positions.includes(wanted)) return wanted;
  if (session.model().kind === "masked") return positions[0] ?? null;
  const ends = session.description().generation?.eos_token_ids ?? [];
  const open = positions.filter((position) => !ends.includes(session.ids()[position]));
  return open.at(-1) ?? positions.at(-1) ?? null;
}

/**
 * The answer of a model as a value for each of several named choices.
 *
 * @param {object} session
 * @param {object} trace - of the session's ids
 * @param {{model?: number, position?: number | null, source?: object}} [options] - index of the model, the
 *   position whose answer is wanted, and where the trace is from (see requests.js)
 * @returns {{title: string, kind: string, values: Float32Array, name: (choice: number) => string, request:
 *   (choice: number) => object, loss: number | null, write: Function, writeChange: Function} | null}
 *   `request` is what explain.js explains; null if there is nothing to answer
 */
export function outcome(session, trace, options = {}) {
  const [model, description] = [session.model(options.model), session.description(options.model)];
  const { source = {} } = options;
  if (model.kind === "classifier") {
    const kind = labelFunction(model.config, trace.scores.length);
    return {
      title: "Class",
      kind,
      values: labelAnswers(trace.scores, model.config),
      name: (label) => description.labels?.[label] ?? `label ${label}`,
      request: (label) => ({ kind: "class", label, source }),
      loss: null,
      ...writers(kind),
    };
  }
  const tokenizer = session.tokenizer();
  const name = (id) => visibleToken(tokenizer, id);
  const position = answerPosition(session, options.position);
  if (!trace.logits || position === null) return null;
  const values = softmax(row(trace.logits, position, trace.logits.length / trace.length));
  const losses = model.kind === "masked" || trace.length < 2 ? [] : tokenLosses(trace.logits, session.ids());
  return {
    title: model.kind === "masked" ? "Guess" : "Next token",
    kind: "softmax",
    values,
    name,
    request: (id) => ({ kind: "probability", position, id, source }),
    loss: losses.length > 0 ? losses.reduce((sum, { loss }) => sum + loss, 0) / losses.length : null,
    ...writers("softmax"),
  };
}

/**
 * The choices that are worth showing of two answers: the most probable ones of each, by their larger
 * probability.
 *
 * @param {Float32Array} before
 * @param {Float32Array} after
 * @param {number[]} bestBefore - the most probable ones before
 * @param {number[]} bestAfter - and after
 * @returns {number[]}
 */
export function unionOfBest(before, after, bestBefore, bestAfter) {
  const strength = (choice) => Math.max(before[choice], after[choice]);
  return [...new Set([...bestBefore, ...bestAfter])].sort((a, b) => strength(b) - strength(a));
}
