/** Guesses at each mask of the text; a guess can be filled in, and a token can be masked. */

import { bar, largest, percent } from "#see/view/charts.js";
import { element } from "#see/view/dom.js";
import { row, softmax } from "#see/view/numbers.js";
import { maskId, maskPositions } from "#see/view/outcomes.js";
import { drawnAnew, explainButton } from "#see/view/rerender.js";
import { decodeUtf8, visibleToken } from "#see/view/token_text.js";

const SHOWN = 10;

export const view = {
  id: "masked",
  title: "Guesses",
  intro:
    "The model reads the whole text, before and after each mask, and gives every token of the " +
    "vocabulary a probability of being the one that is masked.",
  kinds: ["masked"],
  build: drawnAnew(renderMasked),
};

/**
 * @param {object} context - of a view
 * @param {object} state
 * @returns {Node[]}
 */
function renderMasked(context, state) {
  const { session, store } = context;
  const tokenizer = session.tokenizer();
  const mask = maskId(tokenizer);
  if (mask < 0) return [element("p", { class: "note" }, "This tokenizer has no mask token.")];
  const positions = maskPositions(session);
  const fill = (number, id) =>
    store.set({ text: filled(state.text, tokenizer.token(mask), number, tokenText(tokenizer, id)) });
  return [
    renderTokenButtons(context, mask),
    positions.length === 0
      ? element("p", { class: "note" }, "There is no mask yet: select a token to mask it.")
      : null,
    element(
      "div",
      { class: "cards" },
      ...positions.map((position, number) => renderMask(context, position, number, fill)),
    ),
  ];
}

/**
 * The text with one mask replaced.
 *
 * @param {string} text
 * @param {string} mask - as it stands in the text
 * @param {number} number - which of the masks
 * @param {string} replacement
 * @returns {string}
 */
export function filled(text, mask, number, replacement) {
  const parts = text.split(mask);
  const before = parts.slice(0, number + 1).join(mask);
  const isDoubled = /\s$/.test(before) && /^\s/.test(replacement);
  return before + (isDoubled ? replacement.trimStart() : replacement) + parts.slice(number + 1).join(mask);
}

/**
 * The text with one token replaced by a mask, found by encoding candidates again.
 *
 * @param {object} model - of the engine
 * @param {number[]} ids
 * @param {number} position
 * @param {number} mask - id
 * @returns {string | null} null if no text has these ids
 */
export function masked(model, ids, position, mask) {
  const { tokenizer } = model;
  const target = ids.map((id, index) => (index === position ? mask : id));
  const sign = tokenizer.token(mask);
  const [before, after] = [ids.slice(0, position), ids.slice(position + 1)].map((part) =>
    tokenizer.decode(part),
  );
  for (const [left, right] of [
    ["", ""],
    [" ", ""],
    ["", " "],
    [" ", " "],
  ]) {
    const text = before + left + sign + right + after;
    const found = tokenizer.encode(text);
    if (found.length === target.length && found.every((id, index) => id === target[index])) return text;
  }
  return null;
}

function tokenText(tokenizer, id) {
  return decodeUtf8(tokenizer.bytes(id)) ?? "";
}

function renderTokenButtons(context, mask) {
  const { session, store } = context;
  const [ids, tokenizer] = [session.ids(), session.tokenizer()];
  const buttons = ids.map((id, position) =>
    element(
      "button",
      {
        type: "button",
        id: `mask-${position}`,
        class: id === mask ? "token is-mask" : "token",
        disabled: tokenizer.isSpecial(id),
        "aria-label": id === mask ? `Mask, token ${position + 1}` : `Mask “${visibleToken(tokenizer, id)}”`,
        onclick: () => {
          const text = masked(session.model(), ids, position, mask);
          if (text !== null) store.set({ text, written: [], position: null });
        },
      },
      visibleToken(tokenizer, id),
    ),
  );
  return element("div", { class: "hide-tokens", role: "group", "aria-label": "Tokens to mask" }, ...buttons);
}

function renderMask(context, position, number, fill) {
  const { session } = context;
  const tokenizer = session.tokenizer();
  const { logits, length } = session.trace();
  const values = softmax(row(logits, position, logits.length / length));
  const rows = largest(values, SHOWN).map((id) => {
    const text = visibleToken(tokenizer, id);
    const onclick = () => fill(number, id);
    const button = element(
      "button",
      {
        type: "button",
        id: `fill-${number}-${id}`,
        class: "guess",
        "aria-label": `Fill in ${text}`,
        onclick,
      },
      text,
    );
    const request = { kind: "probability", position, id };
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, button),
      element("td", {}, bar(values[id])),
      element(
        "td",
        { class: "right" },
        explainButton(context, `guess-${number}-${id}`, percent(values[id]), request),
      ),
    );
  });
  return element(
    "section",
    { class: "card" },
    element("h3", {}, `Mask ${number + 1}, token ${position + 1}`),
    element(
      "table",
      { class: "weights" },
      element("caption", {}, "Select a guess to fill it in"),
      element("tbody", {}, ...rows),
    ),
  );
}
