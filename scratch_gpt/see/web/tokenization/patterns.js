/**
 * Patterns find the places at which a text is split: a string, or a regular expression.
 *
 * @typedef {{start: number, end: number, isMatch: boolean}} Part a part of a text, in UTF-16 code units.
 */

/** @type {Map<string, RegExp>} */
const compiled = new Map();

/** The regular expression of a pattern: {"String": …} or {"Regex": …, "JavaScript": its translation}. */
function regularExpression(pattern) {
  const source = pattern.JavaScript ?? pattern.String.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
  if (!compiled.has(source)) compiled.set(source, new RegExp(source, "gv"));
  return compiled.get(source);
}

/**
 * Cut a text into parts that match a pattern and the parts between them.
 * @param {string} text
 * @param {object | RegExp} pattern - a pattern of `tokenizers`, or a regular expression with the flag "g".
 * @returns {Part[]} parts that cover the text, in order.
 */
export function matchesOf(text, pattern) {
  const parts = [];
  let covered = 0; // end of the last match
  let hasMatch = false;
  const expression = pattern instanceof RegExp ? pattern : regularExpression(pattern);
  for (const match of text.matchAll(expression)) {
    const end = match.index + match[0].length;
    if (match[0] === "" && hasMatch && end === covered) continue; // empty, and right after a match
    if (match.index > covered) parts.push({ start: covered, end: match.index, isMatch: false });
    parts.push({ start: match.index, end, isMatch: true });
    covered = end;
    hasMatch = true;
  }
  if (covered < text.length) parts.push({ start: covered, end: text.length, isMatch: false });
  return parts;
}

/** What becomes of the matches: how parts are joined, by the behavior of a `Split`. */
const BEHAVIORS = {
  Isolated: (parts) => parts,
  Removed: (parts) => parts.filter((part) => !part.isMatch),
  Contiguous: (parts) => join(parts, (part, previousIsMatch) => part.isMatch === previousIsMatch),
  MergedWithPrevious: (parts) => join(parts, (part, previousIsMatch) => part.isMatch && !previousIsMatch),
  MergedWithNext: (parts) =>
    join([...parts].reverse(), (part, previousIsMatch) => part.isMatch && !previousIsMatch).reverse(),
};

/** Join each part to the one before it if `isJoined(part, whether the one before it is a match)`. */
function join(parts, isJoined) {
  const joined = [];
  let previousIsMatch = false;
  for (const part of parts) {
    const last = joined.at(-1);
    if (last !== undefined && isJoined(part, previousIsMatch)) {
      [last.start, last.end] = [Math.min(last.start, part.start), Math.max(last.end, part.end)];
    } else {
      joined.push({ ...part });
    }
    previousIsMatch = part.isMatch;
  }
  return joined;
}

/**
 * Split a text at the matches of a pattern.
 * @param {string} text
 * @param {object | RegExp} pattern - as for `matchesOf`.
 * @param {"Isolated" | "Removed" | "Contiguous" | "MergedWithPrevious" | "MergedWithNext"} behavior
 * @param {boolean} [invert] - whether the parts that do not match are the matches.
 * @returns {{text: string, start: number}[]} the pieces that are not empty, and where they start.
 */
export function split(text, pattern, behavior, invert = false) {
  const parts = matchesOf(text, pattern).map((part) => ({ ...part, isMatch: part.isMatch !== invert }));
  return BEHAVIORS[behavior](parts)
    .filter((part) => part.end > part.start)
    .map((part) => ({ text: text.slice(part.start, part.end), start: part.start }));
}
