/**
 * A tokenizer turns text into the numbers that a model computes with, and numbers back into text. Encoding
 * has five steps, each in a file of this folder:
 *
 *     "Hi <mask> there."
 *     added tokens    "Hi", <mask>, "there."          added_tokens.js: special tokens that stand in the text
 *     normalizer      "hi", <mask>, "there."          normalizers.js: one form of what has several
 *     pre-tokenizer   "hi", <mask>, "there", "."      pre_tokenizers.js: no token extends over two words
 *     model           [23], [4], [87, 12], [9]        byte_pair_encoding.js, unigram.js, words.js
 *     special tokens  [1, 23, 4, 87, 12, 9, 2]        those before and after a text, such as <bos>
 *
 * The ids are those of the library `tokenizers`, whose description of a tokenizer (tokenizer.json) this
 * reads.
 */

import { AddedTokenFinder } from "#see/tokenization/added_tokens.js";
import { bytesOf, fromByteCharacters, hexadecimal, validTextOf } from "#see/tokenization/byte_level.js";
import { BytePairEncoding } from "#see/tokenization/byte_pair_encoding.js";
import { byteOfToken, cleanUp, decodeTokens } from "#see/tokenization/decoders.js";
import { buildNormalizer } from "#see/tokenization/normalizers.js";
import { preTokenize } from "#see/tokenization/pre_tokenizers.js";
import { Unigram } from "#see/tokenization/unigram.js";
import { WordLevel, WordPiece } from "#see/tokenization/words.js";

const MODELS = { BPE: BytePairEncoding, Unigram, WordLevel, WordPiece };

export class Tokenizer {
  /**
   * @param {object} payload - tokenizer.json as `tokenizer_payload` of `scratch_gpt/see/tokenizers.py`
   *   prepares it.
   */
  constructor(payload) {
    this.payload = payload;
    this.model = new MODELS[payload.model.type](payload.model);
    this.normalize = buildNormalizer(payload.normalizer);
    const searched = payload.added.filter((token) => !(payload.split_special_tokens && token.special));
    this.added = new Map(payload.added.map((token) => [token.id, token]));
    this.specialNames = new Set(payload.added.filter((token) => token.special).map((token) => token.content));
    this.exactFinder = new AddedTokenFinder(
      searched.filter((token) => !token.normalized),
      (token) => token.content,
    );
    this.normalizedFinder = new AddedTokenFinder(
      searched.filter((token) => token.normalized),
      (token) => this.normalize(token.content),
    );
    this.spelling = spellingOf(payload);
  }

  /**
   * Token ids of a text. (A surrogate without its partner, which is no character, is U+FFFD.)
   * @param {string} text
   * @param {object} [options]
   * @param {boolean} [options.addSpecialTokens] - whether to add the tokens before and after a text, such as
   *   `<bos>`.
   * @returns {number[]}
   */
  encode(text, { addSpecialTokens = true } = {}) {
    const pieces = preTokenize(this.findAddedTokens(text.toWellFormed()), this.payload.pre_tokenizer);
    const ids = pieces.flatMap((piece) => (piece.id !== null ? [piece.id] : this.model.encode(piece.text)));
    const { before, after } = this.payload.post;
    return addSpecialTokens ? [...before, ...ids, ...after] : ids;
  }

  /** Normalize a text and split it at the added tokens in it, which are searched for before or after it. */
  findAddedTokens(text) {
    return this.exactFinder.split(text).flatMap((part) => {
      if (part.id !== null) return [{ text: part.text, id: part.id, isFirst: part.start === 0 }];
      return this.normalizedFinder
        .split(this.normalize(part.text))
        .filter((piece) => piece.text !== "")
        .map((piece) => ({ text: piece.text, id: piece.id, isFirst: part.start === 0 && piece.start === 0 }));
    });
  }

  /**
   * The text of token ids.
   * @param {number[]} ids
   * @param {object} [options]
   * @param {boolean} [options.skipSpecialTokens] - whether to leave out special tokens.
   * @returns {string}
   */
  decode(ids, { skipSpecialTokens = true } = {}) {
    const tokens = ids
      .map((id) => this.added.get(id)?.decoded ?? this.token(id))
      .filter((token) => token !== undefined && !(skipSpecialTokens && this.specialNames.has(token)));
    const text = decodeTokens(tokens, this.payload.decoder);
    return this.payload.clean_up ? cleanUp(text) : text;
  }

  /** Number of ids: the largest id of a token, plus 1. @type {number} */
  get size() {
    return Math.max(this.payload.model.vocab.length, ...Array.from(this.added.keys(), (id) => id + 1));
  }

  /**
   * A token as it stands in the vocabulary: "Ġthe", "▁the", "##ing".
   * @param {number} id
   * @returns {string | undefined} undefined if there is none with this id.
   */
  token(id) {
    return this.added.get(id)?.content ?? this.payload.model.vocab[id] ?? undefined;
  }

  /**
   * Whether a token is special, such as `<bos>`: it stands for no text, and decoding leaves it out.
   * @param {number} id
   * @returns {boolean}
   */
  isSpecial(id) {
    return this.specialNames.has(this.token(id));
  }

  /**
   * A token to show to a reader: the text that it stands for, with "\xE2" for a byte that is only a part of a
   * character.
   * @param {number} id
   * @returns {string}
   */
  tokenText(id) {
    const token = this.token(id);
    if (token === undefined) return "";
    const bytes = this.bytes(id);
    if (bytes === null || this.payload.model.prefix || this.payload.model.suffix) return token;
    return validTextOf(bytes) ?? bytes.map((byte) => `\\x${hexadecimal(byte)}`).join("");
  }

  /**
   * The UTF-8 bytes of the text that a token stands for.
   * @param {number} id
   * @returns {number[] | null} null for a special token, or if there is none with this id.
   */
  bytes(id) {
    const token = this.token(id);
    if (token === undefined || this.isSpecial(id)) return null;
    if (this.added.has(id)) return bytesOf(token);
    if (this.spelling === "bytes") return fromByteCharacters(token) ?? bytesOf(token);
    const { prefix, suffix } = this.payload.model;
    const start = prefix && token.startsWith(prefix) ? prefix.length : 0;
    const isLast = suffix && token.endsWith(suffix);
    if (start > 0 || isLast) return bytesOf(token.slice(start, isLast ? -suffix.length : undefined));
    const byte = this.payload.model.byte_fallback ? byteOfToken(token) : null;
    if (byte !== null) return [byte];
    return bytesOf(this.spelling === "marks" ? token.replaceAll("▁", " ") : token);
  }
}

/**
 * A tokenizer of its description.
 * @param {object} payload - as for `Tokenizer`.
 * @returns {Tokenizer}
 */
export function loadTokenizer(payload) {
  return new Tokenizer(payload);
}

/** How tokens spell a text: byte-level, with "▁" for a space, or as it is. */
function spellingOf(payload) {
  const steps = JSON.stringify([payload.normalizer, payload.pre_tokenizer, payload.decoder]);
  if (steps.includes('"type":"ByteLevel"')) return "bytes";
  return steps.includes("▁") ? "marks" : "text";
}
