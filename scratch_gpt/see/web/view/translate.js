/**
 * A translation: the text, which source tokens each of its tokens looked at, and the tree of the beam
 * search.
 */

import { headWeights } from "#see/view/attention_layout.js";
import { beamTree } from "#see/view/beam_layout.js";
import { largest, wholePercent } from "#see/view/charts.js";
import { element, svg } from "#see/view/dom.js";
import { decimal } from "#see/view/numbers.js";
import {
  choice,
  drawnAnew,
  explainAttributes,
  explainButton,
  inputTokens,
  pressable,
  scrollRegion,
} from "#see/view/rerender.js";
import { visibleToken } from "#see/view/token_text.js";

const [COLUMN, ROW] = [108, 40]; // pixels of the tree
const MAX_TOKENS = 64;
const searches = new Map(); // the last beam search, by its key

export const view = {
  id: "translate",
  title: "Translation",
  intro:
    "The encoder reads the whole source. The decoder then writes the translation token by token; " +
    "cross-attention shows which source tokens it looked at. Beam search follows several " +
    "translations at a time.",
  kinds: ["seq2seq"],
  build(root, context) {
    const update = drawnAnew(renderTranslation)(root, context);
    return (state) => {
      translateIfEmpty(context);
      update(state);
    };
  },
};

/**
 * Write the greedy translation as the target, if there is none yet.
 *
 * @param {object} context - of a view
 */
export function translateIfEmpty({ session, store }) {
  const [model, source] = [session.model(), session.sourceIds()];
  if (model.kind !== "seq2seq" || store.get().written.length > 0 || !source?.length) return;
  const ids = model.generate(source, MAX_TOKENS);
  const forced = session.ids().slice(1); // a forced first token is part of the start already
  const written = forced.every((id, index) => id === ids[index]) ? ids.slice(forced.length) : ids;
  if (written.length > 0) setTimeout(() => store.set({ written }));
}

/**
 * @param {object} context - of a view
 * @param {object} state
 * @returns {Node[]}
 */
function renderTranslation(context, state) {
  const { session, store } = context;
  const beams = state.beams ?? Math.max(2, session.description().generation.num_beams ?? 1);
  const search = beamSearch(session, beams);
  const options = [2, 3, 4, 6].map((value) => ({ value, text: String(value) }));
  if (!options.some(({ value }) => value === beams)) options.push({ value: beams, text: String(beams) });
  const greedy = session.model().decode(session.ids());
  const found = session.model().decode(search.ids);
  const use = element(
    "button",
    { type: "button", id: "translate-use", onclick: () => store.set({ written: search.ids }) },
    "Show the result of beam search in all views",
  );
  return [
    element(
      "dl",
      { class: "translations" },
      element("dt", {}, "Translation that all views show"),
      element("dd", { id: "translation", lang: targetLanguage(session) }, greedy),
      element(
        "dt",
        {},
        `Beam search with ${beams} beams, score `,
        explainButton(context, "beam-score", decimal(search.score), { kind: "beam", beams }),
      ),
      element("dd", { id: "beam-translation", lang: targetLanguage(session) }, found),
    ),
    found === greedy ? null : element("p", { class: "row" }, use),
    element("h3", {}, "Which source tokens it looked at"),
    element(
      "p",
      { class: "note" },
      "One row per written token: the mean over the heads of the last layer when it was chosen. " +
        "Select one to see all heads.",
    ),
    renderAlignment(context),
    element("h3", {}, "Tree of the beam search"),
    choice("beams", "Beams", options, beams, (value) => store.set({ beams: value })),
    renderTree(context, beams),
  ];
}

function targetLanguage(session) {
  const language = session.model().config.target_lang;
  return /^[a-z]{2,3}(-[A-Za-z0-9]+)*$/.test(language ?? "") ? language : null;
}

function beamSearch(session, numBeams) {
  const source = session.sourceIds();
  const key = JSON.stringify([session.description().name, source, numBeams]);
  if (!searches.has(key)) {
    searches.clear();
    searches.set(key, session.model().beamSearch(source, MAX_TOKENS, { numBeams }));
  }
  return searches.get(key);
}

/**
 * Cross-attention, as the mean over the heads of the last layer: a table of target by source tokens. A
 * token is chosen at the position before it, so its row is the query there.
 */
function renderAlignment(context) {
  const { session, store } = context;
  const { tokens, sourceTokens } = inputTokens(session);
  const weights = meanOverHeads(
    session.trace().layers.at(-1).crossAttention,
    tokens.length,
    sourceTokens.length,
  );
  const head = sourceTokens.map((token) =>
    element("th", { scope: "col" }, element("span", { class: "token-name" }, token)),
  );
  const number = (query, key, value) =>
    explainButton(context, `align-${query}-${key}`, wholePercent(value), {
      kind: "meanAttention",
      query,
      key,
    });
  const rows = tokens.slice(1).map((token, query) => {
    const values = weights.subarray(query * sourceTokens.length, (query + 1) * sourceTokens.length);
    const [best] = largest(values, 1);
    const cells = Array.from(values, (value, key) =>
      element(
        "td",
        { class: key === best ? "heat best" : "heat", style: { "--weight": value.toFixed(3) } },
        value >= 0.05 ? number(query, key, value) : "",
      ),
    );
    const name = element(
      "button",
      { type: "button", id: `align-${query}`, class: "guess", onclick: () => open(query) },
      token,
    );
    return element("tr", {}, element("th", { scope: "row" }, name), ...cells);
  });
  const open = (query) => store.set({ view: "attention", attention: "cross", position: query, key: null });
  const table = element(
    "table",
    { class: "alignment" },
    element("caption", { class: "visually-hidden" }, "Weights of cross-attention, target by source tokens"),
    element("thead", {}, element("tr", {}, element("td", {}), ...head)),
    element("tbody", {}, ...rows),
  );
  return scrollRegion("translate-alignment", "Cross-attention of the last layer", table);
}

/**
 * The mean of the weights over the heads.
 *
 * @param {Float32Array} weights - (H, T, S)
 * @param {number} queries - T
 * @param {number} keys - S
 * @returns {Float32Array} (T, S)
 */
export function meanOverHeads(weights, queries, keys) {
  const heads = weights.length / (queries * keys);
  const mean = new Float32Array(queries * keys);
  for (let head = 0; head < heads; head += 1) {
    headWeights(weights, head, queries, keys).forEach((weight, index) => (mean[index] += weight / heads));
  }
  return mean;
}

/**
 * The tree of a beam search over the source.
 *
 * @param {object} session
 * @param {number} numBeams
 * @returns {{search: object, nodes: import("#see/view/beam_layout.js").TreeNode[]}}
 */
export function treeOf(session, numBeams) {
  const search = beamSearch(session, numBeams);
  return { search, nodes: beamTree(search.steps, search.ids, numBeams) };
}

function renderTree(context, numBeams) {
  const { session } = context;
  const tokenizer = session.tokenizer();
  const { search, nodes } = treeOf(session, numBeams);
  const [columns, rows] = [
    1 + Math.max(...nodes.map(({ x }) => x)),
    1 + Math.max(...nodes.map(({ y }) => y)),
  ];
  const place = ({ x, y }) => ({ left: 6 + x * COLUMN, middle: 20 + y * ROW });
  const edges = nodes
    .filter(({ parent }) => parent)
    .map((node) => {
      const [from, to] = [place(node.parent), place(node)];
      const start = from.left + COLUMN - 26;
      const path =
        `M${start} ${from.middle}C${start + 12} ${from.middle} ${to.left - 12} ${to.middle} ` +
        `${to.left} ${to.middle}`;
      return svg("path", { d: path, class: node.isBest ? "beam-edge best" : "beam-edge" });
    });
  const boxes = nodes.map((node, index) => {
    const request = { kind: "beam", index, beams: numBeams };
    return renderNode(context, request, node, place(node), visibleToken(tokenizer, node.id));
  });
  const [width, height] = [columns * COLUMN + 12, rows * ROW + 12];
  const label =
    `Tree of a beam search with ${numBeams} beams and ${columns} steps; the chosen text is: ` +
    `${session.model().decode(search.ids)}`;
  return element(
    "div",
    {},
    scrollRegion(
      "translate-tree",
      "Tree of the beam search",
      svg(
        "svg",
        { width, height, role: "group", "aria-label": label, class: "beam-tree" },
        ...edges,
        ...boxes,
      ),
    ),
    element(
      "p",
      { class: "note" },
      "Each box is a token, with the sum of the log-probabilities up to it; select one to see the sum. " +
        "Bold is the text that was chosen; a dashed box ends a text. Scores are divided by the length " +
        "before they are compared.",
    ),
  );
}

function renderNode(context, request, { score, ended, isBest }, { left, middle }, token) {
  const short = [...token].length > 8 ? `${[...token].slice(0, 7).join("")}…` : token;
  const classes = ["beam-node", isBest ? "best" : "", ended ? "ended" : ""].join(" ").trim();
  const { onclick, ...rest } = explainAttributes(context, request);
  const label = `${token}, sum of log-probabilities ${decimal(score)}${ended ? ", ends the text" : ""}`;
  const attributes = {
    class: classes,
    role: "button",
    tabindex: 0,
    id: `beam-${request.index}`,
    "aria-label": label,
  };
  return svg(
    "g",
    { ...attributes, ...rest, ...pressable(onclick) },
    svg("rect", { x: left, y: middle - 17, width: COLUMN - 26, height: 34, rx: 5 }),
    svg("text", { x: left + 6, y: middle - 1 }, short),
    svg("text", { x: left + 6, y: middle + 12, class: "beam-score" }, decimal(score)),
  );
}
