/**
 * A model that torch computes, for a page of `scratch-gpt see --serve`: it has the methods of the models of
 * this folder and asks the server, which is scratch_gpt/see/serve.py, for what they return.
 *
 * The views call it as any other model and wait for the answer, so that requests are synchronous.
 *
 * Dimension letters: T tokens, C hidden size, V vocabulary.
 */

/** Kinds of models that have a cache, besides classifiers with the GPT's trunk. */
const CACHED = ["causal", "bigram", "seq2seq"];

/** Tokens that the server may keep the keys and values of. It finds them by the tokens themselves. */
class ServedCache {
  constructor() {
    this.ids = [];
    this.encoder = null; // trace of the source of an encoder-decoder
  }

  /** Number of tokens. */
  get length() {
    return this.ids.length;
  }

  /** @param {number} length of the tokens that are kept */
  truncate(length) {
    if (length < this.length) this.ids.length = length;
  }

  /** @returns {ServedCache} an independent copy */
  copy() {
    const copy = new ServedCache();
    copy.ids = [...this.ids];
    copy.encoder = this.encoder;
    return copy;
  }
}

/** A model on the server. */
export class ServedNetwork {
  /**
   * @param {Object} payload the model's part of the page's content, in which `served` has its number and the
   *   token
   */
  constructor(payload) {
    const { config, kind, served } = payload;
    this.served = served;
    const hasCache = CACHED.includes(kind) || config.model_type === "scratch_gpt";
    if (hasCache) this.newCache = () => new ServedCache();
    const hasNorm = kind !== "bigram" && config.norm_position !== "post";
    /** The last norm, or null without one. */
    this.finalNorm = hasNorm ? { forward: (hidden) => this.ask({ method: "norm" }, hidden).states } : null;
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @param {import("#see/engine/gpt.js").Options & {sourceIds?: ArrayLike<number>}} options
   * @returns {import("#see/engine/gpt.js").Trace}
   * @throws {RangeError} if the server refuses it
   */
  forward(ids, { sourceIds = [], cache = null, edits = null, record = false, lastLogits = false } = {}) {
    const start = cache?.length ?? 0;
    const all = [...(cache?.ids ?? []), ...ids];
    const pass = { start, cached: cache !== null, edits, record, lastLogits };
    const request = { method: "forward", ids: all, sourceIds: Array.from(sourceIds ?? []), ...pass };
    const trace = this.ask(request);
    if (cache !== null) {
      trace.encoder ??= cache.encoder;
      cache.encoder = trace.encoder;
      cache.ids = all;
    }
    return trace;
  }

  /**
   * @param {Float32Array} hidden states after the last norm (T, C)
   * @returns {Float32Array} logits (T, V)
   */
  head(hidden) {
    return this.ask({ method: "head" }, hidden).states;
  }

  /** The answer to a request, which may have numbers. */
  ask(request, numbers = null) {
    const { model, token } = this.served;
    const line = JSON.stringify({ model, ...request }, (_, value) =>
      value instanceof Set ? [...value] : value,
    );
    const query = new XMLHttpRequest();
    query.open("POST", "/compute", false);
    query.overrideMimeType("text/plain; charset=x-user-defined"); // a character is a byte
    query.setRequestHeader("X-Scratch-GPT-Token", token);
    try {
      query.send(numbers === null ? line : joined(line, numbers));
    } catch {
      throw new Error(
        "The server does not answer: start scratch-gpt see --serve again, and load this page again.",
      );
    }
    const bytes = bytesOf(query.responseText);
    if (query.status === 200) return unpacked(bytes);
    throw new RangeError(new TextDecoder().decode(bytes));
  }
}

/** A line and the bytes of numbers after it. */
function joined(line, numbers) {
  const head = new TextEncoder().encode(`${line}\n`);
  const bytes = new Uint8Array(head.length + numbers.byteLength);
  bytes.set(head);
  bytes.set(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength), head.length);
  return bytes;
}

/** The bytes of a text whose characters are bytes. */
function bytesOf(text) {
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

/**
 * The content of an answer: a line of JSON, and the numbers of its arrays.
 *
 * @param {Uint8Array} bytes
 * @returns {Object}
 */
export function unpacked(bytes) {
  const end = bytes.indexOf(10);
  const numbers = bytes.slice(end + 1).buffer; // a copy, which begins at a multiple of 4
  const arrays = new Map();
  const array = (ArrayType, [offset, count]) => {
    const key = `${offset} ${count}`; // an empty array is at the offset of the next one
    if (!arrays.has(key)) arrays.set(key, new ArrayType(numbers, offset, count));
    return arrays.get(key);
  };
  return JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)), (_, value) => {
    if (value?.float32) return array(Float32Array, value.float32);
    return value?.int32 ? array(Int32Array, value.int32) : value;
  });
}
