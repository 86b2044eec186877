/**
 * The architecture of this model as one drawing: from the tokens through the blocks to the answer. The
 * width of the residual stream shows the size of its vectors.
 */

import { bar } from "#see/view/charts.js";
import { element, svg } from "#see/view/dom.js";
import { layoutStack, STREAM } from "#see/view/flow_layout.js";
import { describeModel } from "#see/view/flow_model.js";
import { clampIndex, decimal, norm, row } from "#see/view/numbers.js";
import { drawnAnew, explainAttributes, hasTokens, inputTokens, pressable } from "#see/view/rerender.js";

/** Kinds of parameters, by the names of their tensors; the first that fits. */
const GROUPS = [
  ["Norms", /norm/],
  ["Cross-attention", /cross_attn/],
  ["Attention", /self_attn|relative_bias/],
  ["Experts", /experts|mlp\.gate\.weight/],
  ["Feed-forward", /\.mlp\./],
  ["Embeddings", /embed|token_weights/],
  ["Head", /./],
];
const ADDED = {
  attentionOutput: "attention",
  crossAttentionOutput: "cross-attention",
  mlpOutput: "the feed-forward network",
};
const [NARROW, WIDE] = [3, 26]; // pixels of the stream

export const view = {
  id: "flow",
  title: "Architecture",
  intro:
    "This is how the model is built. The thick line is the residual stream: a list of numbers for " +
    "each token, which every part reads and adds to. Its width and the numbers on its left are the " +
    "length of that list, as a vector.",
  lesson: "depth",
  build: drawnAnew(renderFlow),
};

/**
 * @param {object} context - of a view
 * @param {object} state
 * @returns {Node[]}
 */
function renderFlow(context, state) {
  const { session } = context;
  const stacks = describeModel(session.description());
  const trace = hasTokens(session) && session.model().kind !== "bigram" ? session.trace() : null;
  const inputs = inputTokens(session);
  const drawings = stacks.map((stack) => renderStack(context, state, stack, trace, inputs));
  return [
    element("p", { class: "note" }, "Select a box to see its numbers, its formula and its source."),
    element("div", { class: "flow" }, ...drawings, renderParameters(session.description())),
  ];
}

/**
 * How many parameters each kind of part has. Tied weights are counted once, with the embedding.
 *
 * @param {Record<string, {shape: number[]}>} tensors - of the payload
 * @returns {{name: string, count: number}[]} largest first
 */
export function parameterGroups(tensors) {
  const counts = new Map();
  for (const [tensor, { shape }] of Object.entries(tensors)) {
    const [name] = GROUPS.find(([, pattern]) => pattern.test(tensor));
    counts.set(name, (counts.get(name) ?? 0) + shape.reduce((product, size) => product * size, 1));
  }
  return [...counts].map(([name, count]) => ({ name, count })).sort((a, b) => b.count - a.count);
}

function renderParameters({ tensors }) {
  const groups = parameterGroups(tensors);
  const total = groups.reduce((sum, { count }) => sum + count, 0);
  const rows = groups.map(({ name, count }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, name),
      element("td", {}, bar(count / total)),
      element("td", { class: "right" }, count.toLocaleString("en")),
    ),
  );
  return element(
    "section",
    { class: "flow-parameters" },
    element("h3", {}, "Where the parameters are"),
    element(
      "table",
      { class: "weights counts" },
      element("caption", {}, `${total.toLocaleString("en")} numbers that the model has learned`),
      element("tbody", {}, ...rows),
    ),
  );
}

/**
 * Length of the residual stream's vector of one token before the first block and after each one.
 *
 * @param {object} trace
 * @param {number} position
 * @returns {number[]} one more than there are blocks
 */
export function streamNorms(trace, position) {
  const states = [trace.embeddings, ...trace.layers.map(({ output }) => output)];
  const size = trace.embeddings.length / trace.length;
  return states.map((each) => norm(row(each, position, size)));
}

function renderStack(context, state, stack, trace, inputs) {
  const shown = stack.id === "encoder" ? trace?.encoder : trace;
  const tokens = stack.id === "encoder" ? inputs.sourceTokens : inputs.tokens;
  const position = shown ? clampIndex(state.position, shown.length) : 0;
  const norms = shown ? streamNorms(shown, position) : [];
  const layout = layoutStack(stack, clampIndex(state.layer, Math.max(1, stack.blocks.length)));
  const scene = { context, stack, layout, norms, trace: shown, position };
  const label = `${stack.title || "The model"}: ${stack.blocks.length} layers`;
  const { width, height } = layout;
  return element(
    "figure",
    { class: "flow-stack" },
    element(
      "figcaption",
      {},
      stack.title ? element("strong", {}, stack.title) : null,
      shown
        ? element("span", { class: "note" }, ` Lengths for token ${position + 1}, “${tokens[position]}”`)
        : null,
    ),
    svg(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label },
      svg("defs", {}, arrowHead(stack.id)),
      ...layout.frames.map((frame) => renderFrame(scene, frame)),
      ...layout.stream.map((piece) => renderStream(scene, piece)),
      ...layout.arrows.map((path) =>
        svg("path", { d: path, class: "flow-arrow", "marker-end": `url(#arrow-${stack.id})` }),
      ),
      ...layout.sums.map(({ y }) => renderSum(y)),
      ...layout.boxes.map((placed, index) => renderBox(scene, placed, index)),
      ...renderNumbers(scene),
    ),
  );
}

function arrowHead(id) {
  const options = {
    id: `arrow-${id}`,
    viewBox: "0 0 8 8",
    refX: 7,
    refY: 4,
    markerWidth: 7,
    markerHeight: 7,
    orient: "auto",
  };
  return svg("marker", options, svg("path", { d: "M0 0.5L7.5 4L0 7.5z", class: "flow-head" }));
}

function renderFrame({ context, layout, stack }, { layer, y, height, isOpen }) {
  const text = `Layer ${layer + 1}`;
  const frame = svg("rect", { x: 3, y, width: layout.width - 6, height, rx: 8, class: "flow-frame" });
  const title = svg("text", { x: layout.width - 14, y: y + 18, class: "flow-layer" }, text);
  if (isOpen) return svg("g", {}, frame, title);
  const open = pressable(() => context.store.set({ layer }));
  return svg(
    "g",
    {
      role: "button",
      tabindex: 0,
      id: `flow-${stack.id}-layer-${layer}`,
      "aria-label": `Open ${text}`,
      class: "flow-button",
      ...open,
    },
    frame,
    title,
    svg(
      "text",
      { x: (STREAM + layout.width) / 2, y: y + 22, class: "flow-detail" },
      "attention, feed-forward",
    ),
  );
}

function streamWidth(norms, state) {
  const most = Math.max(...norms);
  return norms.length > 0 && most > 0 ? NARROW + ((WIDE - NARROW) * norms[state]) / most : 8;
}

function renderStream({ norms }, { from, to, state }) {
  const width = streamWidth(norms, state);
  return svg("rect", { x: STREAM - width / 2, y: from, width, height: to - from, class: "flow-stream" });
}

function renderSum(y) {
  return svg(
    "g",
    { class: "flow-sum" },
    svg("circle", { cx: STREAM, cy: y, r: 9 }),
    svg("path", { d: `M${STREAM - 5} ${y}h10M${STREAM} ${y - 5}v10` }),
  );
}

function renderBox(scene, { box, x, y, width, height, layer }, index) {
  const { context, stack } = scene;
  const middle = x + width / 2;
  const label = [
    box.title,
    ...box.lines,
    layer === null || layer >= stack.blocks.length ? "" : `layer ${layer + 1}`,
  ];
  return svg(
    "g",
    {
      role: "button",
      tabindex: 0,
      id: `flow-${stack.id}-${index}`,
      class: `flow-button flow-box ${box.kind}`,
      "aria-label": label.filter(Boolean).join(", "),
      ...pressable(() => openBox(scene, box, layer)),
    },
    svg("rect", { x, y, width, height, rx: 6 }),
    svg("text", { x: middle, y: y + 18, class: "flow-title" }, box.title),
    ...box.lines.map((line, number) =>
      svg("text", { x: middle, y: y + 34 + 15 * number, class: "flow-detail" }, line),
    ),
  );
}

/** A box opens the view that is about it, or an explanation with its numbers. */
function openBox({ context, stack, trace, position }, box, layer) {
  const { store } = context;
  if (box.view) {
    const attention = stack.id === "encoder" ? "encoder" : box.map;
    store.set({ view: box.view, ...(layer === null || !box.map ? {} : { layer, attention }) });
    return;
  }
  const request = {
    concept: box.concept,
    title: box.title,
    lines: box.lines,
    stack: stack.id,
    layer,
    position,
  };
  const hasNumbers = trace && box.module && box.module !== "embedding_norm";
  const inner = { experts: "experts", feed_forward: "neurons" }[box.kind];
  const kind = hasNumbers ? "norm" : ((trace && inner) ?? "part");
  store.set({ explain: { ...request, kind, module: box.module } });
}

/**
 * @param {number} state - 0 is the embedding, n the output of block n
 * @returns {string}
 */
export function placeName(state) {
  return state === 0 ? "before layer 1" : `after layer ${state}`;
}

/** The length of the stream beside it, and of what each branch adds. */
function renderNumbers({ context, stack, layout, norms, trace, position }) {
  if (norms.length === 0) return [];
  const places = layout.frames.map(({ layer, y }) => ({ state: layer, y: y + 17 }));
  const end = layout.stream.at(-1);
  if (end) places.push({ state: norms.length - 1, y: (end.from + end.to) / 2 + 4 });
  const sizes = places.map(({ state, y }) => {
    const request = { kind: "length", stack: stack.id, state, position };
    const label = `Length of the residual stream ${placeName(state)}: ${decimal(norms[state])}`;
    return numberInDrawing(
      context,
      { id: `flow-${stack.id}-length-${state}`, request, label },
      svg("rect", { x: 8, y: y - 14, width: 40, height: 20, rx: 4 }),
      svg("text", { x: 44, y }, decimal(norms[state])),
    );
  });
  const size = trace.embeddings.length / trace.length;
  const added = layout.additions.map(({ x, y, layer, output }) => {
    const value = norm(row(trace.layers[layer][output], position, size));
    const name = ADDED[output];
    const request = { kind: "addition", stack: stack.id, layer, output, position, name };
    const label = `Length of what ${name} of layer ${layer + 1} adds: ${decimal(value)}`;
    return numberInDrawing(
      context,
      { id: `flow-${stack.id}-${output}-${layer}`, request, label, kind: "flow-added" },
      svg("rect", { x: x - 4, y: y - 13, width: 74, height: 18, rx: 4 }),
      svg("text", { x, y }, `adds ${decimal(value)}`),
    );
  });
  return [...sizes, ...added];
}

/** A number in the drawing, as a button that explains it. */
function numberInDrawing(context, { id, request, label, kind = "" }, ...shapes) {
  const { onclick, ...rest } = explainAttributes(context, request);
  const keys = pressable(onclick);
  const attributes = { role: "button", tabindex: 0, id, class: `flow-button flow-number ${kind}`.trim() };
  return svg("g", { ...attributes, "aria-label": label, ...rest, ...keys }, ...shapes);
}
