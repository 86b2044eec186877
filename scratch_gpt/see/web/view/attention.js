/**
 * Attention of every head: all heads in small, one as arcs over the text and as a matrix, and its weights
 * as a table.
 *
 * Dimension letters: H heads, T queries, S keys.
 */

import {
  arcPath,
  attentionMaps,
  describeHead,
  headWeights,
  linkPath,
  matrixPaths,
  MIN_WEIGHT,
  tokenLayout,
} from "#see/view/attention_layout.js";
import { bar, largest, percent } from "#see/view/charts.js";
import { element, svg } from "#see/view/dom.js";
import { clampIndex } from "#see/view/numbers.js";
import { choice, drawnAnew, explainButton, inputTokens, scrollRegion } from "#see/view/rerender.js";

const [MIN_HEIGHT, MAX_HEIGHT] = [44, 150]; // of the arcs, in pixels
const LABELLED_TOKENS = 48; // a matrix of more tokens has no labels

export const view = {
  id: "attention",
  title: "Attention",
  intro:
    "Each head computes, for every token, how much it takes from each token that it can see. " +
    "Select a head, and a token whose weights you want to see.",
  lesson: "attention",
  kinds: ["causal", "seq2seq", "masked", "classifier", "encoder"],
  build: drawnAnew(renderAttention, ["attention-arcs"]),
};

/**
 * @param {object} context - of a view
 * @param {object} state
 * @returns {Node[]}
 */
function renderAttention(context, state) {
  const selection = selectedHead(context, state);
  if (!selection) return [element("p", { class: "note" }, "This model has no attention layers.")];
  const { maps, map, layer, head, query } = selection;
  const set = (change) => context.store.set(change);
  const kinds = maps.map(({ id, title }) => ({ value: id, text: title }));
  const heads = Array.from({ length: selection.heads }, (_, index) => ({
    value: index,
    text: String(index + 1),
  }));
  const layers = map.layers.map((_, index) => ({ value: index, text: String(index + 1) }));
  return [
    maps.length > 1
      ? choice("attention-kind", "Which", kinds, map.id, (attention) => set({ attention }))
      : null,
    element(
      "div",
      { class: "row" },
      choice("attention-layer", "Layer", layers, layer, (value) => set({ layer: value })),
      choice("attention-head", "Head", heads, head, (value) => set({ head: value })),
    ),
    element(
      "section",
      { class: "card" },
      element("h3", {}, `Layer ${layer + 1}, head ${head + 1}`),
      element("p", { class: "note" }, ...headSentence(context, selection)),
      element("h4", {}, "Over the text"),
      map.id === "cross"
        ? element("p", { class: "note" }, "From a target token, the model predicts the one after it.")
        : null,
      map.id === "cross" ? renderLinks(selection, set) : renderArcs(selection, set),
      element("p", { class: "note" }, `Thicker is more. Weights below ${percent(MIN_WEIGHT)} are not drawn.`),
      element(
        "div",
        { class: "halves" },
        element(
          "div",
          {},
          element("h4", {}, `Weights of “${map.queries[query]}”`),
          renderWeights(context, selection),
        ),
        element("div", {}, element("h4", {}, "All tokens"), renderMatrix(context, selection, set)),
      ),
    ),
    element("h3", {}, "All heads"),
    renderThumbnails(selection, set),
  ];
}

/**
 * The head and the tokens that the state selects; indices that the model or the text does not have become
 * the last one.
 *
 * @param {object} context
 * @param {object} state
 * @returns {object | null} null if the model has no attention
 */
export function selectedHead(context, state) {
  const inputs = inputTokens(context.session);
  const kind = context.session.model().kind;
  const maps = attentionMaps(kind, context.session.trace(), inputs).filter(({ layers }) => layers.length > 0);
  if (maps.length === 0 || inputs.tokens.length === 0) return null;
  const map = maps.find(({ id }) => id === state.attention) ?? maps[0];
  const [queries, keys] = [map.queries.length, map.keys.length];
  const layer = clampIndex(state.layer, map.layers.length);
  const heads = map.layers[layer].length / (queries * keys);
  const head = clampIndex(state.head, heads);
  const query = clampIndex(state.position, queries);
  const weights = headWeights(map.layers[layer], head, queries, keys);
  const best = largest(weights.subarray(query * keys, (query + 1) * keys), 1)[0];
  const key = state.key === null || state.key === undefined || state.key >= keys ? best : state.key;
  return { maps, map, layer, head, heads, query, key, weights };
}

/** What the head does on average, each number as a button. */
function headSentence(context, { map, weights, layer, head }) {
  const [queries, keys, same] = [map.queries.length, map.keys.length, map.id !== "cross"];
  const means = describeHead(weights, queries, keys, same);
  const request = { map: map.id, layer, head };
  const number = (of, name) =>
    explainButton(context, `head-${of}`, percent(means[of]), { kind: "headMean", ...request, of, name });
  const spread = Math.exp(means.entropy).toFixed(1);
  const parts = same
    ? [
        number("previous", "the token before"),
        " of the weight goes to the token before, ",
        number("first", "the first token"),
        " to the first token and ",
        number("self", "the token itself"),
        " to the token itself.",
      ]
    : [number("first", "the first source token"), " of the weight goes to the first source token."];
  return [
    "On average ",
    ...parts,
    " The weights are spread like an even choice among ",
    explainButton(context, "head-entropy", spread, { kind: "headSpread", ...request }),
    " tokens.",
  ];
}

/** Arcs from the selected token, and faint ones from all others. */
function renderArcs(selection, set) {
  const { map, weights, query, key } = selection;
  const { places, width } = tokenLayout(map.queries);
  const height = Math.min(MAX_HEIGHT, Math.max(MIN_HEIGHT, width * 0.4));
  const path = (from, to) => arcPath(places[from].middle, places[to].middle, height);
  const lines = drawLines(weights, map.queries.length, map.keys.length, query, path);
  const drawing = svg(
    "svg",
    { width, height, role: "img", "aria-label": lineLabel(selection), class: "arcs" },
    ...lines,
  );
  const onselect = (position) => set({ position, key: null });
  const row = tokenRow(
    "attention-query",
    "Token whose weights are shown",
    map.queries,
    places,
    query,
    key,
    onselect,
  );
  return scrollRegion("attention-arcs", "Arcs of attention over the text", element("div", {}, drawing, row));
}

/** Lines from the tokens of the target, below, to those of the source, above. */
function renderLinks(selection, set) {
  const { map, weights, query, key } = selection;
  const [source, target] = [tokenLayout(map.keys), tokenLayout(map.queries)];
  const path = (from, to) => linkPath(target.places[from].middle, source.places[to].middle, MAX_HEIGHT);
  const lines = drawLines(weights, map.queries.length, map.keys.length, query, path);
  const width = Math.max(source.width, target.width);
  const label = lineLabel(selection);
  const drawing = svg(
    "svg",
    { width, height: MAX_HEIGHT, role: "img", "aria-label": label, class: "arcs" },
    ...lines,
  );
  const onkey = (value) => set({ key: value });
  const onquery = (position) => set({ position, key: null });
  return scrollRegion(
    "attention-links",
    "Lines of attention from the target to the source",
    tokenRow("attention-key", "Source token", map.keys, source.places, key, null, onkey),
    drawing,
    tokenRow(
      "attention-query",
      "Target token whose weights are shown",
      map.queries,
      target.places,
      query,
      null,
      onquery,
    ),
  );
}

function lineLabel({ map, query, weights }) {
  const values = weights.subarray(query * map.keys.length, (query + 1) * map.keys.length);
  const parts = largest(values, 3).map((key) => `${percent(values[key])} to ${map.keys[key]}`);
  return `${map.queries[query]} gives ${parts.join(", ")}`;
}

function drawLines(weights, queries, keys, selected, path) {
  const [faint, strong] = [[], []];
  for (let query = 0; query < queries; query++) {
    for (let key = 0; key < keys; key++) {
      const weight = weights[query * keys + key];
      if (!(weight >= MIN_WEIGHT)) continue;
      const line = {
        d: path(query, key),
        "stroke-width": (0.5 + 7 * weight).toFixed(1),
        style: { "--weight": weight },
      };
      if (query === selected) strong.push(svg("path", { ...line, class: "selected" }));
      else if (weight >= 0.1) faint.push(svg("path", { ...line, class: "other" }));
    }
  }
  return [...faint, ...strong];
}

/** Buttons of tokens at the places of a layout; arrow keys move between them. */
function tokenRow(id, label, tokens, places, selected, marked, onselect) {
  const node = element("div", { class: "token-row", role: "toolbar", "aria-label": label });
  const buttons = tokens.map((token, index) =>
    element(
      "button",
      {
        type: "button",
        id: `${id}-${index}`,
        class: index === marked && index !== selected ? "marked" : null,
        "aria-pressed": String(index === selected),
        tabindex: index === selected ? 0 : -1,
        style: { width: `${places[index].width}px` },
        onclick: () => onselect(index),
      },
      token,
    ),
  );
  node.append(...buttons);
  node.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (next === undefined || !buttons[next]) return;
    event.preventDefault();
    buttons[next].focus();
    buttons[next].click();
  });
  return node;
}

/** The largest weights of the selected token as a table; each opens its formula. */
function renderWeights(context, selection) {
  const { map, layer, head, query, weights, key: selectedKey } = selection;
  const keys = map.keys.length;
  const values = weights.subarray(query * keys, (query + 1) * keys);
  const shown = largest(values, 10).filter((key) => values[key] > 0);
  if (!shown.includes(selectedKey)) shown.push(selectedKey);
  const rows = shown.map((key) => {
    const request = { kind: "attention", map: map.id, layer, head, query, key };
    const label = `Weight ${percent(values[key])} of ${map.keys[key]}: how it is computed`;
    return element(
      "tr",
      { class: key === selectedKey ? "marked" : null },
      element("th", { scope: "row" }, map.keys[key], element("small", {}, ` ${key + 1}`)),
      element("td", {}, bar(values[key])),
      element(
        "td",
        { class: "right" },
        explainButton(context, `weight-${key}`, percent(values[key]), request, label),
      ),
    );
  });
  const caption = `Token ${query + 1}; select a weight to see its formula`;
  return element(
    "table",
    { class: "weights" },
    element("caption", {}, caption),
    element("tbody", {}, ...rows),
  );
}

/**
 * All weights of a head as a matrix: rows are queries, columns keys. Arrow keys move the selected cell, whose
 * weight Enter explains.
 */
function renderMatrix(context, selection, set) {
  const { map, weights, query, key, layer, head } = selection;
  const [queries, keys] = [map.queries.length, map.keys.length];
  const cell = Math.round(Math.min(22, Math.max(7, 420 / Math.max(queries, keys))));
  const labelled = Math.max(queries, keys) <= LABELLED_TOKENS && cell >= 9;
  const [left, top] = labelled ? [84, 84] : [0, 0];
  const [width, height] = [left + keys * cell + 1, top + queries * cell + 1];
  const cells = svg(
    "g",
    { transform: `translate(${left} ${top}) scale(${cell})` },
    svg("rect", { class: "matrix-back", width: keys, height: queries }),
    ...matrixPaths(weights, queries, keys).map(({ shade, path }) =>
      svg("path", { d: path, class: "cell", style: { "--weight": shade } }),
    ),
    svg("rect", { class: "matrix-row", y: query, width: keys, height: 1 }),
    svg("rect", { class: "matrix-selected", x: key, y: query, width: 1, height: 1 }),
  );
  const onclick = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    const [column, line] = [(event.clientX - box.x - left) / cell, (event.clientY - box.y - top) / cell];
    if (column >= 0 && line >= 0 && column < keys && line < queries)
      set({ position: Math.floor(line), key: Math.floor(column) });
  };
  const onkeydown = (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step && event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    const explain = { kind: "attention", map: map.id, layer, head, query, key };
    if (!step) return set({ position: query, key, explain });
    const within = (index, count) => Math.min(count - 1, Math.max(0, index));
    set({ position: within(query + step[0], queries), key: within(key + step[1], keys) });
  };
  // The label is that of the selected cell: a screen reader reads it when the drawing is focused again
  const weight = percent(weights[query * keys + key]);
  const label =
    `${weight} from ${map.queries[query]}, row ${query + 1} of ${queries}, to ${map.keys[key]}, column ` +
    `${key + 1} of ${keys}. Arrow keys select another weight of ` +
    `layer ${layer + 1}, head ${head + 1}; Enter explains it.`;
  const drawing = svg(
    "svg",
    {
      ...{ class: "matrix", id: "matrix", width, height, role: "button", tabindex: 0, "aria-label": label },
      ...{ "data-explain": "attention", onclick, onkeydown },
    },
    cells,
    ...(labelled ? matrixLabels(map, cell, left, top) : []),
  );
  return element(
    "div",
    {},
    scrollRegion("attention-matrix", "Matrix of attention weights", drawing),
    element(
      "p",
      { class: "note" },
      "Rows: tokens that look. Columns: tokens that are looked at. A stronger colour is more.",
    ),
  );
}

function matrixLabels({ queries, keys }, cell, left, top) {
  const size = Math.min(12, cell);
  const short = (token) => ([...token].length > 10 ? `${[...token].slice(0, 9).join("")}…` : token);
  const rows = queries.map((token, index) =>
    svg(
      "text",
      { x: left - 5, y: top + (index + 0.5) * cell, class: "row-label", "font-size": size },
      short(token),
    ),
  );
  const columns = keys.map((token, index) => {
    const turn = `translate(${left + (index + 0.5) * cell} ${top - 5}) rotate(-90)`;
    return svg("text", { transform: turn, class: "column-label", "font-size": size }, short(token));
  });
  return [...rows, ...columns];
}

/** Every head of every layer as a small matrix: a button that selects it. */
function renderThumbnails({ map, layer, head, heads }, set) {
  const [queries, keys] = [map.queries.length, map.keys.length];
  const rows = map.layers.map((weights, index) => {
    const buttons = Array.from({ length: heads }, (_, number) => {
      const paths = matrixPaths(headWeights(weights, number, queries, keys), queries, keys);
      const drawing = svg(
        "svg",
        { viewBox: `0 0 ${keys} ${queries}`, preserveAspectRatio: "none", "aria-hidden": "true" },
        ...paths.map(({ shade, path }) =>
          svg("path", { d: path, class: "cell", style: { "--weight": shade } }),
        ),
      );
      return element(
        "button",
        {
          type: "button",
          id: `thumbnail-${index}-${number}`,
          class: "thumbnail",
          "aria-pressed": String(index === layer && number === head),
          "aria-label": `Layer ${index + 1}, head ${number + 1}`,
          onclick: () => set({ layer: index, head: number }),
        },
        drawing,
      );
    });
    const name = element("span", { class: "note" }, `Layer ${index + 1}`);
    return element("div", { class: "thumbnail-row" }, name, ...buttons);
  });
  return element("div", { class: "thumbnails" }, ...rows);
}
