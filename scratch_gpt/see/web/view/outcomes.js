/**
 * What a model answers to the current text, for each kind of model, and how wrong it was about the text:
 * what the views that compare two answers show.
 *
 * Dimension letters: T tokens, V vocabulary size, K labels.
 */

import { logSumExp, row, softmax } from "#see/view/numbers.js";
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
 * Probabilities of the labels of a classifier: of a single one by softmax, of several ones at a time by the
 * sigmoid of each.
 *
 * @param {Float32Array} scores - (K,)
 * @param {object} config
 * @returns {Float32Array} (K,)
 */
export function labelProbabilities(scores, config) {
  if (config.problem_type !== "multi_label_classification" && scores.length > 1) return softmax(scores);
  return scores.map((score) => 1 / (1 + Math.exp(-score)));
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
 * The answer of a model as a distribution over named choices.
 *
 * @param {object} session
 * @param {object} trace - recorded, of the session's ids
 * @param {{model?: number, position?: number | null}} [options] - index of the model, and the position whose
 *   answer is wanted
 * @returns {{title: string, values: Float32Array, name: (choice: number) => string, request: (choice:
 *   number) => object, loss: number | null} | null} `request` is what explain.js explains; null if there is
 *   nothing to answer
 */
export function outcome(session, trace, options = {}) {
  const [model, description] = [session.model(options.model), session.description(options.model)];
  if (model.kind === "classifier") {
    return {
      title: "Class",
      values: labelProbabilities(trace.scores, model.config),
      name: (label) => description.labels?.[label] ?? `label ${label}`,
      request: (label) => ({ kind: "class", label }),
      loss: null,
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
    values,
    name,
    request: (id) => ({ kind: "probability", position, id }),
    loss: losses.length > 0 ? losses.reduce((sum, { loss }) => sum + loss, 0) / losses.length : null,
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
