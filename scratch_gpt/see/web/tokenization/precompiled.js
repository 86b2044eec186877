/**
 * The normalizer of SentencePiece models such as T5, mBART and XLM-R (Kudo and Richardson 2018,
 * arXiv:1808.06226): a table that says for thousands of short texts what to write instead, mostly those of
 * the normal form NFKC.
 *
 * The table is compiled to a double-array trie (Aoe 1989, "An Efficient Digital Search Algorithm by Using a
 * Double-Array Structure", IEEE Transactions on Software Engineering 15(9)), the format of the library
 * Darts-clone. A node is one 32-bit number: the byte that leads to it, whether a text ends at it, and where
 * its children are. The child by byte `b` is at `offset XOR b`, if the byte stored there is `b`.
 */

import { bytesOf, textOf } from "#see/tokenization/byte_level.js";

// A cluster of characters that is shown as one is looked up as a whole if it has fewer bytes than this.
const LONGEST_CLUSTER = 6;

const hasText = (node) => ((node >>> 8) & 1) === 1;
const byteOf = (node) => node & 0x800000ff;
const offsetOf = (node) => (node >>> 10) << ((node & 0x200) >>> 6);
const valueOf = (node) => node & 0x7fffffff;

export class Precompiled {
  /**
   * @param {string} charsmap - base64 of the size of the trie in bytes, its nodes, and the texts to write,
   *   each with a final zero.
   */
  constructor(charsmap) {
    const bytes = Uint8Array.from(atob(charsmap), (character) => character.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const trieSize = view.getUint32(0, true);
    const nodeAt = (_, index) => view.getUint32(4 + 4 * index, true);
    this.nodes = Uint32Array.from({ length: trieSize / 4 }, nodeAt);
    this.texts = bytes.subarray(4 + trieSize);
    this.segmenter = new Intl.Segmenter("en", { granularity: "grapheme" });
    this.cache = new Map();
  }

  /**
   * @param {string} text
   * @returns {string}
   */
  normalize(text) {
    return Array.from(this.segmenter.segment(text), ({ segment }) => this.normalizeCluster(segment)).join("");
  }

  normalizeCluster(cluster) {
    if (bytesOf(cluster).length < LONGEST_CLUSTER) {
      const replacement = this.lookUp(cluster);
      if (replacement !== null) return replacement;
    }
    return Array.from(cluster, (character) => this.lookUp(character) ?? character).join("");
  }

  /** What to write for the shortest start of a text that is in the table; null if none is. */
  lookUp(text) {
    if (!this.cache.has(text)) this.cache.set(text, this.search(bytesOf(text)));
    return this.cache.get(text);
  }

  search(bytes) {
    let position = offsetOf(this.nodes[0]);
    for (const byte of bytes) {
      if (byte === 0) break;
      position ^= byte;
      const node = this.nodes[position];
      if (byteOf(node) !== byte) return null;
      position ^= offsetOf(node);
      if (hasText(node)) return this.textAt(valueOf(this.nodes[position]));
    }
    return null;
  }

  textAt(start) {
    const end = this.texts.indexOf(0, start);
    return textOf(this.texts.subarray(start, end < 0 ? undefined : end));
  }
}
