/**
 * The state in the address: a link that carries a text carries what is looked at too, where it differs from
 * a page that was just opened.
 *
 * An address is written by anyone, so each field has its range, and what is not in it is ignored: the page
 * then shows what it shows without the field.
 */

import { initialState, noEdits } from "#see/view/state.js";

const LONGEST_TEXT = 100_000; // UTF-16 units
const MOST_IDS = 100_000; // of written tokens, or parts of an edit
const MOST_BEAMS = 16;
const LARGEST_SEED = 999_999;
/** Fields beside view, text, written tokens and edits. */
const NUMBERS_AND_NAMES = [
  ...["temperature", "topK", "topP", "seed", "position", "key", "layer", "head", "attention"],
  ...["lensRow", "label", "beams", "frame", "model"],
];
const LINKED = ["view", "text", "chat", "written", "edits", ...NUMBERS_AND_NAMES];

/**
 * What an address may say of a page.
 *
 * @typedef {object} Limits
 * @property {number} vocabulary - size of that of written tokens
 * @property {number} positions - of the model
 * @property {number} layers - of the deepest stack
 * @property {number} heads - of the layer with most heads
 * @property {number} models - in the page
 * @property {number} frames - of the film
 * @property {number} labels - of a classifier
 */

/**
 * @param {object} payload - the content of a page
 * @returns {Limits}
 */
export function limitsOf({ models, film }) {
  const [{ config, labels, max_positions: positions }] = models;
  const most = (...values) => Math.max(0, ...values.filter(Number.isFinite));
  return {
    vocabulary: config.decoder_vocab_size ?? config.vocab_size,
    positions,
    layers: most(config.num_hidden_layers, config.encoder_layers, config.decoder_layers),
    heads: most(config.num_attention_heads),
    models: models.length,
    frames: film?.steps.length ?? 0,
    labels: labels?.length ?? 0,
  };
}

/**
 * The part of the state that a link carries, as the address's hash. A text that is too long for a link
 * is left out, with what belongs to it.
 *
 * @param {import("#see/view/state.js").State} state
 * @returns {string}
 */
export function toHash(state) {
  if (state.text.length > LONGEST_TEXT) return `#${new URLSearchParams({ view: state.view })}`;
  const fields = new URLSearchParams({ view: state.view, text: state.text });
  if (state.written.length > 0) fields.set("written", state.written.join("."));
  if (state.chat) fields.set("chat", "1");
  const initial = initialState();
  for (const name of NUMBERS_AND_NAMES) {
    if (state[name] !== initial[name]) fields.set(name, String(state[name]));
  }
  for (const [name, parts] of Object.entries(state.edits)) {
    if (parts.size > 0) fields.set(name, [...parts].join("_"));
  }
  return `#${fields}`;
}

/**
 * Whether a change of these fields changes the address.
 *
 * @param {Set<string>} changed
 * @returns {boolean}
 */
export function isLinked(changed) {
  return LINKED.some((name) => changed.has(name));
}

/**
 * The part of the state that an address's hash carries. A hash with a text says all: what it lacks is as in a
 * page that was just opened. One without a text, such as `#view=lens`, changes only what it names.
 *
 * @param {string} hash
 * @param {Limits} limits
 * @returns {Partial<import("#see/view/state.js").State>}
 */
export function fromHash(hash, limits) {
  const fields = new URLSearchParams(hash.replace(/^#/, "")); // malformed escapes are no error
  const text = fields.get("text");
  const change = {};
  if (text !== null && text.length <= LONGEST_TEXT) {
    const initial = initialState();
    for (const name of LINKED) change[name] = initial[name];
    Object.assign(change, { text, chat: fields.get("chat") === "1", written: writtenIds(fields, limits) });
    delete change.view;
  }
  if (fields.has("view")) change.view = fields.get("view");
  Object.assign(change, numbers(fields, limits), attention(fields));
  const edits = editsOf(fields, limits);
  return edits === null ? change : { ...change, edits };
}

/**
 * What of a state is beyond the end of its text, set right: a selected token, and hidden ones.
 *
 * @param {import("#see/view/state.js").State} state
 * @param {number} length - of the ids
 * @param {number} sourceLength - of those of the source
 * @returns {Partial<import("#see/view/state.js").State>}
 */
export function withinText({ position, key, edits }, length, sourceLength) {
  const isWithin = (at) => at === null || at < length;
  const kept = (tokens, count) => new Set([...tokens].filter((at) => at < count));
  const hiddenTokens = kept(edits.hiddenTokens, length);
  const hiddenSource = kept(edits.hiddenSource, sourceLength);
  return {
    position: isWithin(position) ? position : null,
    key: key === null || key < Math.max(length, sourceLength) ? key : null,
    edits: { ...edits, hiddenTokens, hiddenSource },
  };
}

/** The tokens that were written after the text. */
function writtenIds(fields, { vocabulary }) {
  const ids = (fields.get("written") ?? "").split(".").slice(0, MOST_IDS);
  return ids.filter((id) => isIndex(id, vocabulary)).map(Number);
}

/** Numbers within their range. */
function numbers(fields, limits) {
  const indices = {
    position: limits.positions,
    key: limits.positions,
    layer: limits.layers,
    head: limits.heads,
    lensRow: limits.layers + 1,
    label: limits.labels,
    frame: limits.frames,
    model: limits.models,
    topK: 101,
    seed: LARGEST_SEED + 1,
  };
  const found = {};
  for (const [name, count] of Object.entries(indices)) {
    if (isIndex(fields.get(name), count)) found[name] = Number(fields.get(name));
  }
  const beams = fields.get("beams");
  if (isIndex(beams, MOST_BEAMS + 1) && Number(beams) > 0) found.beams = Number(beams);
  for (const [name, least, most] of [
    ["temperature", 0, 2],
    ["topP", 0.05, 1],
  ]) {
    const written = fields.get(name) ?? "";
    const value = /^\d(\.\d{1,6})?$/.test(written) ? Number(written) : NaN;
    if (value >= least && value <= most) found[name] = value;
  }
  return found;
}

function attention(fields) {
  const kind = fields.get("attention");
  return ["self", "cross", "encoder"].includes(kind) ? { attention: kind } : {};
}

/** The parts that are switched off; null if there are none. */
function editsOf(fields, { layers, heads, positions }) {
  const isHead = (part) => {
    const [layer, head, ...more] = part.split(".");
    return more.length === 0 && isIndex(layer, layers) && isIndex(head, heads);
  };
  const edits = noEdits();
  for (const name of Object.keys(edits)) {
    const parts = (fields.get(name) ?? "").split("_").slice(0, MOST_IDS);
    const isOfHeads = ["heads", "crossHeads"].includes(name);
    const isOfTokens = ["hiddenTokens", "hiddenSource"].includes(name);
    const isPart = isOfHeads ? isHead : (part) => isIndex(part, isOfTokens ? positions : layers);
    edits[name] = new Set(parts.filter(isPart).map((part) => (isOfHeads ? part : Number(part))));
  }
  return Object.values(edits).some((parts) => parts.size > 0) ? edits : null;
}

/** Whether a text is a whole number from 0 to `count` - 1, as this page writes it. */
function isIndex(text, count) {
  return /^(0|[1-9]\d{0,8})$/.test(text ?? "") && Number(text) < count;
}
