/**
 * Tabs of the views, of which one is open. A view is built when first opened; it is updated while open: after
 * each change or, where that takes long, such as a long text in a large model, after a pause of the typing.
 */

import { element } from "#see/view/dom.js";
import { VIEWS } from "#see/view/views.js";

const SLOW = 150; // milliseconds of an update from which on the next ones wait for a pause
const PAUSE = 300; // milliseconds without a change of the text

/**
 * @typedef {object} Navigation
 * @property {import("#see/view/state.js").View[]} views - those of this kind of model, in the order of tabs
 * @property {(id: string) => void} open
 */

/**
 * Create the tabs and open the view of the state.
 *
 * @param {import("#see/view/state.js").Context} context
 * @returns {Navigation}
 */
export function openViews(context) {
  const { store, models, payload } = context;
  const views = VIEWS.filter(
    ({ kinds, isShown }) => (kinds?.includes(models[0].kind) ?? true) && (isShown?.(context) ?? true),
  );
  const tabs = new Map(views.map((view) => [view.id, createTab(view, store)]));
  const panels = new Map(views.map((view) => [view.id, createPanel(view)]));
  const updates = new Map();
  const list = document.getElementById("tabs");
  list.append(...tabs.values());
  document.getElementById("main").append(...panels.values());
  list.addEventListener("keydown", (event) => moveFocus(event, [...tabs.values()]));

  const shown = () => (tabs.has(store.get().view) ? store.get().view : defaultView(views));
  const computing = element("p", { id: "computing", role: "status" });
  document.getElementById("main").append(computing);
  let frame = 0;
  let waiting = 0;
  let isOfText = true; // whether the next update is of another text
  let duration = 0; // of the last update of another text, in milliseconds

  function schedule(_, changed) {
    const isOther = changed.has("text") || changed.has("chat");
    isOfText ||= isOther;
    if (isOther && duration > SLOW) {
      cancelAnimationFrame(frame);
      frame = 0;
      clearTimeout(waiting);
      waiting = setTimeout(run, PAUSE);
      computing.textContent = "Computing…";
    } else if (frame === 0 && waiting === 0) {
      frame = requestAnimationFrame(run);
    }
  }

  function run() {
    [frame, waiting] = [0, 0];
    const start = performance.now();
    computing.textContent = "";
    update();
    if (isOfText) duration = performance.now() - start;
    isOfText = false;
  }

  function update() {
    const id = shown();
    for (const [each, panel] of panels) panel.hidden = each !== id;
    for (const [each, tab] of tabs) {
      if (each === id && tab.ariaSelected !== "true") showTab(tab);
      tab.setAttribute("aria-selected", String(each === id));
      tab.tabIndex = each === id ? 0 : -1;
    }
    if (!updates.has(id)) {
      const view = views.find((each) => each.id === id);
      updates.set(id, view.build(panels.get(id).lastElementChild, context));
    }
    updates.get(id)(store.get());
  }

  store.subscribe(schedule);
  if (payload.models[0].served)
    frame = requestAnimationFrame(run); // it starts also if the server refuses the text
  else run();
  return { views, open: (id) => store.set({ view: id }) };
}

/** The answer of this kind of model, if a view shows it. */
function defaultView(views) {
  const answers = ["compare", "translate", "next", "masked", "classify", "flow"];
  return views.find(({ id }) => id === answers.find((answer) => views.some((view) => view.id === answer))).id;
}

function createTab({ id, title }, store) {
  const attributes = { type: "button", role: "tab", id: `tab-${id}`, "aria-controls": `panel-${id}` };
  return element("button", { ...attributes, onclick: () => store.set({ view: id }) }, title);
}

function createPanel({ id, title, intro, lesson }) {
  const origin = lesson ? [" From the beginning: ", element("code", {}, `scratch-gpt learn ${lesson}`)] : [];
  return element(
    "section",
    { role: "tabpanel", id: `panel-${id}`, "aria-labelledby": `tab-${id}`, class: "panel", hidden: true },
    element("h2", {}, title),
    element("p", { class: "intro" }, intro, ...origin),
    element("div", { class: "view" }),
  );
}

/** Scroll the tabs sideways to one of them: on a narrow screen, some are out of sight. */
function showTab(tab) {
  const list = tab.parentElement;
  list.scrollLeft = tab.offsetLeft - list.offsetLeft - (list.clientWidth - tab.offsetWidth) / 2;
}

/** Arrow keys, Home and End move between tabs and open them. */
function moveFocus(event, tabs) {
  const at = tabs.indexOf(document.activeElement);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
  if (at < 0 || next === undefined) return;
  event.preventDefault();
  const tab = tabs.at(next % tabs.length);
  tab.focus();
  tab.click();
}
