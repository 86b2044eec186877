/**
 * Byte-pair encoding (BPE): Sennrich, Haddow, Birch 2016, "Neural Machine Translation of Rare Words with
 * Subword Units", arXiv:1508.07909.
 *
 * Training starts from single characters, and again and again joins the pair of neighbours that is most
 * frequent in the texts into a new token. The list of these merges is the tokenizer; the number of a merge in
 * it is its rank. Encoding a word repeats them: of all neighbours, those whose merge has the lowest rank are
 * joined, until no neighbours have a merge.
 *
 *     l o w e r      merges: l+o (rank 0), lo+w (rank 1), e+r (rank 2)
 *     lo w e r
 *     low e r
 *     low er
 *
 * Looking at all pairs again after each merge takes time that grows with the square of a word's length. Here,
 * a heap holds the merges that are possible, lowest rank first, and a list links each token to its
 * neighbours, so that a word of n characters takes n log n steps.
 */

import { bytesOf, hexadecimal } from "#see/tokenization/byte_level.js";
import { MinHeap } from "#see/tokenization/heap.js";

const CACHED_WORDS = 20000;
const LONGEST_CACHED_WORD = 200;

export class BytePairEncoding {
  /**
   * @param {object} model
   * @param {(string | null)[]} model.vocab - tokens by id (V).
   * @param {[number, number][]} model.merges - ids of the two tokens that each merge joins, by rank.
   * @param {number | null} model.unk_id - token of a character that is not in the vocabulary; null to leave
   *   it out.
   * @param {boolean} model.fuse_unk - whether unknown characters side by side are one token.
   * @param {boolean} model.byte_fallback - whether unknown characters are the tokens of their bytes, such as
   *   "<0xC3>".
   * @param {boolean} model.ignore_merges - whether a word that is a token is never split (Llama 3).
   * @param {string} model.prefix - what the tokens inside a word start with; "" in most tokenizers.
   * @param {string} model.suffix - what the last token of a word ends with; "" in most tokenizers.
   */
  constructor(model) {
    this.model = model;
    this.vocabularySize = model.vocab.length;
    this.ids = new Map();
    model.vocab.forEach((token, id) => token !== null && this.ids.set(token, id));
    this.ranks = new Map(); // rank of a merge by pairKey
    this.merged = []; // id of the new token by rank
    model.merges.forEach(([left, right], rank) => {
      this.ranks.set(this.pairKey(left, right), rank);
      this.merged.push(this.ids.get(model.vocab[left] + model.vocab[right].slice(model.prefix.length)));
    });
    this.cache = new Map();
  }

  /** One number for a pair of tokens. */
  pairKey(left, right) {
    return left * this.vocabularySize + right;
  }

  /**
   * Token ids of one word, as the pre-tokenizer splits it off.
   * @param {string} word
   * @returns {number[]}
   */
  encode(word) {
    const known = this.cache.get(word);
    if (known !== undefined) return known;
    const whole = this.model.ignore_merges ? this.ids.get(word) : undefined;
    const ids = whole !== undefined ? [whole] : this.merge(this.characterIds(word));
    if (word.length <= LONGEST_CACHED_WORD && this.cache.size < CACHED_WORDS) this.cache.set(word, ids);
    return ids;
  }

  /**
   * Token ids of the characters of a word, before any merge.
   * @param {string} word
   * @returns {number[]}
   */
  characterIds(word) {
    const { prefix, suffix, unk_id: unknownId, fuse_unk: fuseUnknown } = this.model;
    const characters = Array.from(word);
    const ids = [];
    let unknownPending = false; // an unknown character is written once the next known one ends its run
    characters.forEach((character, index) => {
      const isLast = index === characters.length - 1;
      const symbol = (index > 0 ? prefix : "") + character + (isLast ? suffix : "");
      const id = this.ids.get(symbol);
      if (id !== undefined) {
        if (unknownPending) ids.push(unknownId);
        unknownPending = false;
        ids.push(id);
        return;
      }
      const byteIds = this.byteIds(symbol);
      if (byteIds !== null) {
        ids.push(...byteIds);
      } else if (unknownId !== null) {
        if (unknownPending && !fuseUnknown) ids.push(unknownId);
        unknownPending = true;
      }
    });
    if (unknownPending) ids.push(unknownId);
    return ids;
  }

  /** Ids of the bytes of a symbol; null without byte fallback, or if a byte has no token. */
  byteIds(symbol) {
    return this.model.byte_fallback ? idsOfBytes(symbol, this.ids) : null;
  }

  /**
   * Join neighbours until none have a merge, lowest rank first, from left to right among equal ranks.
   * @param {number[]} symbols - token ids of the characters (N).
   * @returns {number[]} token ids (at most N).
   */
  merge(symbols) {
    const length = symbols.length;
    const ids = Float64Array.from(symbols); // id of the token that starts here; -1 once it is part of another
    const previous = Int32Array.from(symbols, (_, index) => index - 1);
    const next = Int32Array.from(symbols, (_, index) => index + 1);
    const heap = new MinHeap(); // rank * length + position, so that the lowest number is the next merge
    const offer = (position) => {
      if (position < 0 || next[position] >= length) return;
      const rank = this.ranks.get(this.pairKey(ids[position], ids[next[position]]));
      if (rank !== undefined) heap.push(rank * length + position);
    };
    for (let position = 0; position < length; position++) offer(position);
    while (heap.size > 0) {
      const lowest = heap.pop();
      const position = lowest % length;
      const rank = (lowest - position) / length;
      const right = next[position];
      // Another merge may have taken one of the two in the meantime.
      if (ids[position] < 0 || right >= length) continue;
      if (this.ranks.get(this.pairKey(ids[position], ids[right])) !== rank) continue;
      ids[position] = this.merged[rank];
      ids[right] = -1;
      next[position] = next[right];
      if (next[position] < length) previous[next[position]] = position;
      offer(previous[position]);
      offer(position);
    }
    return Array.from(ids).filter((id) => id >= 0);
  }
}

/**
 * Ids of the tokens of a text's bytes, such as "<0xC3>" and "<0xA9>" for "é".
 * @param {string} text
 * @param {Map<string, number>} ids - id of each token.
 * @returns {number[] | null} null if a byte has no token.
 */
export function idsOfBytes(text, ids) {
  const byteIds = bytesOf(text).map((byte) => ids.get(`<0x${hexadecimal(byte)}>`));
  return byteIds.includes(undefined) ? null : byteIds;
}
