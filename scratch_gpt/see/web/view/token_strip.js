/** A line of tokens, of which one can be selected: with the mouse, or with the arrow keys. */

import { element } from "#see/view/dom.js";
import { visibleToken } from "#see/view/token_text.js";

/**
 * @typedef {object} Strip
 * @property {HTMLElement} node
 * @property {(tokens: StripToken[], selected: number | null) => void} update
 *
 * @typedef {object} StripToken
 * @property {number} id
 * @property {string} [kind] - "special" or "written": how it is coloured
 * @property {string} [below] - a small text below the token
 * @property {string} [colour] - a CSS colour of its background
 * @property {string} [title] - shown when the mouse rests on it
 */

/**
 * @param {string} label - name of the strip for screen readers
 * @param {() => object} tokenizer - returns the tokenizer of the ids
 * @param {(position: number | null) => void} onselect - called with the position that was selected, or null
 *   if the selection was cleared
 * @returns {Strip}
 */
export function tokenStrip(label, tokenizer, onselect) {
  const node = element("div", { class: "strip", role: "toolbar", "aria-label": label });
  let buttons = [];
  let chosen = null;

  node.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const target = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || target === undefined || !buttons[target]) return;
    event.preventDefault();
    makeReachable(target);
    buttons[target].focus();
  });

  function makeReachable(position) {
    buttons.forEach((button, index) => (button.tabIndex = index === position ? 0 : -1));
  }

  function update(tokens, selected) {
    const focused = buttons.indexOf(document.activeElement);
    chosen = selected;
    while (buttons.length > tokens.length) buttons.pop().remove();
    tokens.forEach((token, position) => {
      if (!buttons[position]) node.append((buttons[position] = createButton(position)));
      paint(buttons[position], token, position);
    });
    makeReachable(Math.max(0, Math.min(focused >= 0 ? focused : (selected ?? 0), tokens.length - 1)));
    if (focused >= tokens.length && tokens.length > 0) buttons.at(-1).focus();
  }

  function createButton(position) {
    const text = element("span", { class: "text" });
    const onclick = () => onselect(chosen === position ? null : position);
    const below = element("span", { class: "below" });
    return element("button", { type: "button", class: "token", onclick }, text, below);
  }

  function paint(button, token, position) {
    const [text, below] = button.children;
    const shown = visibleToken(tokenizer(), token.id);
    if (text.textContent !== shown) text.textContent = shown;
    below.textContent = token.below ?? "";
    below.hidden = !token.below;
    button.dataset.kind = token.kind ?? "";
    button.title = token.title ?? "";
    button.style.backgroundColor = token.colour ?? "";
    button.dataset.coloured = String(Boolean(token.colour));
    button.setAttribute("aria-pressed", String(position === chosen));
  }

  return { node, update };
}
