/** What the parts of a model do, in one or two sentences, and their formulas. */

/** @type {Record<string, {meaning: string, formula: string[]}>} */
export const PART_MEANINGS = {
  embedding: {
    meaning:
      "A table with one row of numbers for each token. Training finds rows so that similar tokens " +
      "get similar numbers.",
    formula: ["x = table[token id]"],
  },
  token_weights: {
    meaning:
      "The row of each token is multiplied by a weight that tells how much the token says about the class.",
    formula: ["x = weight[token id] · table[token id]"],
  },
  ngram_embedding: {
    meaning:
      "A row of numbers for the token together with the tokens before it. The ids are hashed: " +
      "combined into one number, which is the row's number in a table.",
    formula: ["x = x + table[hash(ids) mod rows]"],
  },
  learned_positions: {
    meaning:
      "Attention does not know the order of the tokens, so each position has a row of numbers that is added.",
    formula: ["x = x + table[position]"],
  },
  sinusoidal_positions: {
    meaning:
      "Attention does not know the order of the tokens, so waves of different lengths are added " +
      "for each position.",
    formula: [
      "x₂ᵢ   = x₂ᵢ   + sin(position / 10000^(2i / C))",
      "x₂ᵢ₊₁ = x₂ᵢ₊₁ + cos(position / 10000^(2i / C))",
    ],
  },
  layer_norm: {
    meaning: "A norm scales the numbers of a token to a common size.",
    formula: ["y = (x − mean) / √(variance + ε) · weight + bias"],
  },
  rms_norm: {
    meaning: "A norm scales the numbers of a token to a common size.",
    formula: ["y = x / √(mean of x² + ε) · weight"],
  },
  attention: {
    meaning: "Each token takes a weighted mean of the values of the tokens that it can see.",
    formula: ["output = softmax(Q Kᵀ / √D) V"],
  },
  cross_attention: {
    meaning: "Each token of the translation takes a weighted mean of the values of the source tokens.",
    formula: ["output = softmax(Q Kᵀ / √D) V, with K and V of the source"],
  },
  feed_forward: {
    meaning:
      "A network with one hidden layer that changes each token by itself. It holds most of the " +
      "weights of a block.",
    formula: ["y = down(activation(up(x)))", "gated: y = down(activation(gate(x)) · up(x))"],
  },
  experts: {
    meaning: "Several feed-forward networks, of which a router chooses a few for each token.",
    formula: ["y = Σ weight · expert(x), over the chosen experts"],
  },
  masked_head: {
    meaning: "A last layer that prepares each token for the head.",
    formula: ["y = norm(activation(W x + b))"],
  },
  head: {
    meaning:
      "The head gives each token of the vocabulary a number, its logit: the dot product with a row " +
      "of weights.",
    formula: ["logit = x · row[token id]"],
  },
  sampling: {
    meaning: "Softmax turns logits into probabilities that add up to 100%.",
    formula: ["p = exp(logit) / Σ exp(logits)"],
  },
  pooling: {
    meaning:
      "The vectors of all tokens become one vector for the whole text, from which the classes are computed.",
    formula: [],
  },
  bigram: {
    meaning: "A table with one row of logits for each token. The model looks at nothing but the last token.",
    formula: ["logits = table[last token id]"],
  },
};
