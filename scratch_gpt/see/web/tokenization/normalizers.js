/**
 * Normalizers change a text before it is split: they bring characters that can be written in several ways to
 * one form, such as "é", which is one character or "e" and a combining accent (Unicode Standard Annex #15),
 * or remove differences that a model should not see, such as upper case.
 *
 * A normalizer is described by JSON of the library `tokenizers`, for instance {"type": "NFC"}; `Sequence`
 * holds several.
 */

import { toByteCharacters } from "#see/tokenization/byte_level.js";
import { matchesOf } from "#see/tokenization/patterns.js";
import { Precompiled } from "#see/tokenization/precompiled.js";
import {
  endOfSpaceAfter,
  IS_CHINESE,
  IS_CONTROL,
  IS_MARK,
  IS_NONSPACING_MARK,
  startOfSpaceBefore,
} from "#see/tokenization/characters.js";
import { NEWER_COMPATIBLE, NEWER_DECOMPOSED } from "#see/tokenization/newer_characters.js";

/** Control characters that `Nmt` removes, and characters that it replaces by a space. */
const NMT_REMOVED = /[\u0001-\u0008\u000b\u000e-\u001f\u007f\u008f\u009f]/gu;
const NMT_SPACES = /[\t\n\f\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]/gu;
const WHITE_SPACE = /\p{White_Space}/gu;

/** A normal form in which newer characters are left as they are. */
function normalForm(form, newer) {
  const separator = new RegExp(`([${newer}])`, "u");
  const normalizePart = (part, index) => (index % 2 === 0 ? part.normalize(form) : part);
  return (text) => text.split(separator).map(normalizePart).join("");
}

const toNFD = normalForm("NFD", NEWER_DECOMPOSED);
const toNFKC = normalForm("NFKC", NEWER_COMPATIBLE);
const toNFKD = normalForm("NFKD", NEWER_COMPATIBLE + NEWER_DECOMPOSED);

/** @type {Record<string, (config: object) => (text: string) => string>} */
const BUILDERS = {
  NFC: () => (text) => text.normalize("NFC"),
  NFD: () => toNFD,
  NFKC: () => toNFKC,
  NFKD: () => toNFKD,
  Lowercase: () => lowercase,
  StripAccents: () => (text) => text.replace(IS_MARK, ""),
  Strip: (config) => (text) => strip(text, config.strip_left, config.strip_right),
  Nmt: () => (text) => text.replace(NMT_REMOVED, "").replace(NMT_SPACES, " "),
  Prepend: (config) => (text) => (text === "" ? "" : config.prepend + text),
  Replace: (config) => (text) => replaceAll(text, config.pattern, config.content),
  ByteLevel: () => toByteCharacters,
  BertNormalizer: (config) => (text) => bertNormalize(text, config),
  Precompiled: (config) => {
    const precompiled = new Precompiled(config.precompiled_charsmap);
    return (text) => precompiled.normalize(text);
  },
  Sequence: (config) => {
    const normalizers = config.normalizers.map(buildNormalizer);
    return (text) => normalizers.reduce((normalized, normalize) => normalize(normalized), text);
  },
};

/**
 * The function that a normalizer is.
 * @param {object | null} config - JSON of a normalizer; null for none.
 * @returns {(text: string) => string}
 */
export function buildNormalizer(config) {
  return config === null ? (text) => text : BUILDERS[config.type](config);
}

/** Each character by itself: "Σ" becomes "σ" also at the end of a word. */
function lowercase(text) {
  return Array.from(text, (character) => character.toLowerCase()).join("");
}

function strip(text, left, right) {
  const start = left ? endOfSpaceAfter(text, 0) : 0;
  const end = right ? startOfSpaceBefore(text, text.length) : text.length;
  return text.slice(start, Math.max(start, end));
}

/**
 * Replace each match of a pattern.
 * @param {string} text
 * @param {object} pattern - {"String": …} or {"Regex": …, "JavaScript": …}.
 * @param {string} content - what to write instead.
 * @returns {string}
 */
export function replaceAll(text, pattern, content) {
  return matchesOf(text, pattern)
    .map((part) => (part.isMatch ? content : text.slice(part.start, part.end)))
    .join("");
}

/**
 * BERT's: removes control characters, sets spaces around Chinese characters, removes accents and upper case.
 */
function bertNormalize(text, config) {
  if (config.clean_text) text = text.replace(IS_CONTROL, "").replace(WHITE_SPACE, " ");
  if (config.handle_chinese_chars) text = text.replace(IS_CHINESE, " $& ");
  if (config.strip_accents ?? config.lowercase) text = toNFD(text).replace(IS_NONSPACING_MARK, "");
  return config.lowercase ? lowercase(text) : text;
}
