/**
 * Any number, explained: its formula with the numbers in it, the paper that the formula is from, and the
 * lines of our source that compute it.
 *
 * Each number of a view is a button that `explainButton` of rerender.js makes, or `explainAttributes` in a
 * drawing. It asks for the explanation by `store.set({ explain: request })`; requests.js has the kinds.
 */

import { element, replaceChildren } from "#see/view/dom.js";
import { EXPLAINERS } from "#see/view/requests.js";

const WIDTH = 44; // characters of a line of a formula

/**
 * The panel beside the views, which is open while something is explained.
 *
 * @param {object} context - of a view
 * @returns {{node: HTMLElement, update: (state: object) => void}}
 */
export function explainPanel(context) {
  const close = () => context.store.set({ explain: null });
  const heading = element("h2", { id: "explain-title", tabindex: "-1" });
  const body = element("div", { class: "explain-body" });
  const button = element("button", { type: "button", id: "explain-close", onclick: close }, "Close");
  const head = element("div", { class: "explain-head" }, heading, button);
  const node = element(
    "aside",
    { class: "explain", "aria-labelledby": "explain-title", hidden: true },
    head,
    body,
  );
  node.addEventListener("keydown", (event) => event.key === "Escape" && close());
  let shown = null;
  let opener = "";

  function update(state) {
    const request = state.explain ?? null;
    const explanation = request && safely(() => EXPLAINERS[request.kind](context, request));
    node.hidden = !explanation;
    if (!explanation) {
      if (shown && opener) document.getElementById(opener)?.focus();
      shown = null;
      return;
    }
    if (request !== shown)
      opener = node.contains(document.activeElement) ? opener : (document.activeElement?.id ?? "");
    heading.textContent = explanation.title;
    replaceChildren(body, ...renderExplanation(context, request, explanation));
    if (request !== shown) heading.focus({ preventScroll: true });
    shown = request;
  }
  return { node, update };
}

/** An explanation of what a shorter text no longer has is none. */
function safely(explain) {
  try {
    return explain();
  } catch (error) {
    if (error instanceof RangeError || error instanceof TypeError) return null;
    throw error;
  }
}

function renderExplanation({ payload, store }, request, { meaning, formula, values, concept, choices = [] }) {
  const link = (text, target) => {
    const onclick = () => store.set({ explain: target });
    return element("button", { type: "button", class: "number", onclick }, text);
  };
  const excerpt = payload.excerpts?.[concept];
  const pairs = values.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  return [
    element("p", {}, meaning),
    formula.length > 0
      ? element(
          "pre",
          { class: "formula", tabindex: "0", "aria-label": "Formula" },
          formula.map(wrapped).join("\n"),
        )
      : null,
    choices.length > 0
      ? element(
          "ul",
          { class: "choices" },
          ...choices.map((each) => element("li", {}, link(each.text, each.request))),
        )
      : null,
    request.from ? element("p", {}, link("Back to the list", request.from)) : null,
    pairs.length > 0 ? element("dl", { class: "details" }, ...pairs) : null,
    // Not a link: the page makes no request, whatever is clicked.
    excerpt?.paper
      ? element("p", {}, `Paper: ${excerpt.paper.title}, `, element("code", {}, excerpt.paper.url))
      : null,
    ...(excerpt ? renderExcerpt(excerpt) : []),
  ];
}

/** A line that is too long for the panel, with a line for each of its equations. */
function wrapped(line) {
  if (line.length <= WIDTH) return line;
  const indent = " ".repeat(Math.max(0, line.indexOf(" = ")));
  const [first, second, ...rest] = line.split(" = ");
  return [`${first} = ${second}`, ...rest.map((part) => `${indent} = ${part}`)].join("\n");
}

function renderExcerpt({ file, first_line: first, code }) {
  const lines = code.split("\n");
  const last = first + lines.length - 1;
  const width = String(last).length;
  const numbered = lines.map((line, index) =>
    element(
      "span",
      { class: "code-line" },
      element("span", { class: "line-number" }, String(first + index).padStart(width)),
      `  ${line}\n`,
    ),
  );
  return [
    element("h3", {}, "Our source"),
    element("p", { class: "note" }, `scratch_gpt/${file}, lines ${first} to ${last}`),
    element("pre", { class: "code", tabindex: "0", "aria-label": `Source of ${file}` }, ...numbered),
  ];
}
