/** A classifier's decision: the probability of each class, and the share of each token in it. */

import { bar, largest } from "#see/view/charts.js";
import { element } from "#see/view/dom.js";
import { labelAnswers, labelFunction, writers } from "#see/view/outcomes.js";
import { explainButton, hasTokens, replaceKeepingFocus } from "#see/view/rerender.js";
import { engineEdits, noEdits } from "#see/view/state.js";
import { tokenStrip } from "#see/view/token_strip.js";

const CHUNK = 40; // milliseconds of work between two updates of the page
const shares = new WeakMap(); // of traces

export const view = {
  id: "classify",
  title: "Decision",
  intro:
    "The classifier gives each class a probability or, for a regression, a value. To see what a token " +
    "contributes, it is hidden: how far the answer falls without it is its share in the decision.",
  kinds: ["classifier"],
  build(root, context) {
    const { session, store } = context;
    const strip = tokenStrip("Tokens with their shares", session.tokenizer, (position) =>
      store.set({ position }),
    );
    const [classes, detail, heading, note] = [
      element("div"),
      element("p", { class: "note" }),
      element("h3"),
      element("p", { class: "note", role: "status" }),
    ];
    root.append(classes, heading, element("div", { class: "loss-strip" }, strip.node), detail, note);
    function update(state) {
      if (!hasTokens(session)) {
        replaceKeepingFocus(classes, [element("p", { class: "note" }, "Write a text first.")]);
        replaceKeepingFocus(detail, []);
        strip.update([], null);
        return;
      }
      const trace = session.trace();
      const answers = labelAnswers(trace.scores, session.model().config);
      const kind = labelFunction(session.model().config, answers.length);
      const label = state.label ?? largest(answers, 1)[0];
      replaceKeepingFocus(classes, [renderClasses(context, answers, kind, label)]);
      const unit = kind === "none" ? "" : ", in percentage points";
      heading.textContent = `Share of each token in “${labelName(session, label)}”${unit}`;
      const found = measureShares(
        context,
        trace,
        () => store.get().view === "classify" && update(store.get()),
      );
      strip.update(stripTokens(session.ids(), found, answers[label], label, kind), state.position);
      replaceKeepingFocus(detail, renderShare(context, state.position, found, answers[label], label, kind));
      note.textContent = found.done ? shareNote() : "Hiding one token after the other …";
    }
    return update;
  },
};

function shareNote() {
  return (
    "“+20” means: with this token hidden, the answer is 20 lower, so the token speaks " +
    "for the class. “−” means that it speaks against it. The shares need not add up, since tokens " +
    "act together."
  );
}

function labelName(session, label) {
  return session.description().labels?.[label] ?? `label ${label}`;
}

function renderClasses(context, answers, kind, chosen) {
  const { session, store } = context;
  const { write } = writers(kind);
  const rows = Array.from(answers, (answer, label) => {
    const name = labelName(session, label);
    const select = element(
      "button",
      {
        type: "button",
        id: `label-${label}`,
        "aria-pressed": String(label === chosen),
        onclick: () => store.set({ label }),
      },
      name,
    );
    const request = { kind: "class", label };
    const number = explainButton(
      context,
      `class-${label}`,
      write(answer),
      request,
      `${name}: ${write(answer)}`,
    );
    return element(
      "tr",
      { class: label === chosen ? "marked" : null },
      element("th", { scope: "row" }, select),
      element("td", {}, kind === "none" ? null : bar(answer)),
      element("td", { class: "right" }, number),
    );
  });
  return element(
    "table",
    { class: "weights classes" },
    element(
      "caption",
      { class: "visually-hidden" },
      kind === "none" ? "Value of each label" : "Probability of each class",
    ),
    element("tbody", {}, ...rows),
  );
}

/**
 * The probabilities with each token hidden, computed once per text, a little at a time.
 *
 * @param {object} context
 * @param {object} trace - of the whole text
 * @param {() => void} onprogress
 * @returns {{values: Float32Array[], done: boolean}} probabilities of the labels without the token, by
 *   position
 */
function measureShares({ session }, trace, onprogress) {
  if (shares.has(trace)) return shares.get(trace);
  const found = { values: [], done: false };
  shares.set(trace, found);
  const [model, ids] = [session.model(), session.ids()];
  function work() {
    const end = performance.now() + CHUNK;
    while (found.values.length < ids.length && performance.now() < end) {
      const edits = { ...noEdits(), hiddenTokens: new Set([found.values.length]) };
      found.values.push(labelAnswers(model.forward(ids, { edits: engineEdits(edits) }).scores, model.config));
    }
    found.done = found.values.length === ids.length;
    onprogress();
    if (!found.done && session.trace() === trace) setTimeout(work);
  }
  setTimeout(work);
  return found;
}

/** The share of the selected token, which can be explained. */
function renderShare(context, position, { values }, whole, label, kind) {
  const without = values[position]?.[label];
  if (without === undefined) return ["Select a token to see how its share is computed."];
  const request = {
    kind: "change",
    answer: { kind: "class", label },
    before: { off: { field: "hiddenTokens", part: position } },
    after: {},
    names: ["with the token hidden", "with all tokens"],
    concept: "erasure",
  };
  const text = writers(kind).writeChange(whole - without);
  return [`Share of token ${position + 1}: `, explainButton(context, "classify-share", text, request)];
}

function stripTokens(ids, { values }, whole, label, kind) {
  const { write, writeChange } = writers(kind);
  return ids.map((id, position) => {
    const without = values[position]?.[label];
    if (without === undefined) return { id, below: "…" };
    const share = whole - without;
    const colour = share < 0 ? "--warm" : "--accent";
    const strength = Math.round(45 * Math.min(1, Math.abs(share) * 2));
    return {
      id,
      below: writeChange(share),
      colour: `color-mix(in srgb, var(${colour}) ${strength}%, transparent)`,
      title: `${write(without)} without this token`,
    };
  });
}
