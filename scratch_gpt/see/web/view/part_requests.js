/**
 * What can be explained of the parts of a model: norms, the residual stream, feed-forward networks and
 * experts.
 * The functions are those of requests.js.
 */

import { largest } from "#see/view/charts.js";
import { placeName } from "#see/view/flow.js";
import * as formulas from "#see/view/formulas.js";
import { PART_MEANINGS } from "#see/view/meanings.js";
import { blocksOf, neuronsOf } from "#see/view/neurons.js";
import { decimal, row } from "#see/view/numbers.js";
import { inputTokens } from "#see/view/rerender.js";

const SHOWN_NEURONS = 12;

/** By the kind of the request. */
export const PART_EXPLAINERS = { norm, length, addition, experts, router, neurons, neuron, part };

/** Whether a server has the weights. */
function isServed({ session }) {
  return session.model().network.model === undefined;
}

/** The trace of the stack that a request is about. */
function stackTrace({ session }, { stack }) {
  return stack === "encoder" ? session.trace().encoder : session.trace();
}

function vectorOf(context, request, states) {
  const trace = stackTrace(context, request);
  if (request.position >= trace.length) throw new RangeError("the text is shorter now");
  return row(states, request.position, trace.embeddings.length / trace.length);
}

function norm(context, request) {
  const trace = stackTrace(context, request);
  const isFinal = request.module === "norm";
  const final = { input: trace.layers.at(-1)?.output ?? trace.embeddings, output: trace.hidden };
  const { input, output } = isFinal ? final : trace.layers[request.layer].norms[request.module];
  const [before, after] = [input, output].map((states) => vectorOf(context, request, states));
  const [feature] = largest(after.map(Math.abs), 1);
  return formulas.explainNorm(before, after, context.session.model().config, feature);
}

function length(context, request) {
  const trace = stackTrace(context, request);
  const isStart = request.state === 0;
  const states = isStart ? trace.embeddings : trace.layers[request.state - 1].output;
  const meaning = isStart
    ? "The embedding of the token begins the residual stream, to which the parts of the model add."
    : "The length of the residual stream of a token changes as the parts of the model add to it.";
  const title = `Length of the residual stream ${placeName(request.state)}`;
  return formulas.explainLength(vectorOf(context, request, states), title, meaning);
}

function addition(context, request) {
  const states = stackTrace(context, request).layers[request.layer][request.output];
  const title = `Length of what ${request.name} of layer ${request.layer + 1} adds`;
  return formulas.explainLength(
    vectorOf(context, request, states),
    title,
    "It is added to the residual stream.",
  );
}

function experts(context, request) {
  const { experts: routing } = stackTrace(context, request).layers[request.layer];
  const { config } = context.session.model();
  const [all, count] = [config.num_experts, config.num_experts_per_tok];
  const chosen = Array.from(row(routing.chosen, request.position, count));
  const weights = row(routing.weights, request.position, count);
  const choices = isServed(context)
    ? []
    : chosen.flatMap((expert, rank) => [
        {
          text: `expert ${expert + 1}: weight ${decimal(weights[rank])}`,
          request: { ...request, kind: "router", expert, from: request },
        },
        {
          text: `neurons of expert ${expert + 1}`,
          request: { ...request, kind: "neurons", expert, from: request },
        },
      ]);
  const probabilities = row(routing.probabilities, request.position, all);
  return { ...formulas.explainExperts(probabilities, chosen, weights), choices };
}

function router(context, request) {
  const { mlp } = blocksOf(context.session.model(), request.stack)[request.layer];
  const { experts: routing, mlpInput } = stackTrace(context, request).layers[request.layer];
  const logits = mlp.gate.projection.forward(vectorOf(context, request, mlpInput));
  const chosen = row(routing.chosen, request.position, mlp.gate.count);
  return formulas.explainRouter(logits, chosen, request.expert, mlp.gate.normalized);
}

function neuronsFor(context, request) {
  const { mlp } = blocksOf(context.session.model(), request.stack)[request.layer];
  const x = vectorOf(context, request, stackTrace(context, request).layers[request.layer].mlpInput);
  return { x, mlp, found: neuronsOf(mlp, x, request.expert ?? null) };
}

/** The largest neurons of a token, each with an explanation of its own. */
function neurons(context, request) {
  if (isServed(context)) {
    const found = part(context, request);
    const why =
      " Its neurons are shown in a page that contains the weights; this one is computed by a server.";
    return { ...found, meaning: found.meaning + why };
  }
  const { found } = neuronsFor(context, request);
  const token =
    (request.stack === "encoder" ? inputTokens(context.session).sourceTokens : null) ??
    inputTokens(context.session).tokens;
  const choices = largest(found.values.map(Math.abs), SHOWN_NEURONS).map((index) => ({
    text: `neuron ${index + 1}: ${decimal(found.values[index])}`,
    request: { ...request, kind: "neuron", neuron: index, from: request },
  }));
  const { meaning, formula } = PART_MEANINGS.feed_forward;
  return {
    title:
      `${request.expert === undefined ? "Feed-forward network" : `Expert ${request.expert + 1}`}, ` +
      `layer ${request.layer + 1}`,
    meaning:
      `${meaning} These are the largest of its ${found.values.length} hidden numbers, its neurons, for ` +
      `token ${request.position + 1}, “${token[request.position]}”.`,
    formula,
    values: request.lines?.length > 0 ? [["in this model", request.lines.join(", ")]] : [],
    concept: "feed_forward",
    choices,
  };
}

function neuron(context, request) {
  const { x, mlp, found } = neuronsFor(context, request);
  const { weights, bias } = found.row(request.neuron);
  const before = found.before[request.neuron];
  return formulas.explainNeuron({
    activation: mlp.activation,
    input: x,
    weights,
    bias,
    before,
    after: found.activate(before),
    up: found.up && found.up[request.neuron],
    neuron: request.neuron,
  });
}

function part(context, { concept, title, lines }) {
  const { meaning, formula } = PART_MEANINGS[concept] ?? { meaning: "", formula: [] };
  const values = lines.length > 0 ? [["in this model", lines.join(", ")]] : [];
  return { title: title.replace(/^\+ /, ""), meaning, formula, values, concept };
}
