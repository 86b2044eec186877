/** A guided tour in eight steps, for readers who see a language model for the first time. */

import { element, replaceChildren } from "#see/view/dom.js";
import { tourSteps } from "#see/view/tour_steps.js";

/**
 * The panel of the tour, above the views, which is open during the tour.
 *
 * @param {object} context - of a view
 * @returns {{node: HTMLElement, update: (state: object) => void}}
 */
export function tourPanel(context) {
  const { store, session } = context;
  const steps = tourSteps(session.description());
  const node = element("section", { class: "tour card", "aria-label": "Guided tour", hidden: true });
  const heading = element("h2", { id: "tour-title", tabindex: "-1" });
  const text = element("p", {});
  const task = element("p", { class: "tour-task" });
  const progress = element("p", { class: "note" });
  const button = (id, label, onclick) => element("button", { type: "button", id, onclick }, label);
  const back = button("tour-back", "Back", () => go(store, steps, store.get().tour - 1));
  const next = button("tour-next", "Next", () => go(store, steps, store.get().tour + 1));
  const end = button("tour-end", "End the tour", () => store.set({ tour: null }));
  next.classList.add("primary");
  node.append(progress, heading, text, task, element("div", { class: "row" }, back, next, end));
  let shown = null;

  function update(state) {
    const step = steps[state.tour ?? -1];
    node.hidden = !step;
    if (state.tour === shown) return;
    shown = state.tour ?? null;
    if (!step) return;
    progress.textContent = `Step ${state.tour + 1} of ${steps.length}`;
    heading.textContent = step.title;
    replaceChildren(text, step.text);
    replaceChildren(task, element("strong", {}, "Try it: "), step.task);
    back.disabled = state.tour === 0;
    next.hidden = state.tour === steps.length - 1;
    heading.focus({ preventScroll: true });
    node.scrollIntoView?.({ block: "nearest" });
  }
  return { node, update };
}

/**
 * The button that starts the tour.
 *
 * @param {object} context - of a view
 * @returns {HTMLElement}
 */
export function tourButton({ store, session }) {
  const steps = tourSteps(session.description());
  return element("button", { type: "button", id: "tour-start", onclick: () => go(store, steps, 0) }, "Tour");
}

/** Go to a step: open its view. */
function go(store, steps, number) {
  if (!steps[number]) return;
  store.set({ tour: number, explain: null, ...steps[number].state });
}
