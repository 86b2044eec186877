/**
 * Geometry and statistics of attention weights, without a document: what attention.js and translate.js draw.
 *
 * Dimension letters: H heads, T queries, S keys.
 */

export const MIN_WEIGHT = 0.02; // smaller weights are not drawn; at most 50 of a row are larger
const STEPS = 10; // shades of a matrix

/**
 * The weights of one head.
 *
 * @param {Float32Array} weights - (H, T, S)
 * @param {number} head
 * @param {number} queries - T
 * @param {number} keys - S
 * @returns {Float32Array} (T, S), a view
 */
export function headWeights(weights, head, queries, keys) {
  return weights.subarray(head * queries * keys, (head + 1) * queries * keys);
}

/**
 * A matrix of weights as a few SVG paths, one per shade, each of all cells of that shade as unit squares.
 *
 * @param {Float32Array} weights - (T, S), from 0 to 1
 * @param {number} queries - T
 * @param {number} keys - S
 * @returns {{shade: number, path: string}[]} shade from 0 to 1
 */
export function matrixPaths(weights, queries, keys) {
  const cells = Array.from({ length: STEPS }, () => []);
  for (let query = 0; query < queries; query++) {
    for (let key = 0; key < keys; key++) {
      const weight = weights[query * keys + key];
      if (!(weight >= MIN_WEIGHT)) continue;
      cells[Math.min(STEPS - 1, Math.floor(weight * STEPS))].push(`M${key} ${query}h1v1h-1z`);
    }
  }
  return cells
    .map((squares, step) => ({ shade: (step + 1) / STEPS, path: squares.join("") }))
    .filter(({ path }) => path);
}

/**
 * Tokens side by side: where each stands, for a font of `advance` pixels per character.
 *
 * @param {string[]} tokens - as written
 * @param {number} advance
 * @returns {{places: {x: number, width: number, middle: number}[], width: number}}
 */
export function tokenLayout(tokens, advance = 8.5) {
  const places = [];
  let x = 0;
  for (const token of tokens) {
    const width = Math.max(26, Math.round([...token].length * advance) + 12);
    places.push({ x, width, middle: x + width / 2 });
    x += width + 2;
  }
  return { places, width: x };
}

/**
 * An arc over the text from a query to a key, or a loop above a token that attends to itself.
 *
 * @param {number} from - x of the query
 * @param {number} to - x of the key
 * @param {number} base - y of the text
 * @returns {string} data of an SVG path
 */
export function arcPath(from, to, base) {
  if (from === to)
    return `M${from - 5} ${base}C${from - 18} ${base - 34} ${from + 18} ${base - 34} ${from + 5} ${base}`;
  // A cubic rises to 3/4 of the height of its control points
  const height = Math.min(base * 1.3, 18 + Math.abs(from - to) * 0.6);
  return `M${from} ${base}C${from} ${base - height} ${to} ${base - height} ${to} ${base}`;
}

/**
 * A line from a query in the lower row of text to a key in the upper row.
 *
 * @param {number} from - x of the query
 * @param {number} to - x of the key
 * @param {number} height - distance of the rows
 * @returns {string} data of an SVG path
 */
export function linkPath(from, to, height) {
  return `M${from} ${height}C${from} ${height / 2} ${to} ${height / 2} ${to} 0`;
}

/**
 * What a head does with this text: the mean share of its weight that goes to the previous token, to the
 * first token and to the token itself, and the mean entropy. The first two queries say little and are left
 * out if there are more.
 *
 * @param {Float32Array} weights - (T, S)
 * @param {number} queries - T
 * @param {number} keys - S
 * @param {boolean} sameText - whether queries and keys are the same tokens
 * @returns {{previous: number, first: number, self: number, entropy: number}} entropy in nats
 */
export function describeHead(weights, queries, keys, sameText = true) {
  const parts = Object.entries(headParts(weights, queries, keys, sameText));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
  return Object.fromEntries(parts.map(([name, values]) => [name, mean(values)]));
}

/** What `describeHead` is the mean of: the values of each query, each (T,). */
export function headParts(weights, queries, keys, sameText = true) {
  const start = queries > 3 ? 2 : 0;
  const parts = { previous: [], first: [], self: [], entropy: [] };
  for (let query = start; query < queries; query++) {
    const values = weights.subarray(query * keys, (query + 1) * keys);
    parts.previous.push(sameText && query > 0 ? values[query - 1] : 0);
    parts.first.push(values[0]);
    parts.self.push(sameText ? values[query] : 0);
    parts.entropy.push(
      values.reduce((sum, weight) => (weight > 0 ? sum - weight * Math.log(weight) : sum), 0),
    );
  }
  return parts;
}

/**
 * The attention maps of a trace: which there are, with the tokens of their queries and keys.
 *
 * @param {string} kind - of the model
 * @param {object} trace
 * @param {{tokens: string[], sourceTokens: string[] | null}} inputs
 * @returns {{id: string, title: string, layers: Float32Array[], records: object[], queries: string[], keys:
 *   string[]}[]} `layers` are (H, T, S); `records` hold queries, keys and scores
 */
export function attentionMaps(kind, trace, inputs) {
  const self = {
    id: "self",
    title: kind === "seq2seq" ? "Self-attention of the decoder" : "Self-attention",
    layers: trace.layers.map((layer) => layer.attention),
    records: trace.layers.map((layer) => layer.attentionDetail),
    queries: inputs.tokens,
    keys: inputs.tokens,
  };
  if (kind !== "seq2seq") return [self];
  const cross = {
    id: "cross",
    title: "Cross-attention to the source",
    layers: trace.layers.map((layer) => layer.crossAttention),
    records: trace.layers.map((layer) => layer.crossAttentionDetail),
    queries: inputs.tokens,
    keys: inputs.sourceTokens,
  };
  const encoder = {
    id: "encoder",
    title: "Self-attention of the encoder",
    layers: trace.encoder.layers.map((layer) => layer.attention),
    records: trace.encoder.layers.map((layer) => layer.attentionDetail),
    queries: inputs.sourceTokens,
    keys: inputs.sourceTokens,
  };
  return [cross, self, encoder];
}
