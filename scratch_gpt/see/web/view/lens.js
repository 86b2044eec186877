/** The logit lens: what the model would say if it stopped after each layer, for each token of the text. */

import { writtenChoices } from "#see/view/answer_formulas.js";
import { bar, largest, percent } from "#see/view/charts.js";
import { element } from "#see/view/dom.js";
import { lensDistribution, lensRows, lensTable } from "#see/view/lens_table.js";
import { clampIndex } from "#see/view/numbers.js";
import { drawnAnew, explainButton, inputTokens, scrollRegion } from "#see/view/rerender.js";
import { visibleToken } from "#see/view/token_text.js";

const SHOWN = 8; // tokens of a distribution
const tables = new WeakMap(); // of traces

export const view = {
  id: "lens",
  title: "Logit lens",
  intro:
    "The final norm and the head turn the last layer's output into a prediction. The logit lens " +
    "applies them to the output of every layer: so you see at which layer the prediction appears.",
  kinds: ["causal", "seq2seq", "masked"],
  build: drawnAnew(renderLens, ["lens-grid"]),
};

/**
 * @param {object} context - of a view
 * @param {object} state
 * @returns {Node[]}
 */
function renderLens(context, state) {
  const model = context.session.model();
  const trace = context.session.trace();
  if (trace.layers.length === 0) return [element("p", { class: "note" }, "This model has no layers.")];
  if (!tables.has(trace)) tables.set(trace, lensTable(model, trace));
  const table = tables.get(trace);
  const { tokens } = inputTokens(context.session);
  const position = Math.max(table.first, clampIndex(state.position, trace.length));
  const rowIndex = clampIndex(state.lensRow, table.rows.length);
  return [
    table.first > 0
      ? element("p", { class: "note" }, `The last ${trace.length - table.first} of ${trace.length} tokens.`)
      : null,
    renderGrid(context, table, tokens, rowIndex, position),
    element(
      "p",
      { class: "note" },
      "A stronger colour is a higher probability. A frame marks where the token is already that of " +
        "the last layer. Select a cell to see all of its guesses.",
    ),
    renderDistribution(context, { model, trace, table, tokens, rowIndex, position }),
  ];
}

function renderGrid(context, table, tokens, rowIndex, position) {
  const tokenizer = context.session.tokenizer();
  const final = table.rows.at(-1).cells;
  const heads = final.map((_, column) =>
    element("th", { scope: "col" }, element("span", { class: "token-name" }, tokens[table.first + column])),
  );
  const rows = table.rows.map(({ name, cells }, index) => {
    const columns = cells.map((cell, column) => {
      const at = table.first + column;
      const word = visibleToken(tokenizer, cell.id);
      const pressed = index === rowIndex && at === position;
      const settled = cell.id === final[column].id;
      const label =
        `${name}, after ${tokens[at]}: ${word}, ${percent(cell.probability)}, ` +
        `entropy ${cell.entropy.toFixed(1)} bits${settled ? ", as in the last layer" : ""}`;
      const button = element(
        "button",
        {
          type: "button",
          id: `lens-${index}-${column}`,
          class: settled ? "lens-cell settled" : "lens-cell",
          style: { "--weight": cell.probability.toFixed(3) },
          tabindex: pressed ? 0 : -1,
          "aria-pressed": String(pressed),
          "aria-label": label,
          title: label,
          onclick: () => context.store.set({ lensRow: index, position: at }),
        },
        element("span", { class: "word" }, word),
        element("small", {}, `${percent(cell.probability)} · ${cell.entropy.toFixed(1)} b`),
      );
      return element("td", {}, button);
    });
    return element("tr", {}, element("th", { scope: "row" }, name), ...columns);
  });
  const grid = element(
    "table",
    { class: "lens", onkeydown: moveInGrid },
    element(
      "caption",
      { class: "visually-hidden" },
      "Most probable next token after each layer, and its probability",
    ),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "After the token"), ...heads)),
    element("tbody", {}, ...rows),
  );
  return scrollRegion("lens-grid", "Logit lens: layers by tokens", grid);
}

/** Arrow keys move from cell to cell. */
function moveInGrid(event) {
  const match = /^lens-(\d+)-(\d+)$/.exec(event.target.id);
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!match || !step) return;
  const next = document.getElementById(`lens-${Number(match[1]) + step[0]}-${Number(match[2]) + step[1]}`);
  if (!next) return;
  event.preventDefault();
  next.focus();
  next.click();
}

/**
 * The best guesses at the selected cell, and how the probability of its best guess changes from layer to
 * layer.
 */
function renderDistribution(context, { model, trace, table, tokens, rowIndex, position }) {
  const tokenizer = context.session.tokenizer();
  const distribution = lensDistribution(model, trace, rowIndex, position);
  const cell = table.rows[rowIndex].cells[position - table.first];
  const name = table.rows[rowIndex].name;
  const number = (name, id, lensRow, value) =>
    explainButton(context, name, percent(value), { kind: "probability", position, id, lensRow });
  const guesses = largest(distribution, SHOWN).map((id) =>
    guessRow(
      visibleToken(tokenizer, id),
      distribution[id],
      number(`lens-guess-${id}`, id, rowIndex, distribution[id]),
    ),
  );
  const final = table.rows.at(-1).cells[position - table.first].id;
  const path = lensRows(trace).map((each, index) => {
    const value = lensDistribution(model, trace, index, position)[final];
    return guessRow(each.name, value, number(`lens-path-${index}`, final, index, value));
  });
  const request = { kind: "entropy", row: rowIndex, position };
  return element(
    "section",
    { class: "card" },
    element("h3", {}, `${name}, after “${tokens[position]}”`),
    element(
      "p",
      {},
      "Entropy ",
      explainButton(context, "lens-entropy", `${cell.entropy.toFixed(2)} bits`, request),
      ": as uncertain as an even choice among ",
      explainButton(context, "lens-choices", writtenChoices(cell.entropy), request),
      " tokens.",
    ),
    element(
      "div",
      { class: "halves" },
      element(
        "div",
        {},
        element("h4", {}, "Its best guesses"),
        element("table", { class: "weights" }, element("tbody", {}, ...guesses)),
      ),
      element(
        "div",
        {},
        element("h4", {}, `Probability of “${visibleToken(tokenizer, final)}”, layer by layer`),
        element("table", { class: "weights" }, element("tbody", {}, ...path)),
      ),
    ),
  );
}

function guessRow(name, share, number) {
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, name),
    element("td", {}, bar(share)),
    element("td", { class: "right" }, number),
  );
}
