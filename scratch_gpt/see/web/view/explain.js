/**
 * Any number, explained: its formula with the numbers in it, the paper that the formula is from, and the
 * lines of our source that compute it.
 *
 * A view asks for an explanation by `store.set({ explain: request })`; the `kind` of the request says of
 * what.
 */

import { largest } from "#see/view/charts.js";
import { element, replaceChildren } from "#see/view/dom.js";
import {
  explainAttention,
  explainEntropy,
  explainExperts,
  explainLength,
  explainLoss,
  explainNorm,
  explainProbability,
} from "#see/view/formulas.js";
import { selectedHead } from "#see/view/attention.js";
import { placeName } from "#see/view/flow.js";
import { lensDistribution } from "#see/view/lens_table.js";
import { row } from "#see/view/numbers.js";
import { inputTokens } from "#see/view/rerender.js";
import { visibleToken } from "#see/view/token_text.js";
import { PART_MEANINGS } from "#see/view/meanings.js";

/**
 * What is explained, by the kind of the request: functions of context and request to an explanation or
 * null.
 */
const EXPLAINERS = {
  attention: attentionRequest,
  probability: probabilityRequest,
  class: classRequest,
  loss: lossRequest,
  entropy: entropyRequest,
  norm: normRequest,
  length: lengthRequest,
  experts: expertsRequest,
  part: partRequest,
};

/**
 * The panel beside the views, which is open while something is explained.
 *
 * @param {object} context - of a view
 * @returns {{node: HTMLElement, update: (state: object) => void}}
 */
export function explainPanel(context) {
  const close = () => context.store.set({ explain: null });
  const heading = element("h2", { id: "explain-title", tabindex: "-1" });
  const body = element("div", { class: "explain-body" });
  const button = element("button", { type: "button", id: "explain-close", onclick: close }, "Close");
  const head = element("div", { class: "explain-head" }, heading, button);
  const node = element(
    "aside",
    { class: "explain", "aria-labelledby": "explain-title", hidden: true },
    head,
    body,
  );
  node.addEventListener("keydown", (event) => event.key === "Escape" && close());
  let shown = null;
  let opener = "";

  function update(state) {
    const request = state.explain ?? null;
    const explanation = request && safely(() => EXPLAINERS[request.kind](context, request));
    node.hidden = !explanation;
    if (!explanation) {
      if (shown && opener) document.getElementById(opener)?.focus();
      shown = null;
      return;
    }
    if (request !== shown)
      opener = node.contains(document.activeElement) ? opener : (document.activeElement?.id ?? "");
    heading.textContent = explanation.title;
    replaceChildren(body, ...renderExplanation(context, explanation));
    if (request !== shown) heading.focus({ preventScroll: true });
    shown = request;
  }
  return { node, update };
}

/** An explanation of what a shorter text no longer has is none. */
function safely(explain) {
  try {
    return explain();
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) return null;
    throw error;
  }
}

function renderExplanation({ payload }, { meaning, formula, values, concept }) {
  const excerpt = payload.excerpts?.[concept];
  const pairs = values.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  return [
    element("p", {}, meaning),
    formula.length > 0
      ? element("pre", { class: "formula", tabindex: "0", "aria-label": "Formula" }, formula.join("\n"))
      : null,
    pairs.length > 0 ? element("dl", { class: "details" }, ...pairs) : null,
    // Not a link: the page makes no request, whatever is clicked.
    excerpt?.paper ? element("p", {}, `Paper: ${excerpt.paper.title}, `, element("code", {}, excerpt.paper.url)) : null,
    ...(excerpt ? renderExcerpt(excerpt) : []),
  ];
}

function renderExcerpt({ file, first_line: first, code }) {
  const lines = code.split("\n");
  const last = first + lines.length - 1;
  const width = String(last).length;
  const numbered = lines.map((line, index) =>
    element(
      "span",
      { class: "code-line" },
      element("span", { class: "line-number" }, String(first + index).padStart(width)),
      `  ${line}\n`,
    ),
  );
  return [
    element("h3", {}, "Our source"),
    element("p", { class: "note" }, `scratch_gpt/models/${file}, lines ${first} to ${last}`),
    element("pre", { class: "code", tabindex: "0", "aria-label": `Source of ${file}` }, ...numbered),
  ];
}

function attentionRequest(context, { map: id, layer, head, query, key }) {
  const state = { ...context.store.get(), attention: id, layer, head, position: query, key };
  const { map, heads } = selectedHead(context, state);
  const { queries, keys, scores, firstKey } = map.records[layer];
  const { config } = context.session.model();
  const [count, size] = [map.keys.length, config.head_dim];
  if (query >= map.queries.length || key >= count) return null;
  const group = Math.floor((head * config.num_key_value_heads) / heads);
  const keyIndex = (key - firstKey) * config.num_key_value_heads + group;
  return explainAttention({
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

function logitsAt({ session }, position) {
  const { logits, length } = session.trace();
  if (position < 0 || position >= length) throw new RangeError("the text is shorter now");
  return row(logits, position, logits.length / length);
}

function probabilityRequest(context, { position, id }) {
  const { session } = context;
  const { tokens } = inputTokens(session);
  const place = session.model().kind === "masked" ? "at" : "after";
  const after = `This is the choice ${place} token ${position + 1}, “${tokens[position]}”.`;
  return explainProbability(logitsAt(context, position), id, visibleToken(session.tokenizer(), id), after);
}

function classRequest(context, { label }) {
  const { session } = context;
  const { scores } = session.trace();
  const name = session.description().labels?.[label] ?? `label ${label}`;
  const explanation = explainProbability(
    scores,
    label,
    name,
    "The classifier reads one vector for the whole text.",
  );
  return { ...explanation, concept: "pooling" };
}

function lossRequest(context, { position }) {
  const { session } = context;
  const id = session.ids()[position];
  return explainLoss(logitsAt(context, position - 1), id, visibleToken(session.tokenizer(), id));
}

function entropyRequest({ session }, { row: rowIndex, position }) {
  const distribution = lensDistribution(session.model(), session.trace(), rowIndex, position);
  return explainEntropy(distribution, largest(distribution, 2));
}

/** The trace of the stack that a request is about. */
function stackTrace({ session }, { stack }) {
  return stack === "encoder" ? session.trace().encoder : session.trace();
}

function normRequest(context, request) {
  const { session } = context;
  const trace = stackTrace(context, request);
  const size = trace.embeddings.length / trace.length;
  const isFinal = request.module === "norm";
  const final = { input: trace.layers.at(-1)?.output ?? trace.embeddings, output: trace.hidden };
  const { input, output } = isFinal ? final : trace.layers[request.layer].norms[request.module];
  const [before, after] = [input, output].map((states) => row(states, request.position, size));
  const [feature] = largest(after.map(Math.abs), 1);
  return explainNorm(before, after, session.model().config, feature);
}

function lengthRequest(context, request) {
  const trace = stackTrace(context, request);
  const states = request.state === 0 ? trace.embeddings : trace.layers[request.state - 1].output;
  return explainLength(
    row(states, request.position, trace.embeddings.length / trace.length),
    placeName(request.state),
  );
}

function expertsRequest(context, request) {
  const { experts } = stackTrace(context, request).layers[request.layer];
  const { config } = context.session.model();
  const [all, chosen] = [config.num_experts, config.num_experts_per_tok];
  return explainExperts(
    row(experts.probabilities, request.position, all),
    row(experts.chosen, request.position, chosen),
    row(experts.weights, request.position, chosen),
  );
}

function partRequest(context, { concept, title, lines }) {
  const { meaning, formula } = PART_MEANINGS[concept] ?? { meaning: "", formula: [] };
  const values = lines.length > 0 ? [["in this model", lines.join(", ")]] : [];
  return { title: title.replace(/^\+ /, ""), meaning, formula, values, concept };
}
