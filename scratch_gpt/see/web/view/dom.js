/** Elements of the page. Texts become text nodes: nothing from a model is ever parsed as markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an HTML element.
 *
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes] - `style` is an object of CSS properties with their names in
 *   CSS, `onclick` and the like are functions; `null`, `undefined` and `false` omit an attribute, `true` sets
 *   it without a value
 * @param {...(Node | string | number | null | undefined | false)} children - strings and numbers become text
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/**
 * Create an SVG element; arguments as of `element`.
 *
 * @param {string} tag
 * @param {Record<string, unknown>} [attributes]
 * @param {...(Node | string | number | null | undefined | false)} children
 * @returns {SVGElement}
 */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

/**
 * Replace the children of a node.
 *
 * @param {Element} node
 * @param {...(Node | string | number | null | undefined | false)} children
 */
export function replaceChildren(node, ...children) {
  node.replaceChildren(...present(children));
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function" && name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") setStyle(node, value);
    else if (name.startsWith("on")) throw new Error(`${name} must be a function`);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...present(children));
  return node;
}

function setStyle(node, properties) {
  for (const [name, value] of Object.entries(properties)) node.style.setProperty(name, String(value));
}

function present(children) {
  return children
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : String(child)));
}
