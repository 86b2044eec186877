/**
 * Kinds of characters, by the properties of the Unicode Standard; without those that are newer than the
 * version that the library `tokenizers` knows.
 */

import {
  FORMER_MARKS,
  FORMER_NONSPACING_MARKS,
  FORMER_PUNCTUATION,
  NEWER_FORMATS,
  NEWER_MARKS,
  NEWER_NONSPACING_MARKS,
  NEWER_PUNCTUATION,
} from "#see/tokenization/newer_characters.js";

/** Characters of a set, without newer ones and with former ones. */
function asOf(characters, newer, former) {
  return new RegExp(`${characters.source}(?<![${newer}])|[${former}]`, "gu");
}

/** Control, format and private-use characters, except those that BERT takes for white space. */
export const IS_CONTROL = asOf(/(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]/u, NEWER_FORMATS, "\ufffd");
/** Marks, such as accents, that combine with the character before them. */
export const IS_MARK = asOf(/\p{M}/u, NEWER_MARKS, FORMER_MARKS);
export const IS_NONSPACING_MARK = asOf(/\p{Mn}/u, NEWER_NONSPACING_MARKS, FORMER_NONSPACING_MARKS);
/** Punctuation, and the visible characters of ASCII that are neither letters nor digits. */
export const IS_PUNCTUATION = asOf(/[!-/:-@[-`{-~\p{P}]/u, NEWER_PUNCTUATION, FORMER_PUNCTUATION);
/** Blocks of Chinese characters, without those of Japanese syllables and Korean. */
export const IS_CHINESE = new RegExp(
  String.raw`[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}` +
    String.raw`\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]`,
  "gu",
);

const IS_SPACE = /^\p{White_Space}$/u;

/**
 * Where the white space at the end of a part of a text starts.
 * @param {string} text
 * @param {number} end - of the part.
 * @returns {number}
 */
export function startOfSpaceBefore(text, end) {
  while (end > 0 && IS_SPACE.test(text[end - 1])) end--;
  return end;
}

/**
 * Where the white space at the start of a part of a text ends.
 * @param {string} text
 * @param {number} start - of the part.
 * @returns {number}
 */
export function endOfSpaceAfter(text, start) {
  while (start < text.length && IS_SPACE.test(text[start])) start++;
  return start;
}

const WORD_PROPERTIES = String.raw`\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}`;
/** A character of words in regular expressions: a letter, mark, digit, or a connector such as "_". */
export const WORD_CHARACTER = `[${WORD_PROPERTIES}]`;
/** A word, or other characters up to white space. */
export const WORD_OR_SYMBOLS = new RegExp(`${WORD_CHARACTER}+|[^${WORD_PROPERTIES}\\p{White_Space}]+`, "gu");
