/**
 * Tensors: weights and activations as flat `Float32Array`s in row-major order, as torch stores them.
 *
 * A module is built from `Weights`, the tensors whose names begin with its own name in the state dict; so its
 * fields have the names of the Python modules (`q_proj`, `input_layernorm`), and config fields those of the
 * config.
 *
 * Dimension letters: T tokens, C inputs, N outputs.
 */

const HALVES = new Float32Array(1 << 16); // the value of each float16, filled by `decodeFloat16`

/**
 * Float16 numbers (IEEE 754-2008, binary16) as float32: sign, 5 bits of exponent, 10 bits of fraction.
 *
 * @param {Uint8Array} bytes two little-endian bytes per number
 * @returns {Float32Array}
 */
export function decodeFloat16(bytes) {
  if (HALVES[1] === 0) {
    for (let bits = 0; bits < HALVES.length; bits++) {
      const sign = bits & 0x8000 ? -1 : 1;
      const exponent = (bits >> 10) & 31;
      const fraction = bits & 1023;
      if (exponent === 31) HALVES[bits] = fraction ? NaN : sign * Infinity;
      else if (exponent === 0) HALVES[bits] = sign * fraction * 2 ** -24;
      else HALVES[bits] = sign * (1024 + fraction) * 2 ** (exponent - 25);
    }
  }
  const values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) values[i] = HALVES[bytes[2 * i] | (bytes[2 * i + 1] << 8)];
  return values;
}

/** The tensors whose names begin with a prefix. */
export class Weights {
  /**
   * @param {Map<string, {data: Float32Array, shape: number[]}>} tensors by their names in the state dict
   * @param {string} prefix name of the module, with a final dot, or ""
   */
  constructor(tensors, prefix = "") {
    this.tensors = tensors;
    this.prefix = prefix;
  }

  /**
   * Read the tensors of a payload.
   *
   * @param {{tensors: Object<string, {shape: number[], dtype: string, offset: number}>, tied: Object<string,
   *   string>}} payload `tied` has the names of weights that are another one
   * @param {Uint8Array} bytes
   * @returns {Weights}
   */
  static fromBytes({ tensors, tied }, bytes) {
    const found = new Map();
    for (const [name, { shape, dtype, offset }] of Object.entries(tensors)) {
      const count = shape.reduce((product, size) => product * size, 1);
      const part = bytes.subarray(offset, offset + count * (dtype === "float16" ? 2 : 4));
      const data = dtype === "float16" ? decodeFloat16(part) : new Float32Array(part.slice().buffer);
      found.set(name, { data, shape });
    }
    for (const [name, other] of Object.entries(tied ?? {})) found.set(name, found.get(other));
    return new Weights(found);
  }

  /**
   * The tensors of a module.
   *
   * @param {string} name
   * @returns {Weights}
   */
  under(name) {
    return new Weights(this.tensors, `${this.prefix}${name}.`);
  }

  /**
   * @param {string} name
   * @returns {boolean} whether there is such a tensor, or a tensor of such a module
   */
  has(name) {
    const full = this.prefix + name;
    return this.tensors.has(full) || this.tensors.has(`${full}.weight`);
  }

  /**
   * @param {string} name
   * @returns {{data: Float32Array, shape: number[]}}
   */
  tensor(name) {
    const found = this.tensors.get(this.prefix + name);
    if (found === undefined) throw new Error(`the page has no tensor ${this.prefix}${name}`);
    return found;
  }

  /**
   * A linear layer, with a bias if there is one.
   *
   * @param {string} name
   * @returns {Linear}
   */
  linear(name) {
    const bias = this.tensors.has(`${this.prefix}${name}.bias`) ? this.tensor(`${name}.bias`).data : null;
    return new Linear(this.tensor(`${name}.weight`), bias);
  }

  /**
   * @param {string} name
   * @returns {Embedding}
   */
  embedding(name) {
    return new Embedding(this.tensor(`${name}.weight`));
  }
}

/** A linear layer: x W^T + b. */
export class Linear {
  /**
   * @param {{data: Float32Array, shape: number[]}} weight (N, C)
   * @param {Float32Array | null} bias (N,)
   */
  constructor({ data, shape }, bias = null) {
    [this.outputs, this.inputs] = shape;
    this.weight = data;
    this.bias = bias;
  }

  /**
   * @param {Float32Array} x (T, C)
   * @returns {Float32Array} (T, N)
   */
  forward(x) {
    return linear(x, this.weight, this.bias, this.inputs, this.outputs);
  }
}

/** A table with a vector for each id. */
export class Embedding {
  /** @param {{data: Float32Array, shape: number[]}} weight (V, C) */
  constructor({ data, shape }) {
    [this.count, this.size] = shape;
    this.weight = data;
  }

  /**
   * @param {ArrayLike<number>} ids (T,)
   * @returns {Float32Array} (T, C)
   * @throws {RangeError} if an id has no vector
   */
  forward(ids) {
    const { count, size, weight } = this;
    const rows = new Float32Array(ids.length * size);
    for (let t = 0; t < ids.length; t++) {
      const id = ids[t];
      if (!(Number.isInteger(id) && id >= 0 && id < count)) {
        throw new RangeError(`there is no token ${id}: want an integer from 0 to ${count - 1}`);
      }
      rows.set(weight.subarray(id * size, (id + 1) * size), t * size);
    }
    return rows;
  }
}

/**
 * x W^T + b. Sums are in float64, so that they are more precise than torch's.
 *
 * @param {Float32Array} x (T, C)
 * @param {Float32Array} weight (N, C)
 * @param {Float32Array | null} bias (N,)
 * @param {number} inputs C
 * @param {number} outputs N
 * @returns {Float32Array} (T, N)
 */
export function linear(x, weight, bias, inputs, outputs) {
  const rows = x.length / inputs; // T
  const y = new Float32Array(rows * outputs);
  const wide = new Float64Array(x); // converted once, not for each output
  let t = 0;
  for (; t + 4 <= rows; t += 4) multiplyFourRows(wide, t, weight, inputs, outputs, y);
  for (; t < rows; t++) multiplyRow(wide, t, weight, inputs, outputs, y);
  if (bias !== null) for (let i = 0; i < y.length; i++) y[i] += bias[i % outputs];
  return y;
}

/** One row of x times four rows of the weight at a time, four numbers of each: values that are loaded once
 * are used several times, and the processor adds to four sums at once. */
function multiplyRow(x, t, weight, inputs, outputs, y) {
  const start = t * inputs;
  const even = inputs - (inputs % 4);
  let n = 0;
  for (; n + 4 <= outputs; n += 4) {
    let s0 = 0,
      s1 = 0,
      s2 = 0,
      s3 = 0;
    let a = n * inputs;
    let b = a + inputs;
    let c = b + inputs;
    let d = c + inputs;
    for (let i = start; i < start + even; i += 4, a += 4, b += 4, c += 4, d += 4) {
      const p = x[i],
        q = x[i + 1],
        r = x[i + 2],
        s = x[i + 3];
      s0 += p * weight[a] + q * weight[a + 1] + r * weight[a + 2] + s * weight[a + 3];
      s1 += p * weight[b] + q * weight[b + 1] + r * weight[b + 2] + s * weight[b + 3];
      s2 += p * weight[c] + q * weight[c + 1] + r * weight[c + 2] + s * weight[c + 3];
      s3 += p * weight[d] + q * weight[d + 1] + r * weight[d + 2] + s * weight[d + 3];
    }
    const rest = inputs - even;
    y[t * outputs + n] = s0 + dot(x, start + even, weight, a, rest);
    y[t * outputs + n + 1] = s1 + dot(x, start + even, weight, b, rest);
    y[t * outputs + n + 2] = s2 + dot(x, start + even, weight, c, rest);
    y[t * outputs + n + 3] = s3 + dot(x, start + even, weight, d, rest);
  }
  for (; n < outputs; n++) y[t * outputs + n] = dot(x, start, weight, n * inputs, inputs);
}

/** Four rows of x times two rows of the weight at a time. The numbers of the four rows are interleaved first,
 * so that one index finds all of them. */
function multiplyFourRows(x, t, weight, inputs, outputs, y) {
  const four = new Float64Array(4 * inputs);
  for (let i = 0; i < inputs; i++) {
    for (let row = 0; row < 4; row++) four[4 * i + row] = x[(t + row) * inputs + i];
  }
  let n = 0;
  for (; n + 2 <= outputs; n += 2) {
    let p0 = 0,
      p1 = 0,
      p2 = 0,
      p3 = 0;
    let q0 = 0,
      q1 = 0,
      q2 = 0,
      q3 = 0;
    let i = 0;
    let v = n * inputs;
    let w = v + inputs;
    for (const end = w; v < end; v++, w++, i += 4) {
      const x0 = four[i],
        x1 = four[i + 1],
        x2 = four[i + 2],
        x3 = four[i + 3];
      const p = weight[v],
        q = weight[w];
      p0 += p * x0;
      p1 += p * x1;
      p2 += p * x2;
      p3 += p * x3;
      q0 += q * x0;
      q1 += q * x1;
      q2 += q * x2;
      q3 += q * x3;
    }
    const to = t * outputs + n;
    y[to] = p0;
    y[to + 1] = q0;
    y[to + outputs] = p1;
    y[to + outputs + 1] = q1;
    y[to + 2 * outputs] = p2;
    y[to + 2 * outputs + 1] = q2;
    y[to + 3 * outputs] = p3;
    y[to + 3 * outputs + 1] = q3;
  }
  for (; n < outputs; n++) {
    for (let row = t; row < t + 4; row++) {
      y[row * outputs + n] = dot(x, row * inputs, weight, n * inputs, inputs);
    }
  }
}

/** The dot product of `length` numbers of x, from index i, and of y, from index j. */
function dot(x, i, y, j, length) {
  let sum = 0;
  for (let k = 0; k < length; k++) sum += x[i + k] * y[j + k];
  return sum;
}

/**
 * The sum of two tensors of the same shape.
 *
 * @param {Float32Array} a
 * @param {Float32Array} b
 * @returns {Float32Array}
 */
export function add(a, b) {
  const sum = new Float32Array(a.length);
  for (let i = 0; i < sum.length; i++) sum[i] = a[i] + b[i];
  return sum;
}

/**
 * Replace scores by their softmax, exp(x_i) / sum of exp(x_j); the largest one is subtracted first, so that
 * nothing overflows. Scores of -Infinity get 0; if all are -Infinity, all weights are 0.
 *
 * @param {Float32Array | Float64Array} scores
 * @param {number} start index of the first score
 * @param {number} end index after the last one
 */
export function softmaxInPlace(scores, start = 0, end = scores.length) {
  let largest = -Infinity;
  for (let i = start; i < end; i++) if (scores[i] > largest) largest = scores[i];
  if (largest === -Infinity) {
    scores.fill(0, start, end);
    return;
  }
  let total = 0;
  for (let i = start; i < end; i++) total += scores[i] = Math.exp(scores[i] - largest);
  for (let i = start; i < end; i++) scores[i] /= total;
}
