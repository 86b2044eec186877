/**
 * The steps of the guided tour, for each kind of model.
 *
 * @typedef {object} Step
 * @property {string} title
 * @property {string} text
 * @property {string} task - what to try
 * @property {object} state - what of the page's state it sets: the view that it is about
 */

const TOKENS = {
  title: "The text becomes tokens",
  text:
    "A model does not read letters. The text is cut into tokens: frequent pieces of text, such as " +
    "words or parts of words. Each token has a number, its id.",
  task: "Change the text and watch how it is cut. Find a word that needs two tokens.",
  state: { view: "tokens" },
};

const ARCHITECTURE = {
  title: "From tokens to an answer",
  text:
    "Each token becomes a list of numbers, its embedding. The list passes through the layers from " +
    "top to bottom. Attention lets tokens exchange information; the feed-forward network changes " +
    "each token by itself.",
  task: "Follow the thick line downwards. Select a box to see what it computes.",
  state: { view: "flow", layer: 0 },
};

const STREAM = {
  title: "The layers add to the list of numbers",
  text:
    "No layer replaces the numbers of a token: each one adds to them. The thick line is this list. " +
    "Its width shows how long the list is as a vector, and each branch says how much it adds.",
  task: "Select a number on the left of the line to see how the length is computed.",
  state: { view: "flow" },
};

const ATTENTION = {
  title: "Attention: which tokens look at which",
  text:
    "Each head decides for every token how much it takes from the tokens that it can see. The " +
    "weights of one token add up to 100%. Different heads look for different things.",
  task: "Select a token and compare two heads. Is there a head that mostly looks at the token before?",
  state: { view: "attention", layer: 0, head: 0, position: null, key: null },
};

const NUMBERS = {
  title: "Every number has a formula",
  text:
    "Nothing here is hidden: an attention weight, a probability or a loss is the result of a short " +
    "formula. A panel shows the formula with its numbers, and the lines of code that compute it.",
  task: "Select one of the weights in the table. Check the division with a calculator.",
  state: { view: "attention" },
};

const WHAT_IF = {
  title: "Switch parts off",
  text:
    "How do we know what a part does? We switch it off and look at the answer again. If nothing " +
    "changes, this text did not need it.",
  task: "Switch off one head after the other. Which one changes the answer most?",
  state: { view: "what-if" },
};

const LENS = {
  title: "The answer appears layer by layer",
  text:
    "If the model had to answer after each layer, what would it say? In the upper rows, the " +
    "guesses are often poor; further down they become those of the whole model.",
  task: "Find a token whose answer changes in the last layer.",
  state: { view: "lens" },
};

const LOSS = {
  title: "How surprised is the model?",
  text:
    "For each token we can ask how probable the model thought it was. An improbable token gives a " +
    "large loss. Training changes the weights, little by little, so that the mean loss falls.",
  task: "Write a strange word into the text. How large does its loss become?",
  state: { view: "loss", position: null },
};

const NEXT = {
  title: "Probabilities of the next token",
  text:
    "At the end, each token of the vocabulary has a probability of being the next one. Writing " +
    "means choosing one, adding it to the text, and computing again.",
  task: "Write a few tokens with temperature 0, and then with temperature 1.5. What is different?",
  state: { view: "next", position: null },
};

const GUESS = {
  title: "Filling in a gap",
  text:
    "This model has learned to guess hidden tokens. It reads the text before and after each mask " +
    "and gives every token a probability.",
  task: "Select a token to mask it. Is the right one among the guesses?",
  state: { view: "masked" },
};

const FILL = {
  title: "Context changes the guess",
  text:
    "The guesses depend on the rest of the text: attention brings the information from there to " +
    "the mask.",
  task: "Change a word far from the mask. Do the guesses change?",
  state: { view: "masked" },
};

const DECISION = {
  title: "Probabilities of the classes",
  text:
    "The vectors of all tokens become one vector for the whole text. From it, the model computes a " +
    "probability for each class.",
  task: "Change one word so that the most probable class changes.",
  state: { view: "classify" },
};

const SHARES = {
  title: "Which tokens decide?",
  text:
    "To see what a token contributes, we hide it and compute the answer again. If the probability " +
    "falls, the token speaks for the class.",
  task: "Find the token with the largest share. Is it the word that you expected?",
  state: { view: "classify" },
};

const TRANSLATION = {
  title: "Two models in one",
  text:
    "The encoder reads the source sentence. The decoder writes the translation, token by token, " +
    "and looks at the source while it writes.",
  task: "Change the source sentence and read the translation.",
  state: { view: "translate" },
};

const ALIGNMENT = {
  title: "Looking at the source",
  text:
    "Cross-attention shows which source tokens the decoder looks at for each token of the " +
    "translation. Word order can differ between the two languages.",
  task: "Find a translated word, and the source word that it looks at most.",
  state: { view: "attention", attention: "cross", position: null, key: null },
};

const TABLE = {
  title: "A table of pairs",
  text:
    "This model looks only at the last token. For each token, it has a row of numbers that says " +
    "how probable each next token is.",
  task: "Select the boxes of the drawing.",
  state: { view: "flow" },
};

/** @type {Record<string, Step[]>} */
const TOURS = {
  causal: [TOKENS, ARCHITECTURE, ATTENTION, NUMBERS, LENS, NEXT, LOSS, WHAT_IF],
  seq2seq: [TOKENS, TRANSLATION, ARCHITECTURE, ALIGNMENT, LENS, NEXT, LOSS, WHAT_IF],
  masked: [TOKENS, GUESS, ARCHITECTURE, ATTENTION, NUMBERS, LENS, FILL, WHAT_IF],
  classifier: [TOKENS, ARCHITECTURE, STREAM, ATTENTION, NUMBERS, DECISION, SHARES, WHAT_IF],
  bigram: [TOKENS, TABLE, NEXT, LOSS],
  encoder: [TOKENS, ARCHITECTURE, STREAM, ATTENTION, NUMBERS],
};

/**
 * The steps for a model. Steps about attention and layers are left out for a model that has none.
 *
 * @param {object} description - of the payload
 * @returns {Step[]}
 */
export function tourSteps({ kind, config }) {
  const layers = config.num_hidden_layers ?? config.encoder_layers ?? 0;
  const needsLayers = [ATTENTION, NUMBERS, LENS];
  return TOURS[kind].filter((step) => layers > 0 || !needsLayers.includes(step));
}
