/**
 * What can be explained: a function for each kind of request, which finds the numbers and fills the formula.
 *
 * A request is a plain object with a `kind`. Numbers of an answer have a `source`: whose trace they are from.
 * `{}` is the shown model as it is, `{model}` one of two, `{edited: true}` with the edits of
 * the state, `{off: {field, part}}` with one part switched off, `{frame}` a frame of the training film, and
 * `{masked: true}` the text with the token masked.
 */

import {
  explainBeam,
  explainClass,
  explainDifference,
  explainDivergence,
  explainEntropy,
  explainLoss,
  explainMeanLoss,
  explainProbability,
  explainRatio,
  explainSampled,
} from "#see/view/answer_formulas.js";
import { selectedHead } from "#see/view/attention.js";
import { headParts, headWeights } from "#see/view/attention_layout.js";
import { beamPath } from "#see/view/beam_layout.js";
import { largest } from "#see/view/charts.js";
import { filmTrace } from "#see/view/film.js";
import * as formulas from "#see/view/formulas.js";
import { lensDistribution, lensRowLogits } from "#see/view/lens_table.js";
import { decimal, row, signed, softmax } from "#see/view/numbers.js";
import {
  byteCounter,
  labelAnswers,
  labelFunction,
  outcome,
  tokenLosses,
  writers,
  writtenLossChange,
} from "#see/view/outcomes.js";
import { PART_EXPLAINERS } from "#see/view/part_requests.js";
import { pseudoLosses } from "#see/view/pseudo_loss.js";
import { inputTokens } from "#see/view/rerender.js";
import { noEdits } from "#see/view/state.js";
import { visibleToken } from "#see/view/token_text.js";
import { treeOf } from "#see/view/translate.js";

/**
 * @typedef {import("#see/view/formulas.js").Explanation} Explanation
 * @type {Record<string, (context: object, request: object) => Explanation | null>}
 */
export const EXPLAINERS = {
  attention,
  meanAttention,
  headMean,
  headSpread,
  probability,
  sampled,
  class: classAnswer,
  change,
  divergence,
  loss,
  lossChange,
  meanLoss,
  entropy,
  beam,
  ratio,
  ...PART_EXPLAINERS,
};

/** The trace that a number is from. */
function traceOf(context, source = {}) {
  const { session, store } = context;
  const { model, edited, off, frame } = source;
  if (frame !== undefined) return filmTrace(context, frame);
  if (off) return session.trace({ edits: { ...noEdits(), [off.field]: new Set([off.part]) } });
  return session.trace({
    ...(model === undefined ? {} : { model }),
    ...(edited ? { edits: store.get().edits } : {}),
  });
}

function attention(context, { map: id, layer, head, query, key }) {
  const state = { ...context.store.get(), attention: id, layer, head, position: query, key };
  const { map, heads } = selectedHead(context, state);
  const { queries, keys, scores, firstKey } = map.records[layer];
  const { config } = context.session.model();
  const [count, size] = [map.keys.length, config.head_dim];
  if (query >= map.queries.length || key >= count) return null;
  const group = Math.floor((head * config.num_key_value_heads) / heads);
  const keyIndex = (key - firstKey) * config.num_key_value_heads + group;
  return formulas.explainAttention({
    query: row(queries, query * heads + head, size),
    keyVector: key >= firstKey ? row(keys, keyIndex, size) : null,
    scores: row(scores, head * map.queries.length + query, count),
    key,
    softcap: config.attn_logit_softcapping ?? null,
    hasBias: config.position_type === "relative" && id !== "cross",
    queryToken: map.queries[query],
    keyToken: map.keys[key],
  });
}

function meanAttention({ session }, { query, key }) {
  const { tokens, sourceTokens } = inputTokens(session);
  if (query >= tokens.length || key >= sourceTokens.length) return null;
  const weights = session.trace().layers.at(-1).crossAttention;
  const size = tokens.length * sourceTokens.length;
  const ofHeads = Array.from(
    { length: weights.length / size },
    (_, head) => weights[head * size + query * sourceTokens.length + key],
  );
  return formulas.explainMeanAttention(ofHeads, tokens[query], sourceTokens[key]);
}

/** The weights of the selected head, and what its sentence is computed from. */
function headOf(context, { map: id, layer, head }) {
  const { map } = selectedHead(context, { ...context.store.get(), attention: id });
  const [queries, keys] = [map.queries.length, map.keys.length];
  return headParts(headWeights(map.layers[layer], head, queries, keys), queries, keys);
}

function headMean(context, request) {
  return formulas.explainHeadMean(headOf(context, request)[request.of], request.name);
}

function headSpread(context, request) {
  return formulas.explainHeadSpread(headOf(context, request).entropy);
}

function logitsAt(context, position, source) {
  if (source?.masked) return pseudoLosses(context).get(position).logits;
  const { logits, length } = traceOf(context, source);
  if (position < 0 || position >= length) throw new RangeError("the text is shorter now");
  return row(logits, position, logits.length / length);
}

/** The logits that a request is about: of the head, or of the lens at a row. */
function requestedLogits(context, { position, source, lensRow }) {
  if (lensRow === undefined) return logitsAt(context, position, source);
  return lensRowLogits(context.session.model(), context.session.trace(), lensRow, position);
}

/** Which choice a probability is about, as a sentence. */
function choicePlace({ session }, position) {
  const place = session.model().kind === "masked" ? "at" : "after";
  return `This is the choice ${place} token ${position + 1}, “${inputTokens(session).tokens[position]}”.`;
}

function probability(context, request) {
  const token = visibleToken(context.session.tokenizer(), request.id);
  const place = choicePlace(context, request.position);
  return explainProbability(requestedLogits(context, request), request.id, token, place);
}

function sampled(context, { position, id }) {
  const token = visibleToken(context.session.tokenizer(), id);
  const logits = context.session.logits(position + 1);
  return explainSampled(logits, id, context.store.get(), token, choicePlace(context, position));
}

function labelName(session, label) {
  return session.description().labels?.[label] ?? `label ${label}`;
}

function classAnswer(context, { label, source }) {
  const { session } = context;
  const { scores } = traceOf(context, source);
  const { config } = session.model();
  return explainClass(scores, label, labelName(session, label), config, labelFunction(config, scores.length));
}

/** The difference of one answer in two traces. */
function change(context, { answer, before, after, names, concept }) {
  const { session } = context;
  const { config } = session.model();
  const isClass = answer.kind === "class";
  const scores = [before, after].map((source) => (isClass ? traceOf(context, source).scores : null));
  const kind = isClass ? labelFunction(config, scores[0].length) : "softmax";
  const values = [before, after].map((source, index) =>
    isClass
      ? labelAnswers(scores[index], config)[answer.label]
      : softmax(logitsAt(context, answer.position, source))[answer.id],
  );
  const name = isClass ? labelName(session, answer.label) : visibleToken(session.tokenizer(), answer.id);
  const isNumber = kind === "none";
  const { write, writeChange } = writers(kind);
  return explainDifference(
    {
      title: `Difference of “${name}”`,
      meaning: `${write(values[0])} ${names[0]}, and ${write(values[1])} ${names[1]}.`,
      before: values[0],
      after: values[1],
      names,
      text: writeChange(values[1] - values[0]),
      unit: isNumber ? "" : "percentage points",
      concept: concept ?? (isClass ? "pooling" : "head"),
    },
    isNumber ? 1 : 100,
  );
}

function divergence(context, { before, after, position, what }) {
  const { session } = context;
  const [p, q] = [before, after].map((source) =>
    outcome(session, traceOf(context, source), { position, source, model: source.model }),
  );
  if (p.kind === "softmax") return explainDivergence(p.values, q.values, what);
  const [label] = largest(
    p.values.map((value, index) => Math.abs(q.values[index] - value)),
    1,
  );
  const [first, second] = [p.values[label], q.values[label]];
  return explainDifference({
    title: `Largest difference of an answer, “${p.name(label)}”`,
    meaning: `The answers are no distribution, so the largest of their differences is shown, ${what}.`,
    before: Math.min(first, second),
    after: Math.max(first, second),
    names: ["smaller one", "larger one"],
    text: decimal(Math.abs(second - first)),
    unit: "",
    concept: "pooling",
  });
}

function loss(context, { position, source }) {
  const id = context.session.ids()[position];
  const logits = logitsAt(context, source?.masked ? position : position - 1, source);
  return explainLoss(logits, id, visibleToken(context.session.tokenizer(), id));
}

function lossesOf(context, source) {
  if (source?.masked) return [...pseudoLosses(context).values()];
  const ids = context.session.ids();
  return tokenLosses(traceOf(context, source).logits, ids);
}

/** The difference of the losses of a token or, without a position, of the mean losses. */
function lossChange(context, { position, before, after, names }) {
  const [first, second] = [before, after].map((source) => {
    const losses = lossesOf(context, source);
    if (position !== undefined) return losses[position - 1].loss;
    return losses.reduce((sum, each) => sum + each.loss, 0) / losses.length;
  });
  const isOne = position !== undefined;
  return explainDifference({
    title: isOne ? `Difference of the losses of token ${position + 1}` : "Difference of the mean losses",
    meaning: "“−” means that the second is less surprised by the text.",
    before: first,
    after: second,
    names,
    text: isOne ? writtenLossChange(second - first) : signed(second - first),
    unit: isOne ? "nats" : "nats per token",
    concept: "loss",
  });
}

function meanLoss(context, { source }) {
  const losses = lossesOf(context, source);
  const byteCount = byteCounter(context.session.tokenizer());
  const bytes = losses.reduce((sum, { id }) => sum + byteCount(id), 0);
  return explainMeanLoss(
    losses.map((each) => each.loss),
    bytes,
  );
}

/** Of the lens at a row, or of the model's answer. */
function entropy(context, { row: lensRow, position }) {
  const { session } = context;
  if (lensRow === undefined) return explainEntropy(softmax(session.logits(position + 1)));
  return explainEntropy(lensDistribution(session.model(), session.trace(), lensRow, position));
}

function beam({ session }, { index, beams }) {
  const { nodes } = treeOf(session, beams);
  const isBest = index === undefined;
  const node = isBest ? nodes.findLast((each) => each.isBest && each.ended) : nodes[index];
  const terms = beamPath(node).map(({ id, logProbability }) => ({
    token: visibleToken(session.tokenizer(), id),
    logProbability,
  }));
  const { length_penalty: penalty } = session.description().generation;
  return explainBeam(terms, penalty, isBest || node.ended);
}

function ratio({ session, store }) {
  const { tokenizer } = session.model();
  const tokens = session.sourceIds() ?? session.ids().slice(0, session.start());
  const bytes = new TextEncoder().encode(store.get().text).length;
  return explainRatio(bytes, tokens.filter((id) => !tokenizer.isSpecial(id)).length);
}
