/**
 * A mixture of experts: several feed-forward networks, of which a router chooses a few for each token, so
 * that a model has many parameters and computes with few of them (Shazeer et al. 2017, arXiv:1701.06538).
 *
 * Dimension letters: T tokens, E experts, K experts per token, C hidden size, I intermediate size.
 */

import { activate } from "#see/engine/feed_forward.js";
import { linear, softmaxInPlace } from "#see/engine/tensor.js";

/**
 * @typedef {{probabilities: Float32Array, weights: Float32Array, chosen: Int32Array}} Routing the
 *   probabilities of all experts (T, E), the weights of the chosen ones (T, K), and their indices (T, K), the
 *   most probable first
 */

/** Scores the experts for each token, and chooses the best (Fedus et al. 2021, arXiv:2101.03961). */
export class Router {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   */
  constructor(config, weights) {
    this.count = config.num_experts_per_tok;
    this.normalized = config.norm_topk_prob;
    this.projection = weights.linear("gate");
  }

  /**
   * @param {Float32Array} hiddenStates (T, C)
   * @returns {Routing}
   */
  forward(hiddenStates) {
    const probabilities = this.projection.forward(hiddenStates); // (T, E)
    const { count } = this;
    const { outputs } = this.projection; // E
    const length = probabilities.length / outputs;
    const weights = new Float32Array(length * count);
    const chosen = new Int32Array(length * count);
    for (let t = 0; t < length; t++) {
      softmaxInPlace(probabilities, t * outputs, (t + 1) * outputs);
      const order = Array.from({ length: outputs }, (_, expert) => expert);
      order.sort((a, b) => probabilities[t * outputs + b] - probabilities[t * outputs + a]);
      const best = order.slice(0, count);
      const total = best.reduce((sum, expert) => sum + probabilities[t * outputs + expert], 0);
      chosen.set(best, t * count);
      best.forEach((expert, rank) => {
        weights[t * count + rank] = probabilities[t * outputs + expert] / (this.normalized ? total : 1);
      });
    }
    return { probabilities, weights, chosen };
  }
}

/** A router and its experts, in place of a feed-forward network. The experts are gated: down(act(gate(x)) *
 * up(x)). */
export class MixtureOfExperts {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   */
  constructor(config, weights) {
    this.gate = new Router(config, weights);
    this.gateUp = weights.tensor("experts.gate_up_proj").data; // (E, 2 I, C)
    const down = weights.tensor("experts.down_proj"); // (E, C, I)
    this.down = down.data;
    [, this.hiddenSize, this.intermediateSize] = down.shape;
    this.activation = config.hidden_act;
  }

  /**
   * @param {Float32Array} hiddenStates (T, C)
   * @param {{experts?: Routing} | null} record gets the routing as `experts`
   * @returns {Float32Array} (T, C)
   */
  forward(hiddenStates, record = null) {
    const routing = this.gate.forward(hiddenStates);
    if (record !== null) record.experts = routing;
    const { hiddenSize } = this;
    const output = new Float32Array(hiddenStates.length);
    const { count } = this.gate;
    for (let t = 0; t * hiddenSize < hiddenStates.length; t++) {
      const x = hiddenStates.subarray(t * hiddenSize, (t + 1) * hiddenSize);
      for (let rank = t * count; rank < (t + 1) * count; rank++) {
        const expertOutput = this.expert(routing.chosen[rank], x); // (C,)
        const weight = routing.weights[rank];
        for (let i = 0; i < hiddenSize; i++) output[t * hiddenSize + i] += weight * expertOutput[i];
      }
    }
    return output;
  }

  /** The output (C,) of an expert for a token (C,). */
  expert(index, x) {
    const { hiddenSize, intermediateSize } = this;
    const size = intermediateSize * hiddenSize;
    const gateUp = this.gateUp.subarray(2 * index * size, 2 * (index + 1) * size);
    const both = linear(x, gateUp, null, hiddenSize, 2 * intermediateSize); // (2 I,)
    const gate = activate(this.activation, both.subarray(0, intermediateSize));
    for (let i = 0; i < intermediateSize; i++) gate[i] *= both[intermediateSize + i];
    const down = this.down.subarray(index * size, (index + 1) * size);
    return linear(gate, down, null, intermediateSize, hiddenSize);
  }
}
