/** Views that are drawn anew after each change: focus and scroll positions of what has an id are kept. */

import { element } from "#see/view/dom.js";
import { visibleToken } from "#see/view/token_text.js";

/**
 * The `build` function of a view (see state.js) that draws its whole content after each change.
 *
 * @param {(context: object, state: object) => (Node | null)[]} render
 * @param {string[]} [regions] - ids of scroll regions in which what is selected stays visible
 * @returns {(root: HTMLElement, context: object) => (state: object) => void}
 */
export function drawnAnew(render, regions = []) {
  return (root, context) => {
    const body = element("div", { class: "view-body" });
    root.append(body);
    const empty = () => [element("p", { class: "note" }, "Write a text first.")];
    return (state) => {
      replaceKeepingFocus(body, hasTokens(context.session) ? render(context, state) : empty());
      for (const id of regions) showSelected(document.getElementById(id));
    };
  };
}

/** Scroll a region sideways until what is selected in it is visible. */
function showSelected(region) {
  const selected = region?.querySelector("[aria-pressed=true]");
  if (!selected) return;
  const [outer, inner] = [region.getBoundingClientRect(), selected.getBoundingClientRect()];
  const margin = 8;
  if (inner.right > outer.right) region.scrollLeft += inner.right - outer.right + margin;
  else if (inner.left < outer.left) region.scrollLeft -= outer.left - inner.left + margin;
}

/**
 * Whether there is anything that the model can compute.
 *
 * @param {object} session
 * @returns {boolean}
 */
export function hasTokens(session) {
  return session.ids().length > 0 && session.sourceIds()?.length !== 0;
}

/**
 * Replace the children of a node. The focused element is focused again, and scrolled elements are scrolled
 * again, if they have an id.
 *
 * @param {HTMLElement} node
 * @param {(Node | null)[]} children
 */
export function replaceKeepingFocus(node, children) {
  const focused = node.contains(document.activeElement) ? document.activeElement.id : "";
  const scrolled = [...node.querySelectorAll(".scroll[id]")].map((each) => [
    each.id,
    each.scrollLeft,
    each.scrollTop,
  ]);
  node.replaceChildren(...children.filter(Boolean));
  for (const [id, left, top] of scrolled)
    document.getElementById(id)?.scrollTo({ left, top, behavior: "instant" });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
}

/**
 * The tokens of the current text, as they are written on the page.
 *
 * @param {object} session
 * @returns {{ids: number[], tokens: string[], sourceIds: number[] | null, sourceTokens: string[] | null}}
 */
export function inputTokens(session) {
  const [ids, sourceIds, tokenizer] = [session.ids(), session.sourceIds(), session.tokenizer()];
  return {
    ids,
    tokens: ids.map((id) => visibleToken(tokenizer, id)),
    sourceIds,
    sourceTokens: sourceIds && sourceIds.map((id) => visibleToken(session.model().tokenizer, id)),
  };
}

/**
 * Buttons of which one is pressed, with a label.
 *
 * @param {string} id - prefix of the ids of the buttons
 * @param {string} label
 * @param {{value: unknown, text: string, title?: string}[]} options
 * @param {unknown} chosen - value of the pressed one
 * @param {(value: unknown) => void} onchoose
 * @returns {HTMLElement}
 */
export function choice(id, label, options, chosen, onchoose) {
  const buttons = options.map(({ value, text, title }, index) =>
    element(
      "button",
      {
        type: "button",
        id: `${id}-${index}`,
        "aria-pressed": String(value === chosen),
        "aria-label": title,
        title,
        onclick: () => onchoose(value),
      },
      text,
    ),
  );
  const caption = element("span", { class: "choice-label", id: `${id}-label` }, label);
  return element(
    "div",
    { class: "choice", role: "group", "aria-labelledby": `${id}-label` },
    caption,
    ...buttons,
  );
}

/**
 * A region that scrolls sideways where its content is wider than the page; reachable by keyboard.
 *
 * @param {string} id
 * @param {string} label - for screen readers
 * @param {...Node} children
 * @returns {HTMLElement}
 */
export function scrollRegion(id, label, ...children) {
  return element(
    "div",
    { class: "scroll", id, role: "region", "aria-label": label, tabindex: "0" },
    ...children,
  );
}

/**
 * A button that opens the explanation of a number.
 *
 * @param {object} context - of a view
 * @param {string} id
 * @param {string} text - the number, or a few words
 * @param {object} request - what to explain; see explain.js
 * @param {string} [label] - for screen readers, if the text does not say what is explained
 * @returns {HTMLElement}
 */
export function explainButton(context, id, text, request, label) {
  const attributes = { type: "button", class: "number", id, "aria-label": label };
  return element("button", { ...attributes, ...explainAttributes(context, request) }, text);
}

/**
 * What makes an element of a drawing a button that explains a number.
 *
 * @param {object} context - of a view
 * @param {object} request
 * @returns {Record<string, unknown>} attributes
 */
export function explainAttributes(context, request) {
  const action = () => context.store.set({ explain: request });
  return { "data-explain": request.kind, onclick: action };
}

/**
 * Key handler of an SVG element with the role of a button: Enter and space act as a click.
 *
 * @param {() => void} action
 * @returns {{onclick: () => void, onkeydown: (event: KeyboardEvent) => void}}
 */
export function pressable(action) {
  return {
    onclick: action,
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      action();
    },
  };
}
