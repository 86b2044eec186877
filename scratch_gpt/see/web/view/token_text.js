/** How tokens are written on the page: white space and incomplete characters become visible. */

const VISIBLE = new Map([
  [" ", "␣"],
  ["\n", "⏎"],
  ["\r", "␍"],
  ["\t", "⇥"],
]);
const UNSEEN = /[\s\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}\p{Cn}]/gu;

/**
 * The text of a token, with signs for what can't be seen: `␣` for a space, `U+200B` for a zero-width space,
 * and `\xE2` for a byte of an incomplete character.
 *
 * @param {object} tokenizer - of the engine
 * @param {number} id
 * @returns {string}
 */
export function visibleToken(tokenizer, id) {
  const spelling = tokenizer.token(id);
  if (spelling === undefined) return `unused ${id}`; // a row of the embedding that no token has
  const bytes = tokenizer.bytes(id);
  if (bytes === null) return visible(spelling); // a special token
  if (bytes.length === 0) return "∅";
  const text = decodeUtf8(bytes);
  return text === null ? Array.from(bytes, (byte) => `\\x${hexadecimal([byte])}`).join("") : visible(text);
}

/**
 * A text with signs for what can't be seen.
 *
 * @param {string} text
 * @returns {string}
 */
export function visible(text) {
  return text.replace(UNSEEN, (sign) => VISIBLE.get(sign) ?? `U+${codePoint(sign)}`);
}

/**
 * Bytes in hexadecimal, such as `E2 82 AC`.
 *
 * @param {ArrayLike<number>} bytes
 * @returns {string}
 */
export function hexadecimal(bytes) {
  return Array.from(bytes)
    .map((byte) => byte.toString(16).toUpperCase().padStart(2, "0"))
    .join(" ");
}

/**
 * The text of UTF-8 bytes; null if they are not valid, as those of a part of a character.
 *
 * @param {ArrayLike<number>} bytes
 * @returns {string | null}
 */
export function decodeUtf8(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
  } catch {
    return null;
  }
}

function codePoint(sign) {
  return sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
}
