/**
 * The state of the page, in one store: views read it, and controls change it.
 *
 * How a view is added
 * -------------------
 * 1. A file `view/NAME.js` exports `view`, an object of the type `View` below.
 * 2. `view/views.js` imports it and lists it in `VIEWS`, at the place of its tab. Nothing else is edited.
 *
 *     export const view = {
 *       id: "norms",                                       // in the address: #view=norms
 *       title: "Norms",                                    // of the tab
 *       intro: "The size of the residual stream.",         // one sentence below the heading
 *       kinds: ["causal"],                                 // kinds of models that it is about; omitted: all
 *       build(root, context) {                             // called once, when the tab is first opened
 *         const output = element("output");
 *         root.append(output);
 *         return (state) => {                              // called after each change while the tab is open
 *           output.textContent = String(context.session.trace().length);
 *         };
 *       },
 *     };
 *
 * `build` creates the elements; the function that it returns fills them. It runs at most once per frame, and
 * only while its tab is open, so it may compute. `context.session` computes what several views need, once per
 * change: the token ids, the recorded forward pass. A control calls `context.store.set({…})`; it never
 * updates other elements.
 *
 * @typedef {object} State
 * @property {string} text - the text that was typed; of an encoder-decoder the source
 * @property {boolean} chat - whether the text is a message to the assistant, in the chat template
 * @property {number[]} written - token ids that were written after it; of an encoder-decoder the target
 * @property {string} view - id of the open view
 * @property {number} model - index of the shown model
 * @property {number} temperature - of the sampling; 0 is greedy
 * @property {number} topK - 0 disables it
 * @property {number} topP - 1 disables it
 * @property {number} seed - of the sampling
 * @property {Edits} edits - parts of the model that are switched off
 * @property {number | null} position - selected token, an index of the ids
 * @property {number} layer - selected layer
 * @property {number} head - selected head
 * @property {string | null} attention - kind of attention: "self", "cross" or "encoder"; null: the first
 * @property {number | null} key - selected token that is attended to; null: that of the largest weight
 * @property {number | null} lensRow - selected row of the logit lens; null: the last
 * @property {number | null} label - class whose decision is shown; null: the most probable
 * @property {number | null} beams - of the beam search; null: those of the model
 * @property {number | null} frame - shown frame of the training film; null: the last
 * @property {object | null} explain - what is explained (see explain.js)
 * @property {number | null} tour - step of the tour
 *
 * @typedef {object} Edits - of the model or, of an encoder-decoder, of its decoder
 * @property {Set<string>} heads - "layer.head"
 * @property {Set<string>} crossHeads - those of cross-attention
 * @property {Set<number>} attentions - layers
 * @property {Set<number>} mlps - layers
 * @property {Set<number>} blocks - layers
 * @property {Set<number>} crossAttentions - layers
 * @property {Set<number>} hiddenTokens - positions
 * @property {Set<number>} hiddenSource - positions of the source
 *
 * @typedef {object} Context - what a view gets
 * @property {Store} store
 * @property {import("#see/view/session.js").Session} session - ids, traces and probabilities of the state
 * @property {object[]} models - the engine's models; `session.model()` is the shown one
 * @property {object} payload - the content of the page without weights: models, excerpts, film
 *
 * @typedef {object} View
 * @property {string} id
 * @property {string} title
 * @property {string} intro
 * @property {string} [lesson] - the lesson of `scratch-gpt learn` that derives what the view shows
 * @property {string[]} [kinds]
 * @property {(context: Context) => boolean} [isShown] - whether a page has this view
 * @property {(root: HTMLElement, context: Context) => (state: State) => void} build
 *
 * @typedef {object} Store
 * @property {() => State} get
 * @property {(change: Partial<State>) => void} set - replaces these fields and notifies the listeners
 * @property {(listener: (state: State, changed: Set<string>) => void) => () => void} subscribe - returns a
 *   function that ends the subscription
 */

/**
 * Nothing is switched off.
 * @returns {Edits}
 */
export function noEdits() {
  const fields = [
    "heads",
    "crossHeads",
    "attentions",
    "crossAttentions",
    "mlps",
    "blocks",
    "hiddenTokens",
    "hiddenSource",
  ];
  return Object.fromEntries(fields.map((field) => [field, new Set()]));
}

/**
 * Edits in the form that the engine takes: tokens of the source are hidden in the encoder.
 *
 * @param {Edits} edits
 * @returns {import("#see/engine/edits.js").Edits}
 */
export function engineEdits({ hiddenSource, ...decoder }) {
  return { ...decoder, encoder: hiddenSource.size > 0 ? { hiddenTokens: hiddenSource } : null };
}

/**
 * The state of a page that was just opened.
 * @returns {State}
 */
export function initialState() {
  return {
    text: "",
    chat: false,
    written: [],
    view: "",
    model: 0,
    temperature: 1,
    topK: 0,
    topP: 1,
    seed: 0,
    edits: noEdits(),
    position: null,
    layer: 0,
    head: 0,
    attention: null,
    key: null,
    lensRow: null,
    label: null,
    beams: null,
    frame: null,
    explain: null,
    tour: null,
  };
}

/**
 * A store of a state. Values are replaced, never changed in place: a set of edits is a new set.
 * @param {State} state
 * @returns {Store}
 */
export function createStore(state) {
  let current = { ...state };
  const listeners = new Set();
  return {
    get: () => current,
    set(change) {
      const changed = new Set(Object.keys(change).filter((name) => change[name] !== current[name]));
      if (changed.size === 0) return;
      current = { ...current, ...change };
      for (const listener of [...listeners]) listener(current, changed);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}
