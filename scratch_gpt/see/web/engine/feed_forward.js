/**
 * The feed-forward network (MLP) of a block: a projection to a wider space and back, for each position
 * separately.
 *
 * Dimension letters: T tokens, C hidden size, I intermediate size.
 */

/** Numerators and denominators of erf for |x| <= 0.46875, and of erfc for 0.46875 < x <= 4: W. J. Cody 1969,
 * "Rational Chebyshev approximations for the error function", Mathematics of Computation 23, as in CALERF of
 * netlib's SPECFUN. */
const ERF_NUMERATOR = [
  1.85777706184603153e-1, 3.1611237438705656, 1.13864154151050156e2, 3.77485237685302021e2,
  3.20937758913846947e3,
];
const ERF_DENOMINATOR = [
  1, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3,
];
const ERFC_NUMERATOR = [
  2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594, 6.61191906371416295e1,
  2.98635138197400131e2, 8.8195222124176909e2, 1.71204761263407058e3, 2.05107837782607147e3,
  1.23033935479799725e3,
];
const ERFC_DENOMINATOR = [
  1, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
  3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
];

/** A polynomial with these coefficients, that of the highest power first (Horner's rule). */
function polynomial(coefficients, x) {
  let value = 0;
  for (let i = 0; i < coefficients.length; i++) value = value * x + coefficients[i];
  return value;
}

/**
 * The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x, with an absolute error below
 * 2e-8.
 *
 * @param {number} x
 * @returns {number}
 */
export function erf(x) {
  const size = Math.abs(x);
  if (size > 4) return Math.sign(x);
  if (size <= 0.46875) return (x * polynomial(ERF_NUMERATOR, x * x)) / polynomial(ERF_DENOMINATOR, x * x);
  const fraction = polynomial(ERFC_NUMERATOR, size) / polynomial(ERFC_DENOMINATOR, size);
  return Math.sign(x) * (1 - Math.exp(-x * x) * fraction);
}

/** The activation functions by their names in the config.
 *
 * @type {Object<string, function(number): number>} */
export const ACTIVATIONS = {
  relu: (x) => (x > 0 ? x : 0),
  /** The square of ReLU (So et al. 2021, Primer, arXiv:2109.08668). */
  relu2: (x) => (x > 0 ? x * x : 0),
  /** x times the normal distribution function (Hendrycks and Gimpel 2016, arXiv:1606.08415). */
  gelu: (x) => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
  /** GELU in its tanh approximation, as GPT-2 uses it (arXiv:1606.08415). */
  gelu_new: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x))),
  /** x times its sigmoid (Elfwing et al. 2017, arXiv:1702.03118). */
  silu: (x) => x / (1 + Math.exp(-x)),
  tanh: Math.tanh,
};

/**
 * Apply an activation function to each number, in place.
 *
 * @param {string} name
 * @param {Float32Array} x
 * @returns {Float32Array} x
 */
export function activate(name, x) {
  const activation = ACTIVATIONS[name];
  for (let i = 0; i < x.length; i++) x[i] = activation(x[i]);
  return x;
}

/** down(act(up(x))) or, if gated, down(act(gate(x)) * up(x)), which with SiLU is SwiGLU (Shazeer 2020,
 * arXiv:2002.05202). */
export class FeedForward {
  /**
   * @param {Object} config
   * @param {import("#see/engine/tensor.js").Weights} weights
   */
  constructor(config, weights) {
    this.gate_proj = config.mlp_gated ? weights.linear("gate_proj") : null;
    this.up_proj = weights.linear("up_proj");
    this.down_proj = weights.linear("down_proj");
    this.activation = config.hidden_act;
  }

  /**
   * @param {Float32Array} hiddenStates (T, C)
   * @returns {Float32Array} (T, C)
   */
  forward(hiddenStates) {
    const up = this.up_proj.forward(hiddenStates); // (T, I)
    if (this.gate_proj === null) return this.down_proj.forward(activate(this.activation, up));
    const gate = activate(this.activation, this.gate_proj.forward(hiddenStates)); // (T, I)
    for (let i = 0; i < up.length; i++) up[i] *= gate[i];
    return this.down_proj.forward(up);
  }
}
