/** Next token: the model's probabilities, how sampling changes them, and writing token by token. */

import { randomGenerator, sample } from "#see/engine/sampling.js";
import { writtenChoices } from "#see/view/answer_formulas.js";
import { bar, entropy, largest, percent } from "#see/view/charts.js";
import { element, replaceChildren } from "#see/view/dom.js";
import { explainButton, replaceKeepingFocus } from "#see/view/rerender.js";
import { samplingControls } from "#see/view/sampling_controls.js";
import { tokenStrip } from "#see/view/token_strip.js";
import { visibleToken } from "#see/view/token_text.js";

const FIRST_ROWS = 12;
const MORE_ROWS = 60;
/** Sampling as the model itself has it: the probabilities that training fits. */
const UNCHANGED = { temperature: 1, topK: 0, topP: 1 };

export const view = {
  id: "next",
  title: "Next token",
  intro:
    "After each token, the model gives a probability to every token of the vocabulary. Writing is choosing " +
    "one, again and again.",
  lesson: "text",
  kinds: ["causal", "bigram", "seq2seq"],
  build,
};

function build(root, context) {
  const { store, session } = context;
  const writer = createWriter(context);
  const strip = tokenStrip(
    "Text so far",
    () => session.tokenizer(),
    (position) => {
      writer.stop();
      store.set({ position: position !== null && position >= 1 ? position : null });
    },
  );
  const heading = element("h3");
  const note = element("p", { class: "summary", role: "status" });
  const rows = element("ol", { class: "candidates" });
  const more = element("button", { type: "button", class: "more", onclick: () => showMore() });
  const candidates = element("div", {}, heading, note, rows, more);
  let count = FIRST_ROWS;
  root.append(
    strip.node,
    writer.node,
    element("div", { class: "columns" }, candidates, samplingControls(store)),
  );
  let last = store.get();
  const showMore = () => {
    count = count === FIRST_ROWS ? MORE_ROWS : FIRST_ROWS;
    update(store.get());
  };

  function update(state) {
    if (state.text !== last.text) writer.stop();
    last = state;
    const ids = session.ids();
    const position = state.position !== null && state.position <= ids.length ? state.position : ids.length;
    strip.update(written(session, ids), state.position);
    writer.update();
    heading.textContent = position < ids.length ? `Instead of token ${position}` : "The next token";
    const reason = whyNone(session, position);
    more.hidden = reason !== "";
    if (reason) {
      note.textContent = reason;
      return replaceChildren(rows);
    }
    const logits = session.logits(position);
    const own = session.probabilities(logits, UNCHANGED);
    const changed = session.probabilities(logits, state);
    replaceKeepingFocus(note, entropySentence(context, entropy(own), position - 1));
    more.textContent = count === FIRST_ROWS ? "Show more" : "Show fewer";
    const shown = largest(own, count);
    const row = (id) => candidate(context, writer, { id, position, ids, own, changed });
    replaceKeepingFocus(rows, shown.map(row));
  }
  return update;
}

function entropySentence(context, bits, position) {
  const request = { kind: "entropy", position };
  return [
    "Entropy ",
    explainButton(context, "next-entropy", `${bits.toFixed(2)} bits`, request),
    ": as uncertain as a choice among ",
    explainButton(context, "next-choices", writtenChoices(bits), request),
    " equally likely tokens.",
  ];
}

/** A row of the list: a button that writes this token, and one that explains its probability. */
function candidate(context, writer, { id, position, ids, own, changed }) {
  const { store, session } = context;
  const text = visibleToken(session.tokenizer(), id);
  const choose = () => {
    writer.stop();
    store.set({ written: [...ids.slice(session.start(), position), id], position: null });
  };
  const isExcluded = changed[id] === 0;
  const label = `${text}, ${percent(changed[id])}${isExcluded ? ", excluded by the sampling" : ""}`;
  const isCurrent = ids[position] === id;
  const button = element(
    "button",
    { type: "button", class: "choose", "aria-label": label, "aria-current": isCurrent, onclick: choose },
    element("span", { class: "text" }, text),
    bar(changed[id], own[id]),
  );
  button.disabled = position < session.start();
  const request = { kind: "sampled", position: position - 1, id };
  const why = `Probability of ${text}, ${percent(changed[id])}: how it is computed`;
  const value = explainButton(context, `next-${id}`, percent(changed[id]), request, why);
  value.classList.add("value");
  return element("li", { class: "candidate", "data-excluded": String(isExcluded) }, button, value);
}

function written(session, ids) {
  const tokenizer = session.tokenizer();
  const start = session.start();
  return ids.map((id, position) => {
    const isSpecial = tokenizer.token(id) === undefined || tokenizer.isSpecial(id);
    return { id, kind: isSpecial ? "special" : position >= start ? "written" : "" };
  });
}

function whyNone(session, position) {
  if (position < 1) return "The model needs at least one token to continue: type a text.";
  if (position >= session.description().max_positions) {
    return `The model has ${position} positions, and all of them are taken: step back, or shorten the text.`;
  }
  return "";
}

/** The buttons that write, and the loop that writes on until the text ends. */
function createWriter({ store, session }) {
  let running = false;
  const after = (action) => () => {
    stop();
    action();
  };
  const one = element("button", { type: "button", class: "primary", onclick: after(write) }, "Write a token");
  const on = element("button", { type: "button", onclick: () => (running ? stop() : run()) });
  const back = element("button", { type: "button", onclick: after(stepBack) }, "Step back");
  const clear = element("button", { type: "button", onclick: after(removeAll) }, "Clear");
  const node = element("div", { class: "row", role: "group", "aria-label": "Writing" }, one, on, back, clear);

  /** Sample a token after the ids, with a seed of its own: after a step back, the same token comes again. */
  function write() {
    const ids = session.ids();
    if (whyNone(session, ids.length)) return stop();
    const state = store.get();
    const probabilities = session.probabilities(session.logits(ids.length), state);
    const id = sample(probabilities, randomGenerator(state.seed * 1_000_003 + ids.length));
    store.set({ written: [...ids.slice(session.start()), id], position: null });
    if (ends(session).includes(id)) stop();
  }

  function run() {
    running = true;
    update();
    const step = () => {
      if (!running) return;
      write();
      requestAnimationFrame(step);
    };
    step();
  }

  function stop() {
    running = false;
    update();
  }

  function stepBack() {
    store.set({ written: store.get().written.slice(0, -1), position: null });
  }

  function removeAll() {
    store.set({ written: [], position: null });
  }

  function update() {
    const isFull = whyNone(session, session.ids().length) !== "";
    const isEmpty = store.get().written.length === 0;
    one.disabled = on.disabled = isFull;
    back.disabled = clear.disabled = isEmpty;
    on.textContent = running ? "Pause" : "Write on";
    on.setAttribute("aria-pressed", String(running));
  }

  return { node, stop, update };
}

/** Ids of the tokens that end a text. */
function ends(session) {
  return session.description().generation?.eos_token_ids ?? [];
}
