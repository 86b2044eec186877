/** The training film: what the model answers to the same text after each recorded step of its training. */

import { withWeights } from "#see/engine/model.js";
import { bar, largest } from "#see/view/charts.js";
import { element, svg } from "#see/view/dom.js";
import { decimal } from "#see/view/numbers.js";
import { outcome } from "#see/view/outcomes.js";
import { explainButton, hasTokens, replaceKeepingFocus } from "#see/view/rerender.js";
import { storedBytes } from "#see/view/stored_bytes.js";

const WRITTEN = 40; // tokens
const SHOWN = 8; // most probable tokens
const INTERVAL = 1200; // milliseconds of a frame while the film plays
const WAIT = 100; // milliseconds without a change before a text is written
const films = new WeakMap(); // the answers of a page's frames, by its store
const CHART = { width: 640, height: 96, margin: 8 };

export const view = {
  id: "film",
  title: "Training film",
  intro:
    "How the model learned: the same text with the weights after each of these steps of its training. " +
    "Step 0 is before the first update.",
  isShown: ({ payload }) => payload.film !== null,
  build,
};

function build(root, context) {
  const { store, payload } = context;
  const { steps } = payload.film;
  const answers = createAnswers(context);
  films.set(store, answers);
  const controls = createControls(context);
  const [chart, body] = [element("div", {}), element("div", { class: "view-body" })];
  root.append(controls.node, chart, body);
  let isWaiting = false;
  let writing = 0;

  function draw(state) {
    replaceKeepingFocus(body, renderFrame(context, answers, state, frameOf(state, steps)));
    drawChart(state);
  }

  /** Write the texts of the shown frame, which takes longer than the rest: not while the slider moves. */
  function write() {
    const state = store.get();
    if (isHidden(root) || !canWrite(context.session)) return;
    answers.write(state, frameOf(state, steps));
    draw(state);
  }

  function drawChart(state) {
    chart.replaceChildren(...lossChart(steps, answers.known(state), frameOf(state, steps)));
  }

  /** Compute the frames that were not shown yet, one at a time: the chart has the loss of each. */
  function computeOthers() {
    if (isWaiting) return;
    isWaiting = true;
    setTimeout(() => {
      isWaiting = false;
      const state = store.get();
      if (isHidden(root) || !hasTokens(context.session) || !answers.computeNext(state)) return;
      drawChart(state);
      computeOthers();
    });
  }

  return (state) => {
    const index = frameOf(state, steps);
    controls.update(index);
    draw(state);
    clearTimeout(writing);
    if (!answers.texts(state).has(index)) writing = setTimeout(write, WAIT);
    computeOthers();
  };
}

/** The index of the shown frame. */
function frameOf({ frame }, steps) {
  return frame ?? steps.length - 1;
}

/** Whether the models of this page write texts, and there is one to continue. */
function canWrite(session) {
  return hasTokens(session) && ["causal", "bigram", "seq2seq"].includes(session.model().kind);
}

/** Whether the view's tab is closed. */
function isHidden(root) {
  return root.closest("[role=tabpanel]").hidden;
}

/**
 * What the frames answer to the current text, each computed once. All frames together are no larger than the
 * largest model of a page, so that their weights are kept.
 *
 * @param {import("#see/view/state.js").Context} context
 */
function createAnswers({ session, models, payload }) {
  const { steps, tensors } = payload.film;
  const frames = new Map();
  const kept = { outcomes: memory(), texts: memory() };

  function frame(index) {
    if (!frames.has(index)) {
      const description = { ...payload.models[0], tensors };
      frames.set(index, withWeights(models[0], description, storedBytes(`film-${index}`)));
    }
    return frames.get(index);
  }

  const inputs = () => [session.ids(), session.sourceIds()];
  const outcomesOf = (state) => kept.outcomes(JSON.stringify([inputs(), state.position]));

  const trace = (index) => frame(index).forward(session.ids(), { sourceIds: session.sourceIds() ?? [] });

  /** The answer of a frame, as `outcome` returns it. */
  function answer(state, index) {
    const found = outcomesOf(state);
    if (!found.has(index)) {
      const options = { model: 0, position: state.position, source: { frame: index } };
      found.set(index, outcome(session, trace(index), options));
    }
    return found.get(index);
  }

  /** What the frames write after the text, as far as it is written. */
  function texts({ temperature, topK, topP, seed }) {
    return kept.texts(JSON.stringify([inputs(), temperature, topK, topP, seed]));
  }

  /** Let a frame write: greedily, and sampled as the controls of sampling say. */
  function write(state, index) {
    const { temperature, topK, topP, seed } = state;
    const source = session.sourceIds() ?? session.ids();
    const continued = (options) => frame(index).decode(frame(index).generate(source, WRITTEN, options));
    const sampled = temperature > 0 ? continued({ temperature, topK, topP, seed }) : null;
    texts(state).set(index, { greedy: continued({}), sampled });
  }

  /** Compute the answer of the first frame that has none; returns whether there was one. */
  function computeNext(state) {
    const found = outcomesOf(state);
    const next = steps.findIndex((_, index) => !found.has(index));
    if (next >= 0) answer(state, next);
    return next >= 0;
  }

  return { answer, trace, texts, write, computeNext, known: outcomesOf };
}

/**
 * The trace of a frame over the current text, whose numbers are explained.
 *
 * @param {object} context - of a view
 * @param {number} index
 * @returns {object}
 */
export function filmTrace({ store }, index) {
  return films.get(store).trace(index);
}

/** A function that returns the values that were stored for a key, and forgets those of the former key. */
function memory() {
  let [last, values] = ["", new Map()];
  return (key) => {
    if (key !== last) [last, values] = [key, new Map()];
    return values;
  };
}

/** The slider over the steps, and the button that plays them one after the other. */
function createControls({ store, payload }) {
  const { steps, recorded } = payload.film;
  const last = steps.length - 1;
  let timer = null;
  const button = element("button", { type: "button", class: "primary", id: "film-play", onclick: toggle });
  const range = { type: "range", id: "film-frame", min: 0, max: last, step: 1 };
  const slider = element("input", { ...range, "aria-label": "Step of the training" });
  const shown = element("output", { for: "film-frame", id: "film-step" });
  const some = `${steps.length} of the ${recorded} recorded steps are in this page.`;
  const node = element(
    "div",
    {},
    element("div", { class: "film-controls" }, button, slider, shown),
    recorded > steps.length ? element("p", { class: "note" }, some) : null,
  );
  slider.addEventListener("input", () => {
    stop();
    store.set({ frame: Number(slider.value) });
  });

  function toggle() {
    if (timer !== null) return stop();
    if (frameOf(store.get(), steps) === last) store.set({ frame: 0 });
    timer = setInterval(advance, INTERVAL);
    label();
  }

  function advance() {
    const next = frameOf(store.get(), steps) + 1;
    if (isHidden(node) || next > last) return stop();
    store.set({ frame: next });
    if (next === last) stop();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    label();
  }

  function label() {
    button.textContent = timer === null ? "Play" : "Pause";
  }

  function update(index) {
    const text = `Step ${steps[index].toLocaleString("en")}`;
    slider.value = String(index);
    slider.setAttribute("aria-valuetext", `${text} of ${steps[last].toLocaleString("en")}`);
    shown.textContent = text;
  }

  label();
  return { node, update };
}

function renderFrame(context, answers, state, index) {
  if (!hasTokens(context.session)) return [element("p", { class: "note" }, "Write a text first.")];
  const answer = answers.answer(state, index);
  if (!answer) return [element("p", { class: "note" }, "Write a text with a mask first.")];
  const final = answers.answer(state, context.payload.film.steps.length - 1);
  return [
    answer.loss === null ? null : renderLoss(context, answer.loss, index),
    element(
      "div",
      { class: "halves" },
      renderProbabilities(context, answer, final),
      canWrite(context.session) ? renderTexts(answers.texts(state).get(index), state) : null,
    ),
  ];
}

function renderLoss(context, loss, index) {
  const number = explainButton(context, "film-mean", decimal(loss), {
    kind: "meanLoss",
    source: { frame: index },
  });
  const value = element("dd", { id: "film-loss" }, number, element("small", {}, " nats per token"));
  const metric = element("div", { class: "metric" }, element("dt", {}, "Loss of the text"), value);
  return element("dl", { class: "metrics" }, metric);
}

/** The most probable tokens, guesses or classes of a frame, with what they are in the last one. */
function renderProbabilities(context, answer, final) {
  const rows = largest(answer.values, SHOWN).map((choice) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, answer.name(choice)),
      element("td", {}, answer.kind === "none" ? null : bar(answer.values[choice], final.values[choice])),
      element(
        "td",
        { class: "right" },
        explainButton(
          context,
          `film-answer-${choice}`,
          answer.write(answer.values[choice]),
          answer.request(choice),
        ),
      ),
    ),
  );
  return element(
    "section",
    { class: "card" },
    element("h3", {}, answer.title),
    element("table", { class: "weights", id: "film-answers" }, element("tbody", {}, ...rows)),
    element("p", { class: "legend" }, "Bar: after this step. Mark: after the last one."),
  );
}

/** What a frame writes; undefined while it is not written yet. */
function renderTexts(written, { temperature, seed }) {
  const text = (title, name) => {
    const shown = written ? written[name] || "(nothing: the text ends here)" : "…";
    const attributes = { class: "written-text", id: `film-${name}`, "aria-busy": String(!written) };
    return [element("h3", {}, title), element("p", attributes, shown)];
  };
  const settings = `temperature ${temperature.toFixed(2)}, seed ${seed}`;
  return element(
    "section",
    { class: "card" },
    ...text("It writes: always the most probable token", "greedy"),
    ...(temperature > 0 ? text(`It writes: ${settings}`, "sampled") : []),
  );
}

/** The loss of the text by frame, of those that are computed. */
function lossChart(steps, answers, shown) {
  const points = steps.flatMap((step, index) => {
    const loss = answers.get(index)?.loss;
    return Number.isFinite(loss) ? [{ step, index, loss }] : [];
  });
  if (points.length < 2) return [];
  const { width, height, margin } = CHART;
  const most = Math.max(...points.map(({ loss }) => loss));
  const x = (index) => margin + (index / (steps.length - 1)) * (width - 2 * margin);
  const y = (loss) => height - margin - (loss / Math.max(most, 1e-9)) * (height - 2 * margin);
  const [first, last] = [points[0], points.at(-1)];
  const describe = ({ step, loss }) => `${decimal(loss)} after step ${step}`;
  const dots = points.map(({ step, index, loss }) =>
    svg(
      "circle",
      { cx: x(index), cy: y(loss), r: index === shown ? 6 : 3, class: index === shown ? "shown" : null },
      svg("title", {}, `Step ${step}: ${decimal(loss)}`),
    ),
  );
  const line = points.map(({ index, loss }) => `${x(index)},${y(loss)}`).join(" ");
  const label = `Loss of the text in nats per token: ${describe(first)}, ${describe(last)}`;
  return [
    svg(
      "svg",
      { class: "film-chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
      svg("polyline", { points: line }),
      ...dots,
    ),
  ];
}
