/**
 * What several views need of the current state, computed once per change: token ids, logits, recorded passes.
 *
 * Letters: T tokens, V vocabulary size.
 */

import { distribution } from "#see/engine/sampling.js";
import { engineEdits, noEdits } from "#see/view/state.js";

/** Recorded passes that are kept: the current one, one with edits, and those of a second model. */
const KEPT_TRACES = 4;

/**
 * @typedef {object} Session
 * @property {(index?: number) => object} model - the shown model of the engine, or that of an index
 * @property {(index?: number) => object} description - its part of the payload
 * @property {() => object} tokenizer - tokenizer of the ids: that of the target for an encoder-decoder
 * @property {() => number[] | null} sourceIds - source of an encoder-decoder; null for other models
 * @property {() => number[]} ids - tokens of the text and those written after it; of an encoder-decoder the
 *   target
 * @property {() => number} start - how many of the ids were not written: the text, or the start of a target
 * @property {() => number} ignored - how many tokens of the text are beyond the model's positions
 * @property {() => boolean} isFull - whether the model has no position for another token
 * @property {(options?: {edits?: object, model?: number}) => object} trace - recorded pass over the ids (the
 *   engine's `Trace`); of a model that is named, with the logits of the tokens that all models have
 * @property {() => number[]} vocabularySizes - of the models: fine-tuning may add tokens at the end
 * @property {() => string | null} unsharedToken - a token of the text that a model does not have
 * @property {(position: number) => Float32Array} logits - of the token at this position, after those before
 *   it (V,)
 * @property {(logits: Float32Array, sampling: object) => Float32Array} probabilities - after `temperature`,
 *   `topK` and `topP` (V,)
 */

/**
 * @param {import("#see/view/state.js").Store} store
 * @param {object[]} models - of the engine
 * @param {object} payload
 * @returns {Session}
 */
export function createSession(store, models, payload) {
  const model = (index = store.get().model) => models[index];
  const description = (index = store.get().model) => payload.models[index];
  const isTranslator = () => model().kind === "seq2seq";
  const encoded = memoised((text, index, chat) =>
    encodeText(models[index], payload.models[index], text, chat),
  );
  const textIds = () => encoded(store.get().text, store.get().model, store.get().chat);
  const kept = () => textIds().slice(0, description().max_positions);
  const first = () => (isTranslator() ? targetStart(description().generation) : kept());
  const stableIds = stableArray();
  const stableSource = stableArray();
  const ids = () => stableIds([...first(), ...store.get().written].slice(0, description().max_positions));
  const traces = [];
  const decoders = new Map();

  const vocabularySizes = payload.models.map(({ config }) => config.decoder_vocab_size ?? config.vocab_size);
  const sharedTokens = Math.min(...vocabularySizes);
  const sharedSource = Math.min(...payload.models.map(({ config }) => config.vocab_size));

  function trace({ edits = noEdits(), model: compared } = {}) {
    const index = compared ?? store.get().model;
    const key = JSON.stringify([index, isTranslator() ? kept() : null, ids(), editsKey(edits)]);
    let found = traces.find((each) => each.key === key);
    if (!found) {
      const sourceIds = models[index].kind === "seq2seq" ? kept() : null;
      found = {
        key,
        value: models[index].forward(ids(), { sourceIds, record: true, edits: engineEdits(edits) }),
      };
      traces.unshift(found);
      traces.length = Math.min(traces.length, KEPT_TRACES);
    }
    if (compared === undefined) return found.value;
    found.compared ??= firstLogits(found.value, sharedTokens);
    return found.compared;
  }

  function unsharedToken() {
    const source = isTranslator() ? kept().find((id) => id >= sharedSource) : undefined;
    if (source !== undefined) return model().tokenizer.token(source);
    const id = ids().find((each) => each >= sharedTokens);
    return id === undefined ? null : model().targetTokenizer.token(id);
  }

  function logits(position) {
    const index = store.get().model;
    const sourceKey = isTranslator() ? kept().join() : "";
    if (decoders.get(index)?.sourceKey !== sourceKey) {
      decoders.set(index, incrementalDecoder(models[index], isTranslator() ? kept() : null, sourceKey));
    }
    return decoders.get(index).logits(ids().slice(0, position));
  }

  return {
    model,
    description,
    tokenizer: () => (isTranslator() ? model().targetTokenizer : model().tokenizer),
    sourceIds: () => (isTranslator() ? stableSource(kept()) : null),
    ids,
    start: () => Math.min(first().length, ids().length),
    ignored: () => textIds().length - kept().length,
    isFull: () => ids().length >= description().max_positions,
    trace,
    vocabularySizes: () => vocabularySizes,
    unsharedToken,
    logits,
    probabilities: (values, { temperature, topK, topP }) => distribution(values, { temperature, topK, topP }),
  };
}

/**
 * The ids of a text or, as the chat template writes it, of a message to the assistant.
 *
 * @param {object} model - of the engine
 * @param {object} description - its part of the payload
 * @param {string} text
 * @param {boolean} chat
 * @returns {number[]}
 */
export function encodeText(model, { chat: form }, text, chat) {
  if (!chat || form?.prefix === undefined) return model.encode(text);
  return model.tokenizer.encode(form.prefix + text + form.suffix, { addSpecialTokens: false });
}

/**
 * A decoder that computes only tokens that it has not seen: it keeps the keys and values of the longest
 * prefix that the ids share with those of the last call.
 *
 * @param {object} model
 * @param {number[] | null} sourceIds
 * @param {string} sourceKey
 * @returns {{sourceKey: string, logits: (ids: number[]) => Float32Array}}
 */
function incrementalDecoder(model, sourceIds, sourceKey) {
  const cache = model.newCache();
  let seen = [];
  return {
    sourceKey,
    logits(ids) {
      let shared = 0;
      while (shared < seen.length && shared < ids.length - 1 && seen[shared] === ids[shared]) shared += 1;
      cache.truncate(shared); // to fewer tokens if layers with a window have dropped what they need
      seen = [...ids];
      return model.forward(ids.slice(cache.length), { sourceIds, cache, lastLogits: true }).logits; // (V,)
    },
  };
}

/**
 * A trace with the logits of the first tokens of the vocabulary only.
 *
 * @param {object} trace
 * @param {number} count - of tokens
 * @returns {object}
 */
export function firstLogits(trace, count) {
  const vocabulary = (trace.logits?.length ?? 0) / trace.length;
  if (vocabulary <= count) return trace;
  const logits = new Float32Array(trace.length * count); // (T, count)
  for (let position = 0; position < trace.length; position += 1) {
    const start = position * vocabulary;
    logits.set(trace.logits.subarray(start, start + count), position * count);
  }
  return { ...trace, logits };
}

/** Ids that a target starts with. */
function targetStart(generation) {
  const forced = generation.forced_bos_token_id;
  const hasForced = forced !== null && forced !== undefined;
  return [generation.decoder_start_token_id, ...(hasForced ? [forced] : [])];
}

function editsKey(edits) {
  return Object.entries(edits).map(([name, parts]) => [name, [...parts].sort()]);
}

/** The function with its last result kept, for the same arguments. */
function memoised(compute) {
  let last = null;
  return (...given) => {
    const isSame = last !== null && last.given.every((value, index) => value === given[index]);
    if (!isSame) last = { given, value: compute(...given) };
    return last.value;
  };
}

/** A function that returns the former array if a new one has equal values: identity then means equality. */
function stableArray() {
  let last = [];
  return (values) => {
    const same = values.length === last.length && values.every((value, index) => value === last[index]);
    if (!same) last = values;
    return last;
  };
}
