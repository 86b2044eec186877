/** The loss of each token of the text: how surprised the model is by it, given the tokens before. */

import { bar, largest, percent } from "#see/view/charts.js";
import { element } from "#see/view/dom.js";
import { decimal, row, softmax } from "#see/view/numbers.js";
import { byteCounter, lossSummary, tokenLosses } from "#see/view/outcomes.js";
import { explainButton, replaceKeepingFocus } from "#see/view/rerender.js";
import { tokenStrip } from "#see/view/token_strip.js";
import { visibleToken } from "#see/view/token_text.js";

const MAX_LOSS = 8; // nats, of the darkest colour
const SHOWN = 8; // alternatives

export const view = {
  id: "loss",
  title: "Loss",
  intro:
    "The loss of a token is −ln of the probability that the model gave it before it saw it. It is " +
    "0 for a token that was certain and large for a surprise. Training makes the mean of these " +
    "numbers small.",
  kinds: ["causal", "seq2seq", "bigram"],
  build(root, context) {
    const { session, store } = context;
    const strip = tokenStrip("Tokens with their losses", session.tokenizer, (position) =>
      store.set({ position }),
    );
    const [summary, detail] = [element("div", {}), element("section", { class: "card" })];
    const legend = element(
      "p",
      { class: "note" },
      "A stronger colour is a larger loss. The number below a token is its loss in nats.",
    );
    const target = session.model().kind === "seq2seq" ? targetField(context) : null;
    if (target) root.append(target.node);
    root.append(summary, element("div", { class: "loss-strip" }, strip.node), legend, detail);
    return (state) => {
      target?.update(state);
      const ids = session.ids();
      const losses = ids.length < 2 ? [] : tokenLosses(session.trace().logits, ids);
      strip.update(stripTokens(ids, losses), state.position);
      replaceKeepingFocus(summary, [renderSummary(context, losses)]);
      const selected = losses.find(({ position }) => position === state.position) ?? losses.at(-1);
      detail.hidden = !selected;
      if (selected) replaceKeepingFocus(detail, renderToken(context, selected));
    };
  },
};

/**
 * The share of the accent colour behind a token of this loss.
 *
 * @param {number} loss - in nats
 * @returns {string} a CSS colour
 */
export function lossColour(loss) {
  const share = Math.round(45 * Math.min(1, loss / MAX_LOSS));
  return `color-mix(in srgb, var(--accent) ${share}%, transparent)`;
}

/** A field for a translation, whose loss given the source is then shown: it replaces what was written, and is
 * emptied by what replaces it. */
function targetField({ session, store }) {
  let written = null;
  const area = element("textarea", { id: "target-text", rows: 2, "aria-describedby": "target-help" });
  area.addEventListener("input", () => {
    written = area.value === "" ? [] : targetIds(session.model(), area.value);
    store.set({ written, position: null, key: null });
  });
  const help = "Its tokens, with the one that ends it, are scored given the source.";
  const node = element(
    "div",
    { class: "control" },
    element("label", { for: "target-text" }, "A translation to score"),
    area,
    element("p", { id: "target-help", class: "help" }, help),
  );
  const update = (state) => {
    if (state.written !== written) area.value = "";
  };
  return { node, update };
}

/**
 * The ids of a translation after those that every target starts with, as it is trained on: with the special
 * tokens of its tokenizer's template and the token that ends a text.
 *
 * @param {object} model - of the engine
 * @param {string} text
 * @returns {number[]}
 */
export function targetIds({ targetTokenizer, generation }, text) {
  const { before, after } = targetTokenizer.payload.post;
  const hasForcedStart = (generation.forced_bos_token_id ?? null) !== null;
  const ends = generation.eos_token_ids.slice(
    0,
    after.some((id) => generation.eos_token_ids.includes(id)) ? 0 : 1,
  );
  const ids = targetTokenizer.encode(text, { addSpecialTokens: false });
  return [...(hasForcedStart ? [] : before), ...ids, ...after, ...ends];
}

function stripTokens(ids, losses) {
  return ids.map((id, position) => {
    if (position === 0) return { id, below: "–", title: "The first token is not predicted" };
    const { loss, probability, rank } = losses[position - 1];
    return {
      id,
      below: loss.toFixed(2),
      colour: lossColour(loss),
      title: `${percent(probability)}, rank ${rank}`,
    };
  });
}

/**
 * Mean loss, perplexity and bits per byte of a text.
 *
 * @param {import("#see/view/state.js").Context} context
 * @param {{id: number, loss: number}[]} losses
 * @param {string} [perplexityName]
 * @param {object} [source] - where the losses are from (see requests.js)
 * @returns {Element}
 */
export function renderSummary(context, losses, perplexityName = "Perplexity", source = {}) {
  if (losses.length === 0) return element("p", { class: "note" }, "Write at least two tokens.");
  const byteCount = byteCounter(context.session.tokenizer());
  const { mean, perplexity, bytes, bitsPerByte } = lossSummary(losses, byteCount);
  const figure = (name, value, unit, note) =>
    element(
      "div",
      { class: "metric" },
      element("dt", {}, name),
      element(
        "dd",
        {},
        explainButton(context, `metric-${name.replaceAll(" ", "-").toLowerCase()}`, value, {
          kind: "meanLoss",
          source,
        }),
        element("small", {}, ` ${unit}`),
      ),
      element("dd", { class: "note" }, note),
    );
  return element(
    "dl",
    { class: "metrics" },
    figure("Mean loss", decimal(mean), "nats per token", `over ${losses.length} tokens`),
    figure(perplexityName, decimal(perplexity), "tokens", "as uncertain as an even choice among so many"),
    bytes > 0 ? figure("Bits per byte", decimal(bitsPerByte), "", `over ${bytes} bytes of text`) : null,
  );
}

/** The selected token: its loss and rank, and what the model expected in its place. */
function renderToken(context, { position, id, loss, probability, rank }) {
  const { session } = context;
  const tokenizer = session.tokenizer();
  const { logits, length } = session.trace();
  const vocabulary = logits.length / length;
  const values = softmax(row(logits, position - 1, vocabulary));
  const shown = largest(values, SHOWN);
  if (!shown.includes(id)) shown.push(id);
  const rows = shown.map((each) => {
    const request = { kind: "probability", position: position - 1, id: each };
    return element(
      "tr",
      { class: each === id ? "marked" : null },
      element(
        "th",
        { scope: "row" },
        visibleToken(tokenizer, each),
        each === id ? element("small", {}, " in the text") : null,
      ),
      element("td", {}, bar(values[each])),
      element(
        "td",
        { class: "right" },
        explainButton(context, `loss-${each}`, percent(values[each]), request),
      ),
    );
  });
  const request = { kind: "loss", position };
  return [
    element("h3", {}, `Token ${position + 1}: “${visibleToken(tokenizer, id)}”`),
    element(
      "p",
      {},
      "Loss ",
      explainButton(context, "loss-value", `${decimal(loss)} nats`, request),
      ": the model gave it ",
      explainButton(context, "loss-probability", percent(probability), {
        kind: "probability",
        position: position - 1,
        id,
      }),
      `, rank ${rank} of ${vocabulary}.`,
    ),
    element(
      "table",
      { class: "weights" },
      element("caption", {}, "What it expected here"),
      element("tbody", {}, ...rows),
    ),
  ];
}
