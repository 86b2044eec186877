/** Weights, which are stored in the page as base64. */

/**
 * @param {string} id - of the element
 * @returns {Uint8Array}
 */
export function storedBytes(id) {
  const text = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) bytes[at] = text.charCodeAt(at);
  return bytes;
}
