/**
 * Calls pure functions of web/view: a line of JSON on standard input for each list of calls, a line on standard output.
 * `{"float32": [...]}` becomes a Float32Array, in which null is -Infinity, and `{"set": [...]}` a Set, and the reverse.
 */

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const revive = (key, value) => {
  if (Array.isArray(value?.set)) return new Set(value.set);
  return Array.isArray(value?.float32) ? Float32Array.from(value.float32, (each) => each ?? -Infinity) : value;
};
const encode = (key, value) => {
  if (value instanceof Set) return { set: [...value] };
  return value instanceof Float32Array ? { float32: [...value] } : value;
};

async function call({ module, name, arguments: given }) {
  const value = (await import(pathToFileURL(module)))[name];
  return (typeof value === "function" ? value(...given) : value) ?? null;
}

for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { results: await Promise.all(JSON.parse(line, revive).map(call)) };
  } catch (error) {
    answer = { error: error.stack };
  }
  console.log(JSON.stringify(answer, encode));
}
