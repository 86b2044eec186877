/** Starts the page: reads what it contains, loads the models, opens the views. */

import { loadModel } from "#see/engine/model.js";
import { fromHash, isLinked, limitsOf, toHash, withinText } from "#see/view/address.js";
import { compact } from "#see/view/charts.js";
import { element, replaceChildren } from "#see/view/dom.js";
import { explainPanel } from "#see/view/explain.js";
import { listenToKeys } from "#see/view/keyboard.js";
import { openViews } from "#see/view/navigation.js";
import { createSession } from "#see/view/session.js";
import { createStore, initialState } from "#see/view/state.js";
import { storedBytes } from "#see/view/stored_bytes.js";
import { tourButton, tourPanel } from "#see/view/tour.js";

const KINDS = {
  causal: "language model",
  bigram: "bigram model",
  seq2seq: "translator",
  masked: "masked language model",
  classifier: "classifier",
  encoder: "encoder",
};
const WAIT_FOR_ADDRESS = 300; // milliseconds; browsers limit how often an address may change

/** For tests and for whoever opens the console: `window.model` (encode, decode, logits, generate). */
window.ready = start();
window.ready.catch(showError);

async function start() {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const bytesOf = (each, index) => (each.served ? null : storedBytes(`weights-${index}`));
  const models = payload.models.map((each, index) => loadModel(each, bytesOf(each, index)));
  window.models = models;
  window.model = models[0];
  const limits = limitsOf(payload);
  const store = createStore({ ...initialState(), text: payload.text, ...fromHash(location.hash, limits) });
  const session = createSession(store, models, payload);
  describe(payload.models[0]);
  if (payload.models[0].served) showErrorsOf(store);
  connectText(store, session);
  connectChat(store, payload.models[0]);
  connectTheme();
  connectAddress(store, session, limits);
  const context = { store, session, models, payload };
  const navigation = openViews(context);
  listenToKeys(store, navigation);
  addPanels(context);
  performance.mark("ready"); // for benchmarks/page_speed.py
  return window.model;
}

/** The explanation of a number, and the guided tour. */
function addPanels(context) {
  const [explanation, tour] = [explainPanel(context), tourPanel(context)];
  document.getElementById("main").before(tour.node);
  document.body.append(explanation.node);
  document.querySelector(".tools").prepend(tourButton(context));
  const update = () => [explanation, tour].forEach((panel) => panel.update(context.store.get()));
  context.store.subscribe(() => requestAnimationFrame(update));
}

function describe({ name, kind, config, tensors }) {
  const count = Object.values(tensors).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const layers = config.num_hidden_layers ?? config.encoder_layers;
  const facts = [
    KINDS[kind] ?? kind,
    `${compact(count)} parameters`,
    layers ? `${layers} layers` : null,
    config.num_attention_heads ? `${config.num_attention_heads} heads` : null,
    config.hidden_size ? `width ${config.hidden_size}` : null,
  ];
  document.getElementById("name").textContent = name;
  document.getElementById("facts").textContent = facts.filter(Boolean).join(" · ");
}

function connectText(store, session) {
  const area = document.getElementById("text");
  const note = document.getElementById("text-note");
  const update = (state) => {
    if (area.value !== state.text) area.value = state.text;
    const ignored = session.ignored();
    const most = session.description().max_positions;
    const text = `The model has ${most} positions: the last ${ignored} tokens are ignored.`;
    note.textContent = ignored > 0 ? text : "";
  };
  area.addEventListener("input", () => {
    // Positions move.
    const edits = { ...store.get().edits, hiddenTokens: new Set(), hiddenSource: new Set() };
    store.set({ text: area.value, written: [], position: null, key: null, edits });
  });
  store.subscribe(update);
  update(store.get());
}

/** A box that makes the text a message to the assistant, for models with a chat template. */
function connectChat(store, { chat }) {
  if (!chat) return;
  const box = element("input", { type: "checkbox", id: "chat", disabled: chat.prefix === undefined });
  box.addEventListener("change", () => {
    const edits = { ...store.get().edits, hiddenTokens: new Set() }; // positions move
    store.set({ chat: box.checked, written: [], position: null, key: null, edits });
  });
  const obstacle = chat.obstacle ? `: ${chat.obstacle}` : "";
  const label = element("label", { class: "chat" }, box, ` As a message to the assistant${obstacle}`);
  document.getElementById("text").after(label);
  const update = (state) => (box.checked = state.chat && chat.prefix !== undefined);
  store.subscribe(update);
  update(store.get());
}

function connectTheme() {
  const button = document.getElementById("theme");
  const isDark = () =>
    getComputedStyle(document.documentElement).colorScheme === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  const update = () => replaceChildren(button, isDark() ? "Light" : "Dark");
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    update();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  update();
}

/** The address follows the state, and the state an address that is entered. */
function connectAddress(store, session, limits) {
  const lengths = () => [session.ids().length, session.sourceIds()?.length ?? 0];
  const check = () => store.set(withinText(store.get(), ...lengths()));
  let waiting = 0;
  check();
  store.subscribe((_, changed) => {
    if (!isLinked(changed)) return;
    clearTimeout(waiting);
    waiting = setTimeout(() => history.replaceState(null, "", toHash(store.get())), WAIT_FOR_ADDRESS);
  });
  addEventListener("hashchange", () => {
    store.set({ position: null, explain: null, ...fromHash(location.hash, limits) });
    check();
  });
}

/** What a server can't compute is said above the views, until something changes. */
function showErrorsOf(store) {
  const line = element("p", { role: "alert", class: "error", id: "server-error", hidden: true });
  document.getElementById("main").before(line);
  addEventListener("error", ({ error }) => {
    line.textContent = error?.message ?? "";
    line.hidden = false;
  });
  store.subscribe(() => (line.hidden = true));
}

function showError(error) {
  const text = `This page can't run here: ${error.message}`;
  document.getElementById("main").replaceChildren(element("p", { role: "alert", class: "error" }, text));
}
