/**
 * The loss of each token of a text for a masked language model: each is masked in turn, and the model guesses
 * it from all others (pseudo-log-likelihood, Salazar et al. 2020, Masked Language Model Scoring,
 * arXiv:1910.14659).
 */

import { bar, largest, percent } from "#see/view/charts.js";
import { element } from "#see/view/dom.js";
import { lossColour, renderSummary } from "#see/view/loss.js";
import { decimal, logSumExp, row, softmax } from "#see/view/numbers.js";
import { maskId } from "#see/view/outcomes.js";
import { explainButton, replaceKeepingFocus } from "#see/view/rerender.js";
import { tokenStrip } from "#see/view/token_strip.js";
import { visibleToken } from "#see/view/token_text.js";

const SHOWN = 8; // guesses
const SOURCE = { masked: true }; // of what is explained (see requests.js)
const computed = new WeakMap(); // the losses by position, by the store of the page
const TIME_SLICE = 40; // milliseconds of computing between two answers to keys and clicks

export const view = {
  id: "pseudo-loss",
  title: "Loss",
  intro:
    "Each token is masked in turn, and its loss is −ln of the probability that the model gives it from all " +
    "other tokens. Their sum is the negative pseudo-log-likelihood of the text (Salazar et al. 2020, " +
    "arXiv:1910.14659).",
  kinds: ["masked"],
  build,
};

/**
 * The positions that are scored: all but those of special tokens, such as masks of the text.
 *
 * @param {object} tokenizer
 * @param {number[]} ids - (T,)
 * @returns {number[]}
 */
export function scoredPositions(tokenizer, ids) {
  return ids.flatMap((id, position) => (tokenizer.isSpecial(id) ? [] : [position]));
}

/**
 * The loss of one token, which is masked.
 *
 * @param {object} model - of the engine
 * @param {number[]} ids - (T,)
 * @param {number} position - of the token
 * @param {number} mask - id
 * @returns {{position: number, id: number, loss: number, probability: number, rank: number, logits:
 *   Float32Array}} loss in nats; the rank of the most probable token is 1; logits at the mask (V,)
 */
export function maskedLoss(model, ids, position, mask) {
  const masked = ids.map((id, index) => (index === position ? mask : id));
  const { logits, length } = model.forward(masked);
  const values = row(logits, position, logits.length / length).slice();
  const id = ids[position];
  const loss = logSumExp(values) - values[id];
  const rank = 1 + values.reduce((count, value) => count + (value > values[id] ? 1 : 0), 0);
  return { position, id, loss, probability: Math.exp(-loss), rank, logits: values };
}

function build(root, context) {
  const { session, store } = context;
  const select = (position) => store.set({ position });
  const strip = tokenStrip("Tokens with their losses", () => session.tokenizer(), select);
  const progress = element("p", { class: "note", id: "pseudo-loss-progress", role: "status" });
  const [summary, detail] = [element("div", {}), element("section", { class: "card" })];
  root.append(progress, summary, element("div", { class: "loss-strip" }, strip.node), detail);
  let known = { key: "", losses: new Map() };
  let timer = null;

  function draw(state) {
    const [ids, tokenizer] = [session.ids(), session.tokenizer()];
    const positions = scoredPositions(tokenizer, ids);
    const { losses } = known;
    const isComplete = losses.size === positions.length;
    strip.update(
      ids.map((id, position) => stripToken(id, losses.get(position), tokenizer)),
      state.position,
    );
    progress.textContent = describe(positions.length, losses.size, maskId(tokenizer));
    const all = isComplete && positions.length > 0 ? [...losses.values()] : [];
    const shown = all.length > 0 ? [renderSummary(context, all, "Pseudo-perplexity", SOURCE)] : [];
    replaceKeepingFocus(summary, shown);
    const selected = losses.get(state.position) ?? (isComplete ? losses.get(positions.at(-1)) : undefined);
    detail.hidden = !selected;
    if (selected) replaceKeepingFocus(detail, renderToken(context, selected));
  }

  /** Compute for a while, and go on later: a pass per token would block the page for long. */
  function compute() {
    timer = null;
    const [ids, mask] = [session.ids(), maskId(session.tokenizer())];
    if (keyOf(session, ids) !== known.key || root.closest("[role=tabpanel]").hidden) return;
    const end = performance.now() + TIME_SLICE;
    const open = scoredPositions(session.tokenizer(), ids).filter((position) => !known.losses.has(position));
    for (const position of open) {
      if (performance.now() > end) break;
      known.losses.set(position, maskedLoss(session.model(), ids, position, mask));
    }
    draw(store.get());
    start();
  }

  function start() {
    const [ids, tokenizer] = [session.ids(), session.tokenizer()];
    const isComplete = known.losses.size === scoredPositions(tokenizer, ids).length;
    if (timer === null && !isComplete && maskId(tokenizer) >= 0) timer = setTimeout(compute);
  }

  return (state) => {
    const key = keyOf(session, session.ids());
    if (key !== known.key) known = { key, losses: new Map() };
    computed.set(store, known.losses);
    draw(state);
    start();
  };
}

/**
 * The losses of the current text that are computed, each by its position.
 *
 * @param {import("#see/view/state.js").Context} context
 * @returns {Map<number, object>} from `maskedLoss`
 */
export function pseudoLosses({ store }) {
  return computed.get(store);
}

function keyOf(session, ids) {
  return JSON.stringify([session.description().name, ids]);
}

function describe(count, done, mask) {
  if (mask < 0) return "This tokenizer has no mask token, so that no token can be masked.";
  if (count === 0) return "Write a text first.";
  return done < count ? `Computing: ${done} of ${count} tokens.` : "";
}

function stripToken(id, found, tokenizer) {
  if (tokenizer.isSpecial(id)) return { id, below: "–", title: "A special token is not scored" };
  if (!found) return { id, below: "…" };
  const { loss, probability, rank } = found;
  const title = `${percent(probability)}, rank ${rank}`;
  return { id, below: loss.toFixed(2), colour: lossColour(loss), title };
}

/** The selected token: its loss and rank, and the guesses in its place. */
function renderToken(context, { position, id, loss, rank, logits }) {
  const tokenizer = context.session.tokenizer();
  const values = softmax(logits);
  const number = (name, each) => {
    const request = { kind: "probability", position, id: each, source: SOURCE };
    return explainButton(context, name, percent(values[each]), request);
  };
  const shown = largest(values, SHOWN);
  if (!shown.includes(id)) shown.push(id);
  const rows = shown.map((each) =>
    element(
      "tr",
      { class: each === id ? "marked" : null },
      element("th", { scope: "row" }, visibleToken(tokenizer, each)),
      element("td", {}, bar(values[each])),
      element("td", { class: "right" }, number(`pseudo-loss-${each}`, each)),
    ),
  );
  const request = { kind: "loss", position, source: SOURCE };
  return [
    element("h3", {}, `Token ${position + 1}: “${visibleToken(tokenizer, id)}”`),
    element(
      "p",
      { id: "pseudo-loss-value" },
      "Loss ",
      explainButton(context, "pseudo-loss-number", `${decimal(loss)} nats`, request),
      ": the model gave it ",
      number("pseudo-loss-probability", id),
      `, rank ${rank} of ${logits.length}.`,
    ),
    element(
      "table",
      { class: "weights" },
      element("caption", {}, "Guesses with this token masked"),
      element("tbody", {}, ...rows),
    ),
  ];
}
