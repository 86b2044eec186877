/**
 * Runs calls of web/engine, whose folder is the argument: a line of JSON on standard output for each line on standard
 * input. Arrays of float32 are base64.
 *
 * A line has jobs: each a model (its content and the file of its weights, or null) and calls, which are a method below
 * and its arguments.
 */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const load = (file) => import(pathToFileURL(`${process.argv[2]}/${file}`));
const { loadModel } = await load("model.js");
const { lensLogits } = await load("lens.js");
const { RelativePositionBias } = await load("relative_positions.js");
const { distribution, randomGenerator, sample } = await load("sampling.js");

/** Tokens computed in pieces with a cache, which may be truncated to a length before a piece: the logits of each piece,
 * and the number of tokens that each layer keeps in the end. */
function inPieces(model, { ids, pieces, options = {} }) {
  const cache = model.newCache();
  const logits = [];
  for (const [truncated, end] of pieces) {
    cache.truncate(truncated);
    const trace = model.forward(ids.slice(cache.length, end), { ...options, cache });
    logits.push(trace.logits);
  }
  return { logits, counts: cache.layers.map((layer) => layer.count) };
}

/** The logit lens of the embeddings and of each block. */
function lens(model, { ids, options }) {
  const trace = model.forward(ids, { ...options, record: true });
  return [trace.embeddings, ...trace.layers.map((layer) => layer.output)].map((hidden) => lensLogits(model, hidden));
}

/** Milliseconds per token of greedy decoding, the best of several runs. */
function speed(model, { ids, count, runs }) {
  let best = Infinity;
  for (let i = 0; i < runs; i++) {
    const start = performance.now();
    model.generate(ids, count, { stopAtEnd: false });
    best = Math.min(best, (performance.now() - start) / count);
  }
  return best;
}

/** Tokens drawn one after the other. */
function draw(model, { logits, options, seed, count }) {
  const random = randomGenerator(seed);
  const probabilities = distribution(Float32Array.from(logits), options);
  return Array.from({ length: count }, () => sample(probabilities, random));
}

/** The buckets of relative positions, by the tables of a config. */
function buckets(model, { config, numBuckets, bidirectional, distances }) {
  const weights = { tensor: () => ({ data: new Float32Array(numBuckets), shape: [numBuckets, 1] }) };
  const bias = new RelativePositionBias(config, weights, bidirectional);
  return distances.map((distance) => bias.bucket(distance));
}

/** The loss of each token that is masked in turn. */
async function maskedLosses(model, { ids, mask }) {
  const { maskedLoss, scoredPositions } = await load("../view/pseudo_loss.js");
  return scoredPositions(model.tokenizer, ids).map((position) => {
    const { loss, rank, probability } = maskedLoss(model, ids, position, mask);
    return [position, loss, rank, probability];
  });
}

/** The ids of texts as messages to the assistant. */
async function chat(model, { form, texts }) {
  const { encodeText } = await load("../view/session.js");
  return texts.map((text) => encodeText(model, { chat: form }, text, true));
}

const METHODS = {
  chat,
  buckets,
  maskedLosses,
  forward: (model, { ids, options }) => model.forward(ids, options),
  encode: (model, { text }) => model.encode(text),
  decode: (model, { ids }) => model.decode(ids),
  logits: (model, { ids }) => model.logits(...ids),
  generate: (model, { ids, count, options }) => model.generate(ids, count, options),
  beamSearch: (model, { ids, count, options }) => model.beamSearch(ids, count, options),
  distribution: (model, { logits, options }) => distribution(Float32Array.from(logits), options),
  /** An exported function of a file of the engine, for each list of arguments. */
  map: async (model, { file, name, lists }) => {
    const found = (await load(file))[name];
    return lists.map((list) => found(...list));
  },
  draw,
  inPieces,
  lens,
  speed,
};

const toBase64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const encode = (key, value) => {
  if (value instanceof Float32Array) return { float32: toBase64(value) };
  if (ArrayBuffer.isView(value)) return [...value];
  return value instanceof Set ? [...value] : value;
};

/** The results of the calls of each job: `result` or `error`. */
async function run({ content, weights, calls }) {
  const model = content === null ? null : loadModel(content, new Uint8Array(readFileSync(weights)));
  const results = [];
  for (const { method, ...call } of calls) {
    try {
      results.push({ result: await METHODS[method](model, call) });
    } catch (error) {
      results.push({ error: String(error) });
    }
  }
  return results;
}

for await (const line of createInterface({ input: process.stdin })) {
  const results = [];
  for (const job of JSON.parse(line)) results.push(await run(job));
  process.stdout.write(`${JSON.stringify(results, encode)}\n`);
}
