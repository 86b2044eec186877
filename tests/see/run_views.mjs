/**
 * Calls pure functions of web/view: JSON on standard input, JSON on standard output. `{"float32": [...]}` becomes a
 * Float32Array, in which null is -Infinity, and `{"float32": [...]}` is what becomes of one.
 */

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const revive = (key, value) =>
  Array.isArray(value?.float32) ? Float32Array.from(value.float32, (each) => each ?? -Infinity) : value;
const encode = (key, value) => {
  if (value instanceof Float32Array) return { float32: [...value] };
  if (value instanceof Set) return [...value];
  return value;
};
const { folder, calls } = JSON.parse(readFileSync(0, "utf8"), revive);
const results = [];
for (const { module, name, arguments: given } of calls) {
  const found = await import(pathToFileURL(`${folder}/${module}.js`));
  const value = found[name];
  results.push((typeof value === "function" ? value(...given) : value) ?? null);
}
process.stdout.write(JSON.stringify(results, encode));
