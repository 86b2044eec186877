/** Two models side by side on the same text: before and after a training method, two seeds, or two styles. */

import { changeTable } from "#see/view/change_table.js";
import { element } from "#see/view/dom.js";
import { decimal } from "#see/view/numbers.js";
import { distance, distanceName, outcome, tokenLosses, writtenLossChange } from "#see/view/outcomes.js";
import { explainButton, hasTokens, inputTokens, replaceKeepingFocus } from "#see/view/rerender.js";

const SOURCES = [{ model: 0 }, { model: 1 }]; // of what is explained (see requests.js)
const WRITTEN = 40; // tokens that both models write

export const view = {
  id: "compare",
  title: "Two models",
  intro: "The same text in both models, with the differences coloured.",
  isShown: ({ payload }) => payload.models.length > 1,
  build(root, context) {
    const body = element("div", { class: "view-body" });
    const writing = { key: "", texts: null };
    root.append(body);
    const update = (state) => replaceKeepingFocus(body, renderComparison(context, state, writing, redraw));
    const redraw = () => update(context.store.get());
    return update;
  },
};

/**
 * @param {object} context - of a view
 * @param {object} state
 * @param {{key: string, texts: string[] | null}} writing - what both wrote, and for which text
 * @param {() => void} redraw
 * @returns {Node[]}
 */
function renderComparison(context, state, writing, redraw) {
  const { session } = context;
  if (!hasTokens(session)) return [element("p", { class: "note" }, "Write a text first.")];
  const unknown = session.unsharedToken();
  if (unknown !== null) {
    const text = `One of the models lacks the token ${unknown}: take it out of the text to compare them.`;
    return [element("p", { class: "note", id: "compare-unknown" }, text)];
  }
  const traces = [0, 1].map((model) => session.trace({ model }));
  const outcomes = traces.map((trace, index) =>
    outcome(session, trace, { model: index, position: state.position, source: SOURCES[index] }),
  );
  if (!outcomes[0]) return [element("p", { class: "note" }, "Write a text with a mask first.")];
  const names = [0, 1].map((index) => session.description(index).name);
  const far = distanceName(outcomes[0]);
  const [before, after] = SOURCES;
  const what = "the second model’s from the first model’s";
  const request = { kind: "divergence", before, after, position: state.position, what };
  return [
    element(
      "dl",
      { class: "halves translations" },
      ...["First model", "Second model"].map((label, index) =>
        element("div", {}, element("dt", {}, label), element("dd", {}, names[index])),
      ),
    ),
    element(
      "section",
      { class: "card" },
      element("h3", {}, "Answers"),
      changeTable(context, "compare-change", ...outcomes, ["First", "Second"]),
      element(
        "p",
        { class: "note" },
        `${far.name} of the second from the first: `,
        explainButton(
          context,
          "compare-distance",
          `${decimal(distance(...outcomes))} ${far.unit}`.trimEnd(),
          request,
        ),
      ),
    ),
    sharedNote(session),
    outcomes[0].loss === null ? null : renderLosses(context, traces, outcomes),
    isWriter(session) ? renderWriting(context, writing, redraw, names) : null,
  ];
}

/** What the probabilities are of if one of the models has more tokens. */
function sharedNote(session) {
  const sizes = session.vocabularySizes().slice(0, 2);
  const [fewer, more] = [Math.min(...sizes), Math.max(...sizes)];
  if (fewer === more) return null;
  const text =
    `One of the models has ${more - fewer} more tokens. ` +
    `Probabilities and losses are over the ${fewer} of both.`;
  return element("p", { class: "note", id: "compare-shared" }, text);
}

function isWriter(session) {
  return ["causal", "bigram", "seq2seq"].includes(session.model().kind);
}

/** Loss of each token in the second model minus that in the first. */
function renderLosses(context, traces, outcomes) {
  const { session } = context;
  const [before, after] = SOURCES;
  const names = ["first", "second"];
  const ids = session.ids();
  const { tokens } = inputTokens(session);
  const [first, second] = traces.map(({ logits }) => tokenLosses(logits, ids));
  const boxes = first.map(({ position, loss }, index) => {
    const difference = second[index].loss - loss;
    const strength = Math.round(45 * Math.min(1, Math.abs(difference) / 4));
    const colour = difference > 0 ? "--warm" : "--accent";
    return element(
      "li",
      {
        class: "token",
        style: { "background-color": `color-mix(in srgb, var(${colour}) ${strength}%, transparent)` },
      },
      element("span", { class: "text" }, tokens[position]),
      element(
        "span",
        { class: "below" },
        explainButton(
          context,
          `compare-loss-${position}`,
          writtenLossChange(difference),
          { kind: "lossChange", position, before, after, names },
          `Difference of the losses of ${tokens[position]}: ${writtenLossChange(difference)}`,
        ),
      ),
    );
  });
  const means = outcomes.map(({ loss }, index) =>
    explainButton(context, `compare-mean-${index}`, decimal(loss), {
      kind: "meanLoss",
      source: SOURCES[index],
    }),
  );
  return element(
    "section",
    { class: "card" },
    element("h3", {}, "Loss of each token: second minus first"),
    element("ol", { class: "strip", id: "compare-losses" }, ...boxes),
    element(
      "p",
      { class: "note" },
      "Mean loss ",
      means[0],
      " in the first and ",
      means[1],
      " in the second model, in nats per token. “−” means that the second is less surprised.",
    ),
  );
}

function renderWriting({ session, models }, writing, redraw, names) {
  const source = session.sourceIds() ?? session.ids();
  const key = JSON.stringify(source);
  const onclick = () => {
    const texts = models.slice(0, 2).map((model) => model.decode(model.generate(source, WRITTEN)));
    Object.assign(writing, { key, texts });
    redraw();
  };
  const button = element(
    "button",
    { type: "button", id: "compare-write", onclick },
    `Write ${WRITTEN} tokens with both`,
  );
  const texts = writing.key === key ? writing.texts : null;
  return element(
    "section",
    {},
    element("h3", {}, "What they write, each time the most probable token"),
    element("p", { class: "row" }, button),
    texts &&
      element(
        "div",
        { class: "halves" },
        ...texts.map((text, index) =>
          element(
            "section",
            { class: "card" },
            element("h4", {}, names[index]),
            element("p", { class: "written-text" }, ...markDifference(text, texts[1 - index])),
          ),
        ),
      ),
  );
}

/** The text, with the part from the first difference on marked. */
function markDifference(text, other) {
  let same = 0;
  while (same < text.length && text[same] === other[same]) same += 1;
  return [text.slice(0, same), same < text.length ? element("mark", {}, text.slice(same)) : null];
}
