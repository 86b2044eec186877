/**
 * Unigram language model: Kudo 2018, "Subword Regularization: Improving Neural Network Translation Models
 * with Multiple Subword Candidates", arXiv:1804.10959.
 *
 * Each token has a score, the logarithm of its probability. A text can be split into tokens in many ways; the
 * probability of one of them is the product of the probabilities of its tokens, so that its score is their
 * sum. Encoding finds the split with the highest score by the Viterbi algorithm: from left to right, it
 * computes for each position the best split of the text up to there, which extends the best split up to the
 * start of its last token.
 *
 *     l o w e r      scores: low -4, er -3, lower -9, l, o, w, e, r -6 each
 *     best score at the end: low er = -7, lower = -9, low e r = -16, ...
 */

import { idsOfBytes } from "#see/tokenization/byte_pair_encoding.js";

// An unknown character costs this much more than the least probable token, as in SentencePiece.
const UNKNOWN_PENALTY = 10;

/** Node of a trie: a token ends here if `id` is not null; `children` continue it by one UTF-16 code unit. */
class TrieNode {
  constructor() {
    this.id = null;
    this.children = new Map();
  }
}

export class Unigram {
  /**
   * @param {object} model
   * @param {string[]} model.vocab - tokens by id (V).
   * @param {number[]} model.scores - score of each token (V).
   * @param {number} model.unk_id - token of unknown characters.
   * @param {boolean} model.byte_fallback - whether unknown characters are the tokens of their bytes, such as
   *   "<0xC3>".
   */
  constructor(model) {
    this.model = model;
    this.ids = new Map();
    this.root = new TrieNode();
    model.vocab.forEach((token, id) => {
      this.ids.set(token, id);
      this.insert(token, id);
    });
    const lowest = model.scores.reduce((least, score) => Math.min(least, score), Infinity);
    this.unknownScore = lowest - UNKNOWN_PENALTY;
  }

  /** Add a token to the trie, in which all tokens that start at a position are found in one walk. */
  insert(token, id) {
    let node = this.root;
    for (let index = 0; index < token.length; index++) {
      const unit = token.charCodeAt(index);
      if (!node.children.has(unit)) node.children.set(unit, new TrieNode());
      node = node.children.get(unit);
    }
    node.id = id;
  }

  /**
   * Token ids of one word, as the pre-tokenizer splits it off.
   * @param {string} word
   * @returns {number[]}
   */
  encode(word) {
    return this.bestSplit(word).flatMap((token) => this.idsOf(token));
  }

  /** Ids of a token that may be unknown. */
  idsOf(token) {
    const id = this.ids.get(token);
    if (id !== undefined) return [id];
    const byteIds = this.model.byte_fallback ? idsOfBytes(token, this.ids) : null;
    return byteIds ?? [this.model.unk_id];
  }

  /**
   * The split of a text with the highest score.
   * @param {string} text
   * @returns {string[]} the tokens; unknown characters side by side are one.
   */
  bestSplit(text) {
    const length = text.length;
    const scores = new Float64Array(length + 1); // of the best split of text[0:end], by end
    const starts = new Int32Array(length + 1).fill(-1); // start of its last token; -1 if no split ends here
    const lastIds = new Int32Array(length + 1); // id of its last token
    const offer = (start, end, id, score) => {
      if (starts[end] >= 0 && score <= scores[end]) return;
      [scores[end], starts[end], lastIds[end]] = [score, start, id];
    };
    for (let start = 0; start < length;) {
      const characterEnd = start + (text.codePointAt(start) > 0xffff ? 2 : 1);
      let characterIsToken = false;
      let node = this.root;
      for (let end = start + 1; end <= length; end++) {
        node = node.children.get(text.charCodeAt(end - 1));
        if (node === undefined) break;
        if (node.id === null) continue;
        offer(start, end, node.id, this.model.scores[node.id] + scores[start]);
        characterIsToken ||= end === characterEnd;
      }
      if (!characterIsToken) offer(start, characterEnd, this.model.unk_id, this.unknownScore + scores[start]);
      start = characterEnd;
    }
    return this.readBack(text, starts, lastIds);
  }

  /** Follow the best split from the end of the text to its start. */
  readBack(text, starts, lastIds) {
    const tokens = [];
    let unknown = ""; // unknown characters that follow each other
    for (let end = text.length; end > 0; end = starts[end]) {
      const token = text.slice(starts[end], end);
      if (lastIds[end] === this.model.unk_id) {
        unknown = token + unknown;
        continue;
      }
      if (unknown) tokens.push(unknown);
      unknown = "";
      tokens.push(token);
    }
    if (unknown) tokens.push(unknown);
    return tokens.reverse();
  }
}
