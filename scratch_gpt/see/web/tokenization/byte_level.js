/**
 * Byte-level tokens: any text is a sequence of bytes (its UTF-8 encoding), so that a vocabulary that starts
 * from the 256 bytes has no unknown characters. GPT-2 introduced them (Radford et al. 2019, "Language Models
 * are Unsupervised Multitask Learners", section 2.2).
 *
 * Vocabularies are files of text, in which a byte such as 0x20 (space) or 0x0A (new line) would be hard to
 * read. So GPT-2 writes each byte as one printable character: those that are printable in Latin-1 as
 * themselves, the other 68 as the characters from U+0100 on. A space is written Ġ, a new line Ċ, and "é",
 * which is the bytes C3 A9, is written Ã©.
 */

const utf8 = new TextEncoder();

/** Whether Latin-1 has a visible character for the byte. The soft hyphen 0xAD is not visible. */
const isPrintable = (byte) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);

/** The character that stands for each byte. @type {string[]} */
export const CHARACTER_OF_BYTE = [];
/** The byte that each of these characters stands for. @type {Map<string, number>} */
export const BYTE_OF_CHARACTER = new Map();

let replacement = 0x100;
for (let byte = 0; byte < 256; byte++) {
  const character = String.fromCodePoint(isPrintable(byte) ? byte : replacement++);
  CHARACTER_OF_BYTE.push(character);
  BYTE_OF_CHARACTER.set(character, byte);
}

/**
 * A byte in hexadecimal: "0A".
 * @param {number} byte
 * @returns {string}
 */
export function hexadecimal(byte) {
  return byte.toString(16).toUpperCase().padStart(2, "0");
}

/**
 * Write each byte of a text as one character: " é" becomes "ĠÃ©".
 * @param {string} text
 * @returns {string}
 */
export function toByteCharacters(text) {
  let characters = "";
  for (const byte of utf8.encode(text)) characters += CHARACTER_OF_BYTE[byte];
  return characters;
}

/**
 * The bytes that a token stands for: "ĠÃ©" is 20 C3 A9.
 * @param {string} token
 * @returns {number[] | null} null if the token has a character that stands for no byte.
 */
export function fromByteCharacters(token) {
  const bytes = [];
  for (const character of token) {
    const byte = BYTE_OF_CHARACTER.get(character);
    if (byte === undefined) return null;
    bytes.push(byte);
  }
  return bytes;
}

/**
 * The UTF-8 bytes of a text.
 * @param {string} text
 * @returns {number[]}
 */
export function bytesOf(text) {
  return Array.from(utf8.encode(text));
}

/**
 * The text that bytes encode in UTF-8, with U+FFFD where they are not valid.
 * @param {number[] | Uint8Array} bytes
 * @returns {string}
 */
export function textOf(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes));
}

/**
 * The text that bytes encode in UTF-8; null if they are not valid.
 * @param {number[]} bytes
 * @returns {string | null}
 */
export function validTextOf(bytes) {
  try {
    return new TextDecoder("utf-8", { ignoreBOM: true, fatal: true }).decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}
