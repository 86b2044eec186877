/**
 * Added tokens are found in the text itself, before it is split: special tokens such as "<bos>" or "[MASK]",
 * and others that were added to a trained vocabulary. Of several that start at a place, the longest is taken.
 *
 * @typedef {object} AddedToken
 * @property {number} id
 * @property {string} content - the text that is the token.
 * @property {boolean} special - whether decoding leaves it out, as `<bos>`.
 * @property {boolean} lstrip - whether white space before it is part of it.
 * @property {boolean} rstrip - whether white space after it is part of it.
 * @property {boolean} single_word - whether it is only found between characters that are not those of words.
 * @property {boolean} normalized - whether it is searched for in the normalized text.
 */

import { endOfSpaceAfter, startOfSpaceBefore, WORD_CHARACTER } from "#see/tokenization/characters.js";

const ENDS_WITH_WORD = new RegExp(`${WORD_CHARACTER}$`, "u");
const STARTS_WITH_WORD = new RegExp(`^${WORD_CHARACTER}`, "u");

const escaped = (text) => text.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&");

export class AddedTokenFinder {
  /**
   * @param {AddedToken[]} tokens - the tokens to find.
   * @param {(token: AddedToken) => string} patternOf - the text to search for.
   */
  constructor(tokens, patternOf) {
    this.tokens = new Map(tokens.map((token) => [patternOf(token), token]));
    const patterns = [...this.tokens.keys()].filter((pattern) => pattern !== "");
    patterns.sort((first, second) => second.length - first.length);
    this.expression = patterns.length > 0 ? new RegExp(patterns.map(escaped).join("|"), "gu") : null;
  }

  /**
   * Split a text at the tokens in it.
   * @param {string} text
   * @returns {{text: string, start: number, id: number | null}[]} the tokens with their ids, and what is
   *   between them.
   */
  split(text) {
    if (this.expression === null) return [{ text, start: 0, id: null }];
    const pieces = [];
    let covered = 0;
    const add = (start, end, id) => pieces.push({ text: text.slice(start, end), start, id });
    for (const match of text.matchAll(this.expression)) {
      const token = this.tokens.get(match[0]);
      let start = match.index;
      let end = start + match[0].length;
      if (token.single_word && !standsAlone(text, start, end)) continue;
      if (token.lstrip) start = Math.max(covered, startOfSpaceBefore(text, start));
      if (token.rstrip) end = endOfSpaceAfter(text, end);
      if (start > covered) add(covered, start, null);
      add(start, end, token.id);
      covered = end;
    }
    if (covered < text.length) add(covered, text.length, null);
    return pieces;
  }
}

/** Whether the characters before and after a part of a text are not those of words. */
function standsAlone(text, start, end) {
  return !ENDS_WITH_WORD.test(text.slice(0, start)) && !STARTS_WITH_WORD.test(text.slice(end));
}
