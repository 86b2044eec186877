/**
 * The cache: keys and values of earlier tokens, so that a new token computes only its own.
 *
 * Memory is allocated in advance and doubled when it is full. A layer with a sliding window moves the tokens
 * that are still in reach to the beginning instead.
 *
 * Dimension letters: S cached tokens, G key-value heads, D head size.
 */

const INITIAL_CAPACITY = 256; // tokens

/**
 * @typedef {{keys: Float32Array, values: Float32Array, first: number, count: number}} KeyValues keys and
 *   values, each (S, G, D) and possibly unused memory after them; the position of the first one, and their
 *   number S
 */

/** Keys and values of the self-attention of a block. */
export class LayerCache {
  /**
   * @param {number | null} window number of tokens that a token attends to, with itself; null for all
   */
  constructor(window) {
    this.window = window;
    this.keys = new Float32Array(0);
    this.values = new Float32Array(0);
    this.first = 0;
    this.count = 0;
  }

  /**
   * Append keys and values, and return all those that the new tokens can attend to.
   *
   * @param {Float32Array} keys (T, G, D)
   * @param {Float32Array} values (T, G, D)
   * @param {number} length T
   * @returns {KeyValues}
   */
  append(keys, values, length) {
    const size = keys.length / length; // G * D
    if ((this.count + length) * size > this.keys.length) this.makeRoom(length, size);
    this.keys.set(keys, this.count * size);
    this.values.set(values, this.count * size);
    this.count += length;
    return this;
  }

  /** Drop the tokens out of reach of the next one and, if that does not suffice, allocate more memory. */
  makeRoom(length, size) {
    const kept = this.window === null ? this.count : Math.min(this.count, this.window - 1);
    const dropped = this.count - kept;
    const needed = (kept + length) * size;
    for (const name of ["keys", "values"]) {
      const former = this[name];
      if (needed > former.length) {
        const slack = this.window === null ? kept + length : 0;
        this[name] = new Float32Array(needed + Math.max(slack, INITIAL_CAPACITY) * size);
      }
      if (this[name] === former) former.copyWithin(0, dropped * size, this.count * size);
      else this[name].set(former.subarray(dropped * size, this.count * size));
    }
    this.first += dropped;
    this.count = kept;
  }

  /**
   * @param {number} length
   * @returns {boolean} whether the tokens that the token at this position attends to are still there
   */
  reaches(length) {
    return this.first === 0 || (this.window !== null && this.first <= length - (this.window - 1));
  }

  /** @returns {LayerCache} */
  copy() {
    const copy = new LayerCache(this.window);
    copy.keys = this.keys.slice();
    copy.values = this.values.slice();
    copy.first = this.first;
    copy.count = this.count;
    return copy;
  }
}

/** The cache of a model: its tokens so far, and the keys and values of its blocks. */
export class Cache {
  /** @param {(number | null)[]} windows the sliding window of each block */
  constructor(windows) {
    this.ids = [];
    this.layers = windows.map((window) => new LayerCache(window));
    this.source = null; // what cross-attention reads, see `Pass` in block.js
    this.sourceLayers = windows.map(() => null); // keys and values of cross-attention in each block
  }

  /** Number of tokens. */
  get length() {
    return this.ids.length;
  }

  /**
   * Drop the tokens after the first `length`. If a sliding window has already dropped what the next token
   * attends to, all are dropped: compute what is missing by `forward(ids.slice(cache.length), {cache})`.
   *
   * @param {number} length
   */
  truncate(length) {
    if (length >= this.length) return;
    const kept = this.layers.every((layer) => layer.reaches(length)) ? length : 0;
    this.ids.length = kept;
    for (const layer of this.layers) {
      if (kept === 0) layer.first = 0;
      layer.count = Math.max(0, kept - layer.first);
    }
  }

  /** @returns {Cache} an independent copy, which shares what does not change: the source */
  copy() {
    const copy = new Cache([]);
    copy.ids = [...this.ids];
    copy.layers = this.layers.map((layer) => layer.copy());
    copy.source = this.source;
    copy.sourceLayers = this.sourceLayers;
    return copy;
  }
}
