/** Sliders of the sampling: temperature, top-k, top-p; and the seed. */

import { element } from "#see/view/dom.js";

const LARGEST_SEED = 999_999;

const SLIDERS = [
  {
    field: "temperature",
    label: "Temperature",
    attributes: { min: 0, max: 2, step: 0.05 },
    shown: (value) => (value === 0 ? "0: always the most probable" : value.toFixed(2)),
    help: "Divides the logits: below 1, probable tokens become more probable; above 1, less.",
  },
  {
    field: "topK",
    label: "Top-k",
    attributes: { min: 0, max: 100, step: 1 },
    shown: (value) => (value === 0 ? "off" : String(value)),
    help: "Only the k most probable tokens can be chosen.",
  },
  {
    field: "topP",
    label: "Top-p",
    attributes: { min: 0.05, max: 1, step: 0.05 },
    shown: (value) => (value === 1 ? "off" : value.toFixed(2)),
    help: "Only the most probable tokens that together have this probability can be chosen.",
  },
];

/**
 * The sliders, which change the state at once and follow it.
 *
 * @param {import("#see/view/state.js").Store} store
 * @returns {HTMLElement}
 */
export function samplingControls(store) {
  const sliders = SLIDERS.map((slider) => createSlider(store, slider));
  const seed = element("input", { type: "number", id: "seed", min: 0, max: LARGEST_SEED, step: 1 });
  seed.addEventListener("change", () => store.set({ seed: wholeNumber(seed.value) }));
  const update = (state) => {
    for (const slider of sliders) slider.update(state);
    seed.value = String(state.seed);
  };
  store.subscribe(update);
  update(store.get());
  return element(
    "fieldset",
    { class: "sampling" },
    element("legend", {}, "Sampling"),
    ...sliders.map((slider) => slider.node),
    element("div", { class: "control" }, element("label", { for: "seed" }, "Seed"), seed),
    element("p", { class: "legend" }, "Bar: the probability of being chosen. Mark: the model's own."),
  );
}

function createSlider(store, { field, label, attributes, shown, help }) {
  const described = { type: "range", id: field, "aria-describedby": `${field}-help` };
  const input = element("input", { ...described, ...attributes });
  const output = element("output", { for: field });
  input.addEventListener("input", () => store.set({ [field]: Number(input.value) }));
  const update = (state) => {
    input.value = String(state[field]);
    output.textContent = shown(state[field]);
    input.setAttribute("aria-valuetext", shown(state[field]));
  };
  const node = element(
    "div",
    { class: "control" },
    element("label", { for: field }, label),
    output,
    input,
    element("p", { id: `${field}-help`, class: "help" }, help),
  );
  return { node, update };
}

/** A number that was typed, as a seed. */
function wholeNumber(text) {
  return Math.max(0, Math.min(LARGEST_SEED, Math.trunc(Number(text)) || 0));
}
