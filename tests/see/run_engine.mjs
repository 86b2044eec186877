/** Runs calls of web/engine: JSON on standard input, JSON on standard output. Arrays of numbers are base64 of float32. */

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { engine, content, weights, calls } = JSON.parse(readFileSync(0, "utf8"));
const load = (file) => import(pathToFileURL(`${engine}/${file}`));
const { loadModel } = await load("model.js");
const { lensLogits } = await load("lens.js");
const model = loadModel(content, new Uint8Array(readFileSync(weights)));

/** A trace of tokens that were computed in pieces with a cache: the logits of all. */
function forwardInPieces({ ids, pieces, options }) {
  const cache = model.newCache();
  const rows = [];
  for (const size of pieces) {
    const trace = model.forward(ids.slice(cache.length, cache.length + size), { ...options, cache });
    rows.push(...trace.logits);
  }
  const cached = cache.layers.map((layer) => layer.count);
  return { logits: Float32Array.from(rows), cached };
}

const METHODS = {
  forward: ({ ids, options }) => model.forward(ids, options),
  forwardInPieces,
  lens: ({ hidden }) => lensLogits(model, Float32Array.from(hidden)),
  generate: ({ ids, count, options }) => model.generate(ids, count, options),
  beamSearch: ({ ids, count, options }) => model.beamSearch(ids, count, options),
  logits: ({ ids }) => model.logits(...ids),
};

const toBase64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const encode = (key, value) => {
  if (value instanceof Float32Array) return { float32: toBase64(value) };
  if (value instanceof Int32Array) return [...value];
  return value;
};
const results = calls.map(({ method, ...call }) => {
  try {
    return { result: METHODS[method](call) };
  } catch (error) {
    return { error: String(error) };
  }
});
process.stdout.write(JSON.stringify(results, encode));
