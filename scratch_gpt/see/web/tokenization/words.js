/**
 * Tokenizers whose pre-tokenizer has done the work, or most of it: one token for each word or character, and
 * WordPiece.
 *
 * WordPiece is BERT's (Schuster and Nakajima 2012, "Japanese and Korean Voice Search", ICASSP; Devlin et al.
 * 2019, arXiv:1810.04805). It splits a word into the longest token that it starts with, then the longest that
 * the rest starts with, and so on; tokens inside a word start with "##". If a rest starts with no token, the
 * whole word is unknown.
 *
 *     lower      tokens: low, lo, ##er, ##e, ##r
 *     low ##er
 */

/** One token for each piece of the text: a word or a character. */
export class WordLevel {
  /**
   * @param {object} model
   * @param {(string | null)[]} model.vocab - tokens by id (V).
   * @param {number} model.unk_id - token of a word that is not in the vocabulary.
   */
  constructor(model) {
    this.unknownId = model.unk_id;
    this.ids = new Map();
    model.vocab.forEach((token, id) => token !== null && this.ids.set(token, id));
  }

  /**
   * @param {string} word
   * @returns {number[]} one token id.
   */
  encode(word) {
    return [this.ids.get(word) ?? this.unknownId];
  }
}

export class WordPiece {
  /**
   * @param {object} model
   * @param {(string | null)[]} model.vocab - tokens by id (V).
   * @param {number} model.unk_id - token of a word that can't be split.
   * @param {string} model.prefix - what the tokens inside a word start with: "##".
   * @param {number} model.max_chars - a longer word is unknown.
   */
  constructor(model) {
    this.model = model;
    this.ids = new Map();
    model.vocab.forEach((token, id) => token !== null && this.ids.set(token, id));
  }

  /**
   * Token ids of one word.
   * @param {string} word
   * @returns {number[]}
   */
  encode(word) {
    const characters = Array.from(word);
    if (characters.length > this.model.max_chars) return [this.model.unk_id];
    const ids = [];
    for (let start = 0; start < characters.length;) {
      const [id, end] = this.longestToken(characters, start);
      if (id === undefined) return [this.model.unk_id];
      ids.push(id);
      start = end;
    }
    return ids;
  }

  /** The longest token that the characters from `start` on begin with, and where it ends. */
  longestToken(characters, start) {
    for (let end = characters.length; end > start; end--) {
      const id = this.ids.get((start > 0 ? this.model.prefix : "") + characters.slice(start, end).join(""));
      if (id !== undefined) return [id, end];
    }
    return [undefined, start];
  }
}
