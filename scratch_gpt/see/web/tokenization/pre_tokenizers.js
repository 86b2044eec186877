/**
 * Pre-tokenizers split a text into pieces, mostly words; no token extends over two of them. Without them, a
 * frequent word and the full stop after it would become a token of their own.
 *
 * A pre-tokenizer is described by JSON of the library `tokenizers`, for instance {"type": "Whitespace"}.
 *
 * @typedef {{text: string, id: number | null, isFirst: boolean}} Piece a piece of the text: `id` is that of
 *   an added token, which is not split; `isFirst` says whether the piece starts where the text starts.
 */

import { toByteCharacters } from "#see/tokenization/byte_level.js";
import { IS_PUNCTUATION, WORD_OR_SYMBOLS } from "#see/tokenization/characters.js";
import { split } from "#see/tokenization/patterns.js";

/**
 * GPT-2's words: an English contraction, letters, digits or other characters with the space before them,
 * white space. Of several spaces before a word, the last is the word's: `\s+(?!\S)` takes all but one.
 * (JavaScript's own `\s` lacks the character U+0085 and has U+FEFF.)
 */
export const GPT2_WORDS = new RegExp(
  "'s|'t|'re|'ve|'m|'ll|'d" +
    String.raw`| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+` +
    String.raw`|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+`,
  "gu",
);
const WHITE_SPACE = /\p{White_Space}/gu;
const NUMERIC = /\p{N}/gu;

/** @type {Record<string, (piece: Piece, config: object) => {text: string, start: number}[]>} */
const SPLITTERS = {
  ByteLevel: byteLevel,
  Metaspace: metaspace,
  Split: (piece, config) => split(piece.text, config.pattern, config.behavior, config.invert),
  Whitespace: (piece) => split(piece.text, WORD_OR_SYMBOLS, "Removed", true),
  WhitespaceSplit: (piece) => split(piece.text, WHITE_SPACE, "Removed"),
  BertPreTokenizer: bert,
  Digits: (piece, config) => split(piece.text, NUMERIC, config.individual_digits ? "Isolated" : "Contiguous"),
  Punctuation: (piece, config) => split(piece.text, IS_PUNCTUATION, config.behavior),
  CharDelimiterSplit: (piece, config) => split(piece.text, { String: config.delimiter }, "Removed"),
  FixedLength: (piece, config) => fixedLength(piece.text, config.length),
};

/**
 * Split pieces further.
 * @param {Piece[]} pieces
 * @param {object | null} config - JSON of a pre-tokenizer; null for none.
 * @returns {Piece[]}
 */
export function preTokenize(pieces, config) {
  if (config === null) return pieces;
  if (config.type === "Sequence") return config.pretokenizers.reduce(preTokenize, pieces);
  return pieces.flatMap((piece) => {
    if (piece.id !== null) return [piece];
    return SPLITTERS[config.type](piece, config).map((part) => ({
      text: part.text,
      id: null,
      isFirst: piece.isFirst && part.start === 0,
    }));
  });
}

/** The bytes of each word as characters, see `byte_level.js`. */
function byteLevel(piece, config) {
  const text = config.add_prefix_space && !piece.text.startsWith(" ") ? ` ${piece.text}` : piece.text;
  const words = config.use_regex ? split(text, GPT2_WORDS, "Isolated") : [{ text, start: 0 }];
  return words.map((word) => ({ text: toByteCharacters(word.text), start: word.start }));
}

/** SentencePiece's words: a space is the character "▁", which belongs to the word after it. */
function metaspace(piece, config) {
  const mark = config.replacement;
  let text = piece.text.replaceAll(" ", mark);
  const scheme = config.prepend_scheme;
  const isPrepended = scheme === "always" || (scheme === "first" && piece.isFirst);
  if (isPrepended && !text.startsWith(mark)) text = mark + text;
  return config.split ? split(text, { String: mark }, "MergedWithNext") : [{ text, start: 0 }];
}

/** BERT's words: white space separates them, and each punctuation mark is one. */
function bert(piece) {
  return split(piece.text, WHITE_SPACE, "Removed").flatMap(({ text, start }) =>
    split(text, IS_PUNCTUATION, "Isolated").map((part) => ({ text: part.text, start: start + part.start })),
  );
}

/** Pieces of a number of characters. */
function fixedLength(text, length) {
  const characters = Array.from(text);
  const pieces = [];
  for (let start = 0; start < characters.length; start += length) {
    pieces.push({ text: characters.slice(start, start + length).join(""), start });
  }
  return pieces;
}
