/**
 * Decoders turn tokens back into text: they undo spellings of a vocabulary, such as "Ġ" or "▁" for " ".
 *
 * A decoder is described by JSON of the library `tokenizers`, for instance {"type": "ByteLevel"}. Each maps a
 * list of strings to a list of strings; the text is what the last one returns, joined.
 */

import { bytesOf, fromByteCharacters, textOf, validTextOf } from "#see/tokenization/byte_level.js";
import { replaceAll } from "#see/tokenization/normalizers.js";

/** @type {Record<string, (tokens: string[], config: object) => string[]>} */
const DECODERS = {
  ByteLevel: (tokens) => [textOf(tokens.flatMap((token) => fromByteCharacters(token) ?? bytesOf(token)))],
  ByteFallback: byteFallback,
  BPEDecoder: (tokens, config) =>
    tokens.map((token, index) => token.replaceAll(config.suffix, index === tokens.length - 1 ? "" : " ")),
  Fuse: (tokens) => [tokens.join("")],
  Metaspace: (tokens, config) =>
    tokens.map((token, index) => {
      const isPrepended = index === 0 && config.prepend_scheme !== "never";
      return token.replaceAll(config.replacement, isPrepended ? "" : " ");
    }),
  Replace: (tokens, config) => tokens.map((token) => replaceAll(token, config.pattern, config.content)),
  Strip: (tokens, config) => tokens.map((token) => strip(token, config)),
  WordPiece: (tokens, config) => tokens.map((token, index) => joinWordPiece(token, index, config)),
};

/**
 * Decode the spellings of tokens.
 * @param {string[]} tokens
 * @param {object | null} config - JSON of a decoder; null for none, which joins the tokens with spaces.
 * @returns {string}
 */
export function decodeTokens(tokens, config) {
  return config === null ? tokens.join(" ") : apply(tokens, config).join("");
}

function apply(tokens, config) {
  if (config.type === "Sequence") return config.decoders.reduce(apply, tokens);
  return DECODERS[config.type](tokens, config);
}

/** "<0xC3>" "<0xA9>" become "é"; bytes that are no valid UTF-8 become one U+FFFD each. */
function byteFallback(tokens) {
  const decoded = [];
  let bytes = [];
  const flush = () => {
    const text = validTextOf(bytes);
    if (text === null) decoded.push(...bytes.map(() => "\ufffd"));
    else if (bytes.length > 0) decoded.push(text);
    bytes = [];
  };
  for (const token of tokens) {
    const byte = byteOfToken(token);
    if (byte !== null) {
      bytes.push(byte);
      continue;
    }
    flush();
    decoded.push(token);
  }
  flush();
  return decoded;
}

/**
 * The byte of a token such as "<0xC3>".
 * @param {string} token
 * @returns {number | null} null if the token stands for no byte.
 */
export function byteOfToken(token) {
  const digits = /^<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>$/.exec(token);
  return digits === null ? null : parseInt(digits[1], 16);
}

/** Remove up to `start` and `stop` times a character from the two ends. */
function strip(token, { content, start, stop }) {
  const characters = Array.from(token);
  let from = 0;
  let to = characters.length;
  while (from < Math.min(start, to) && characters[from] === content) from++;
  while (to > from && characters.length - to < stop && characters[to - 1] === content) to--;
  return characters.slice(from, to).join("");
}

/** "##ing" continues the word before it; other tokens start a word. */
function joinWordPiece(token, index, { prefix, cleanup }) {
  const isContinued = index > 0 && token.startsWith(prefix);
  const text = isContinued ? token.slice(prefix.length) : (index > 0 ? " " : "") + token;
  return cleanup ? cleanUpWordPiece(text) : text;
}

const PUNCTUATION = [
  [" .", "."],
  [" ?", "?"],
  [" !", "!"],
  [" ,", ","],
];
const CONTRACTIONS = [
  [" 's", "'s"],
  [" 've", "'ve"],
  [" 're", "'re"],
];
const QUOTES = [
  [" ' ", "'"],
  [" n't", "n't"],
  [" 'm", "'m"],
];
const replaceEach = (text, replacements) =>
  replacements.reduce((cleaned, [from, to]) => cleaned.replaceAll(from, to), text);

/** What the WordPiece decoder of `tokenizers` removes in each token. */
function cleanUpWordPiece(text) {
  return replaceEach(text, [...PUNCTUATION, ...QUOTES, [" do not", " don't"], ...CONTRACTIONS]);
}

/**
 * Remove spaces before punctuation and English contractions, as transformers does for tokenizers with the
 * setting `clean_up_tokenization_spaces`.
 * @param {string} text
 * @returns {string}
 */
export function cleanUp(text) {
  return replaceEach(text, [...PUNCTUATION, ...QUOTES, ...CONTRACTIONS]);
}
