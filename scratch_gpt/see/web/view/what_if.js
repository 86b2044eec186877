/**
 * What if a part of the model were switched off, or a token hidden: the answer before beside the answer
 * after.
 */

import { changeTable } from "#see/view/change_table.js";
import { element } from "#see/view/dom.js";
import { decimal, signed } from "#see/view/numbers.js";
import { answerPosition, answerPositions, distance, distanceName, outcome } from "#see/view/outcomes.js";
import {
  explainButton,
  hasTokens,
  inputTokens,
  replaceKeepingFocus,
  scrollRegion,
} from "#see/view/rerender.js";
import { engineEdits, noEdits } from "#see/view/state.js";

export const view = {
  id: "what-if",
  title: "What if",
  intro:
    "Switch off a head, a feed-forward network, a whole layer, or hide a token. What changes in " +
    "the answer shows what the part did for it.",
  kinds: ["causal", "seq2seq", "masked", "classifier"],
  build(root, context) {
    const body = element("div", { class: "view-body" });
    const measured = { trace: null, effects: new Map(), running: false };
    root.append(body);
    function update(state) {
      replaceKeepingFocus(
        body,
        renderWhatIf(context, state, measured, () => measure(context, measured, redraw)),
      );
    }
    const redraw = () => update(context.store.get());
    return update;
  },
};

/**
 * Edits with one part switched off, or on again if it was off.
 *
 * @param {import("#see/view/state.js").Edits} edits
 * @param {keyof import("#see/view/state.js").Edits} field
 * @param {string | number} part
 * @returns {import("#see/view/state.js").Edits} new ones
 */
export function toggled(edits, field, part) {
  const parts = new Set(edits[field]);
  if (!parts.delete(part)) parts.add(part);
  return { ...edits, [field]: parts };
}

/**
 * How many parts are switched off.
 *
 * @param {import("#see/view/state.js").Edits} edits
 * @returns {number}
 */
export function countEdits(edits) {
  return Object.values(edits).reduce((sum, parts) => sum + parts.size, 0);
}

/**
 * All parts of a model that can be switched off.
 *
 * @param {number} layers
 * @param {number} heads
 * @param {boolean} hasCross - whether there is cross-attention
 * @returns {{field: string, part: string | number, name: string, title: string}[][]} one list per layer
 */
export function partsOf(layers, heads, hasCross = false) {
  return Array.from({ length: layers }, (_, layer) => {
    const where = `of layer ${layer + 1}`;
    const headsOf = (field, name, title) =>
      Array.from({ length: heads }, (_, head) => ({
        field,
        part: `${layer}.${head}`,
        name: `${name} ${head + 1}`,
        title: `${title} ${head + 1} ${where}`,
      }));
    const cross = [
      { field: "crossAttentions", part: layer, name: "Cross-attention", title: `Cross-attention ${where}` },
      ...headsOf("crossHeads", "Cross head", "Cross-attention head"),
    ];
    return [
      { field: "blocks", part: layer, name: `Layer ${layer + 1}`, title: `Layer ${layer + 1}` },
      { field: "mlps", part: layer, name: "Feed-forward", title: `Feed-forward network ${where}` },
      { field: "attentions", part: layer, name: "Attention", title: `Self-attention ${where}` },
      ...headsOf("heads", "Head", "Head"),
      ...(hasCross ? cross : []),
    ];
  });
}

function renderWhatIf(context, state, measured, onmeasure) {
  const { session, store } = context;
  const trace = hasTokens(session) ? session.trace() : null;
  const { position } = state;
  const before = trace && outcome(session, trace, { position });
  if (!before) return [element("p", { class: "note" }, hint(session))];
  const count = countEdits(state.edits);
  const source = { edited: true };
  const after =
    count > 0 ? outcome(session, session.trace({ edits: state.edits }), { position, source }) : before;
  const toggle = (field, part) => store.set({ edits: toggled(state.edits, field, part) });
  if (measured.trace !== trace || measured.position !== position) {
    Object.assign(measured, { trace, position, effects: new Map() });
  }
  const reset = element(
    "button",
    {
      type: "button",
      id: "what-if-reset",
      disabled: count === 0,
      onclick: () => store.set({ edits: noEdits() }),
    },
    "Switch all on",
  );
  const status = count === 0 ? "Everything is on." : `${count} ${count === 1 ? "part is" : "parts are"} off.`;
  return [
    element("p", { class: "row", role: "status" }, status, reset),
    renderParts(context, state, trace, measured, toggle, onmeasure),
    renderTokens(context, state, toggle),
    element("section", { class: "card" }, ...renderChange(context, state, before, after)),
  ];
}

function hint(session) {
  return session.model().kind === "masked" ? "Write a text with a mask first." : "Write a text first.";
}

function renderParts(context, state, trace, measured, toggle, onmeasure) {
  const layers = trace.layers.length;
  if (layers === 0)
    return element("p", { class: "note" }, "This model has no layers; its tokens can be hidden.");
  const heads = trace.layers[0].attention.length / trace.length ** 2;
  const rows = partsOf(layers, heads, trace.layers[0].crossAttention !== null).map((parts, layer) =>
    element(
      "div",
      { class: "parts-row", role: "group", "aria-label": `Layer ${layer + 1}` },
      ...parts.map((part) => partButton(part, state, measured, toggle)),
    ),
  );
  const measureButton = element(
    "button",
    { type: "button", id: "what-if-measure", disabled: measured.running, onclick: onmeasure },
    measured.running ? "Measuring…" : "Measure every part",
  );
  return element(
    "section",
    {},
    element("h3", {}, "Parts of the model"),
    scrollRegion(
      "what-if-parts",
      "Parts that can be switched off",
      element("div", { class: "parts" }, ...rows),
    ),
    element(
      "p",
      { class: "row note" },
      measureButton,
      "Switches off one part after the other, and writes how far the answer moves: the " +
        "Kullback-Leibler divergence, in nats. Switch one off to see how it is computed.",
    ),
  );
}

function partButton({ field, part, name, title }, state, measured, toggle) {
  const off = state.edits[field].has(part) || (field !== "blocks" && isCovered(state.edits, field, part));
  const effect = measured.effects.get(`${field} ${part}`);
  return element(
    "button",
    {
      type: "button",
      id: `part-${field}-${part}`,
      class: `part ${field}`,
      "aria-pressed": String(state.edits[field].has(part)),
      "aria-label": `Switch off: ${title}${effect === undefined ? "" : `, ${effectText(effect)} nats`}`,
      style: { "--weight": effect === undefined ? 0 : Math.min(1, effect / 2).toFixed(3) },
      onclick: () => toggle(field, part),
    },
    element("span", {}, name),
    element("small", {}, off ? "off" : effect === undefined ? "on" : effectText(effect)),
  );
}

/** Whether a larger part that is off contains this one. */
function isCovered(edits, field, part) {
  const layer = Number(String(part).split(".")[0]);
  const whole = { heads: edits.attentions, crossHeads: edits.crossAttentions }[field];
  return edits.blocks.has(layer) || (whole?.has(layer) ?? false);
}

function renderTokens(context, state, toggle) {
  const { tokens, sourceTokens } = inputTokens(context.session);
  const shown = sourceTokens ?? tokens;
  const field = sourceTokens ? "hiddenSource" : "hiddenTokens";
  const buttons = shown.map((token, position) =>
    element(
      "button",
      {
        type: "button",
        id: `hide-${position}`,
        class: "token",
        "aria-pressed": String(state.edits[field].has(position)),
        "aria-label": `Hide token ${position + 1}: ${token}`,
        onclick: () => toggle(field, position),
      },
      token,
    ),
  );
  return element(
    "section",
    {},
    element("h3", {}, sourceTokens ? "Tokens of the source" : "Tokens"),
    element("p", { class: "note" }, "No other token can attend to a hidden one."),
    element("div", { class: "hide-tokens", role: "group", "aria-label": "Tokens to hide" }, ...buttons),
  );
}

function renderChange(context, state, before, after) {
  return [
    element("h3", {}, "The answer before and after"),
    context.session.model().kind === "classifier" ? null : renderPlace(context, state),
    changeTable(context, "what-if-change", before, after, ["Before", "After"]),
    renderDistance(context, state, before, after),
    before.loss === null ? null : renderLossChange(context, before.loss, after.loss),
  ].filter(Boolean);
}

/** The choice of the token whose answer is shown. */
function renderPlace({ session, store }, state) {
  const { tokens } = inputTokens(session);
  const chosen = answerPosition(session, state.position);
  const options = answerPositions(session).map((position) =>
    element(
      "option",
      { value: position, selected: position === chosen },
      `${position + 1} ${tokens[position]}`,
    ),
  );
  const onchange = (event) => store.set({ position: Number(event.target.value) });
  const label = session.model().kind === "masked" ? "At the mask" : "After the token";
  return element(
    "p",
    { class: "row" },
    element("label", { for: "what-if-position" }, label),
    element("select", { id: "what-if-position", onchange }, ...options),
  );
}

/** The size of an effect in few characters. */
function effectText(effect) {
  return effect < 0.001 ? "<0.001" : decimal(effect);
}

/** How far the answer moved. */
function renderDistance(context, { position }, before, after) {
  const { name, unit } = distanceName(before);
  const request = {
    kind: "divergence",
    before: {},
    after: { edited: true },
    position,
    what: "after the change",
  };
  const text = `${decimal(distance(before, after))} ${unit}`.trimEnd();
  return element("p", {}, `${name}: `, explainButton(context, "what-if-distance", text, request));
}

function renderLossChange(context, before, after) {
  const edited = { edited: true };
  const mean = (name, value, source) =>
    explainButton(context, `what-if-loss-${name}`, decimal(value), { kind: "meanLoss", source });
  const change = { kind: "lossChange", before: {}, after: edited, names: ["before", "after"] };
  return element(
    "p",
    { id: "what-if-loss" },
    "Mean loss of the text: ",
    mean("before", before, {}),
    " before, ",
    mean("after", after, edited),
    " after (",
    explainButton(context, "what-if-loss-change", signed(after - before), change),
    " nats per token).",
  );
}

/** Switch off one part after the other, in steps between which the page stays usable. */
function measure(context, measured, redraw) {
  const { session } = context;
  const { trace, position } = measured;
  const model = session.model();
  const before = outcome(session, trace, { position });
  const heads = trace.layers[0].attention.length / trace.length ** 2;
  const parts = partsOf(trace.layers.length, heads, trace.layers[0].crossAttention !== null).flat();
  const [ids, sourceIds] = [session.ids(), session.sourceIds()];
  measured.running = true;
  redraw();
  function step() {
    const next = parts.shift();
    if (!next || measured.trace !== trace || measured.position !== position) {
      measured.running = false;
      redraw();
      return;
    }
    const edits = toggled(noEdits(), next.field, next.part);
    const after = outcome(session, model.forward(ids, { sourceIds, edits: engineEdits(edits) }), {
      position,
    });
    measured.effects.set(`${next.field} ${next.part}`, distance(before, after));
    if (parts.length % 8 === 0) redraw();
    setTimeout(step);
  }
  setTimeout(step);
}
