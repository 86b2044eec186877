/**
 * The hidden numbers of a feed-forward network or of an expert for one token: its neurons.
 *
 * Dimension letters: C hidden size, I intermediate size, E experts.
 */

import { ACTIVATIONS } from "#see/engine/feed_forward.js";
import { linear } from "#see/engine/tensor.js";

/**
 * @typedef {object} Neurons
 * @property {Float32Array} before - the activation (I,)
 * @property {Float32Array | null} up - what a gate is multiplied by (I,); null without a gate
 * @property {Float32Array} values - what the projection down reads (I,)
 * @property {(neuron: number) => {weights: Float32Array, bias: number}} row - what `before` is computed with
 * @property {(x: number) => number} activate
 */

/**
 * The blocks of a stack.
 *
 * @param {object} model - of the engine
 * @param {string} stack - "encoder" for that of an encoder-decoder
 * @returns {object[]}
 */
export function blocksOf({ network }, stack) {
  const { layers, encoder, decoder } = network.model;
  return layers ?? (stack === "encoder" ? encoder : decoder).layers;
}

/**
 * @param {object} mlp - of a block: a feed-forward network or a mixture of experts
 * @param {Float32Array} x - what it reads (C,)
 * @param {number | null} [expert]
 * @returns {Neurons}
 */
export function neuronsOf(mlp, x, expert = null) {
  const { weight, bias, outputs, upWeight, upBias } = expert === null ? denseOf(mlp) : expertOf(mlp, expert);
  const before = linear(x, weight, bias, x.length, outputs);
  const up = upWeight && linear(x, upWeight, upBias, x.length, outputs);
  const activate = ACTIVATIONS[mlp.activation];
  return {
    before,
    up,
    values: before.map((value, index) => activate(value) * (up ? up[index] : 1)),
    row: (neuron) => ({
      weights: weight.subarray(neuron * x.length, (neuron + 1) * x.length),
      bias: bias ? bias[neuron] : 0,
    }),
    activate,
  };
}

function denseOf({ gate_proj: gate, up_proj: up }) {
  const { weight, bias, outputs } = gate ?? up;
  return { weight, bias, outputs, upWeight: gate && up.weight, upBias: gate && up.bias };
}

function expertOf({ gateUp, hiddenSize, intermediateSize: outputs }, index) {
  const size = outputs * hiddenSize;
  const part = (number) => gateUp.subarray((2 * index + number) * size, (2 * index + number + 1) * size);
  return { weight: part(0), bias: null, outputs, upWeight: part(1), upBias: null };
}
