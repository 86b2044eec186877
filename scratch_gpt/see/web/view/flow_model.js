/**
 * The architecture that a config describes, as a list of boxes from the tokens to the answer: what flow.js
 * draws.
 *
 * It follows models/block.py and the modeling files: the same fields decide the same things. Nothing here
 * knows the name of a preset.
 *
 * @typedef {object} Box
 * @property {string} kind - "norm", "attention", "feed_forward", "experts", "embedding", "positions",
 *   "head" or "data"
 * @property {string} title
 * @property {string[]} lines - details, each a few words
 * @property {string | null} concept - whose explanation it opens
 * @property {string | null} view - that it opens instead
 * @property {string | null} module - of a norm: its name within the block, under which the trace records it
 *
 * @typedef {object} Branch - reads the residual stream, and is added to it
 * @property {Box[][]} columns - one column of boxes, or two that stand side by side in a parallel block
 * @property {Box | null} shared - norm that both columns read
 * @property {Box | null} normAfter - norm of the sum
 *
 * @typedef {object} Stack
 * @property {"main" | "encoder" | "decoder"} id
 * @property {string} title
 * @property {Box[]} before - from the tokens to the first block
 * @property {Branch[][]} blocks - branches of each block
 * @property {Box[]} after - from the last block to the answer
 */

const ACTIVATIONS = {
  relu: "ReLU",
  relu2: "squared ReLU",
  gelu: "GELU",
  gelu_new: "GELU",
  silu: "SiLU",
  tanh: "tanh",
};
const GATED = { silu: "SwiGLU", gelu: "GEGLU", gelu_new: "GEGLU", relu: "ReGLU" };
const NORMS = {
  layer_norm: ["LayerNorm", ""],
  layer_norm_without_bias: ["LayerNorm", "without bias"],
  rms_norm: ["RMSNorm", ""],
  rms_norm_without_weight: ["RMSNorm", "without weight"],
};

/**
 * @param {string} kind
 * @param {string} title
 * @param {(string | false | null | undefined)[]} [lines]
 * @param {Partial<Box>} [rest]
 * @returns {Box}
 */
function box(kind, title, lines = [], rest = {}) {
  return { kind, title, lines: lines.filter(Boolean), concept: null, view: null, module: null, ...rest };
}

/**
 * The stacks of a model: one, or encoder and decoder.
 *
 * @param {object} description - of the payload: `kind`, `config`, `labels`
 * @returns {Stack[]}
 */
export function describeModel({ kind, config, labels }) {
  if (kind === "bigram") return [describeBigram(config)];
  if (kind !== "seq2seq") {
    const isDecoder = config.model_type === "scratch_gpt";
    const layers = config.num_hidden_layers;
    const stack = describeStack(config, {
      id: "main",
      title: "",
      layers,
      vocabulary: config.vocab_size,
      isDecoder,
    });
    stack.after.push(...describeHead(kind, config, labels));
    return [stack];
  }
  const encoder = describeStack(config, {
    id: "encoder",
    title: "Encoder",
    layers: config.encoder_layers,
    vocabulary: config.vocab_size,
    isDecoder: false,
  });
  encoder.after.push(
    box("data", "Source states", ["read by cross-attention"], { concept: "cross_attention" }),
  );
  const decoder = describeStack(config, {
    id: "decoder",
    title: "Decoder",
    layers: config.decoder_layers,
    vocabulary: config.decoder_vocab_size,
    isDecoder: true,
    cross: true,
  });
  decoder.after.push(...describeHead(kind, config, labels));
  return [encoder, decoder];
}

function describeBigram(config) {
  const table = box(
    "head",
    "Bigram table",
    [`${config.vocab_size} × ${config.vocab_size}`, "a row of logits per token"],
    {
      concept: "bigram",
    },
  );
  const tokens = box("data", "Last token", [], { view: "tokens" });
  return { id: "main", title: "", before: [tokens], blocks: [], after: [table, softmaxBox()] };
}

function describeStack(config, { id, title, layers, vocabulary, isDecoder, cross = false }) {
  const blocks = Array.from({ length: layers }, (_, layer) => describeBlock(config, layer, isDecoder, cross));
  const after = layers > 0 && config.norm_position !== "post" ? [normBox(config, "norm", "final")] : [];
  if (layers === 0 && config.norm_position !== "post") after.push(normBox(config, "norm", "final"));
  return { id, title, before: describeEmbeddings(config, vocabulary), blocks, after };
}

/** From token ids to the input of the first block. */
function describeEmbeddings(config, vocabulary) {
  const size = config.hidden_size;
  const boxes = [box("data", "Tokens", [], { view: "tokens" })];
  const scale = config.scale_embedding && `times √${size}`;
  boxes.push(
    box(
      "embedding",
      "Token embedding",
      [`${vocabulary} × ${size}`, scale, config.token_weights && "weighted"],
      {
        concept: config.token_weights ? "token_weights" : "embedding",
      },
    ),
  );
  const ngrams = config.ngram_sizes ?? (config.ngram_buckets ? [config.ngram_size] : []);
  for (const n of ngrams) {
    const lines = [`${config.ngram_buckets} × ${size}`];
    boxes.push(box("embedding", `+ ${n}-gram embedding`, lines, { concept: "ngram_embedding" }));
  }
  if (config.type_vocab_size)
    boxes.push(box("embedding", "+ token types", [`${config.type_vocab_size} × ${size}`]));
  if (config.position_type === "learned") {
    const lines = [`${config.max_position_embeddings} × ${size}, learned`];
    boxes.push(box("positions", "+ positions", lines, { concept: "learned_positions" }));
  }
  if (config.position_type === "sinusoidal") {
    boxes.push(box("positions", "+ positions", ["sines and cosines"], { concept: "sinusoidal_positions" }));
  }
  if (config.embedding_norm) boxes.push(normBox(config, "embedding_norm"));
  return boxes;
}

/** The branches of a block, as `TransformerBlock` builds and applies them. */
function describeBlock(config, layer, isDecoder, cross) {
  const position = config.norm_position;
  const [isPre, isPost] = [position === "pre" || position === "sandwich", position === "post"];
  const hasOutputNorm = position === "branch" || position === "sandwich";
  const skipsFirst = layer === 0 && config.first_attention_norm === false;
  const norm = (module) => normBox(config, module);
  const attention = attentionBox(config, layer, isDecoder);
  const mlp = config.num_experts ? expertsBox(config) : feedForwardBox(config);

  if (config.parallel_residual) {
    const input = isPre && !skipsFirst ? norm("input_layernorm") : null;
    const second = config.parallel_shared_norm ? null : norm("post_attention_layernorm");
    if (!second) return [{ columns: [[attention], [mlp]], shared: input, normAfter: null }];
    return [{ columns: [[input, attention].filter(Boolean), [second, mlp]], shared: null, normAfter: null }];
  }
  const branch = (before, middle, after, skips = false) => ({
    columns: [
      [isPre && !skips ? norm(before) : null, middle, hasOutputNorm && after ? norm(after) : null].filter(
        Boolean,
      ),
    ],
    shared: null,
    normAfter: isPost && !skips ? norm(before) : null,
  });
  return [
    branch("input_layernorm", attention, "attn_output_layernorm", skipsFirst),
    ...(cross ? [branch("cross_attn_layernorm", crossAttentionBox(config), null)] : []),
    branch("post_attention_layernorm", mlp, "mlp_output_layernorm"),
  ];
}

function normBox(config, module, word = "") {
  const [title, detail] = NORMS[config.norm_type];
  const concept = config.norm_type.startsWith("layer_norm") ? "layer_norm" : "rms_norm";
  return box("norm", title, [[word, detail].filter(Boolean).join(", ")], { concept, module });
}

function attentionBox(config, layer, isDecoder) {
  const [heads, groups] = [config.num_attention_heads, config.num_key_value_heads];
  const type = config.layer_types?.[layer] ?? "full_attention";
  const isSliding = type === "sliding_attention";
  return box(
    "attention",
    "Self-attention",
    [
      headsLine(config),
      groups !== heads && `${groups} key-value ${groups === 1 ? "head" : "heads"}`,
      isDecoder ? null : "in both directions",
      positionLine(config, layer),
      isSliding && `window of ${config.sliding_window} tokens${isDecoder ? "" : " each side"}`,
      config.qk_norm && "norm of queries and keys",
      config.attn_logit_softcapping && `scores capped at ±${config.attn_logit_softcapping}`,
    ],
    { concept: "attention", view: "attention", map: "self" },
  );
}

function crossAttentionBox(config) {
  const rotated = config.cross_attention_rotary && config.position_type === "rotary";
  return box(
    "attention",
    "Cross-attention",
    [
      headsLine(config),
      "keys and values: the source",
      rotated && "rotary positions",
      config.qk_norm && "norm of queries and keys",
    ],
    { concept: "cross_attention", view: "attention", map: "cross" },
  );
}

function headsLine({ num_attention_heads: heads, head_dim: size }) {
  return `${heads} ${heads === 1 ? "head" : "heads"} of size ${size}`;
}

function positionLine(config, layer) {
  if (config.position_type === "relative") return "relative positions";
  if (config.position_type !== "rotary") return null;
  if (config.no_rope_layers && !config.no_rope_layers[layer]) return "no positions";
  const type = config.layer_types?.[layer] ?? "full_attention";
  const rope = config.rope_parameters?.[type] ?? config.rope_parameters ?? {};
  const share = rope.partial_rotary_factor ?? 1;
  return share < 1 ? `rotary, ${Math.round(100 * share)}% of each head` : "rotary positions";
}

function feedForwardBox(config) {
  const { hidden_size: size, intermediate_size: wide } = config;
  return box("feed_forward", "Feed-forward", [`${size} → ${wide} → ${size}`, activationName(config)], {
    concept: "feed_forward",
  });
}

function expertsBox(config) {
  const lines = [
    `${config.num_experts} experts`,
    `${config.num_experts_per_tok} per token`,
    activationName(config),
  ];
  return box("experts", "Experts", lines, { concept: "experts" });
}

function activationName({ hidden_act: act, mlp_gated: gated }) {
  if (!gated) return ACTIVATIONS[act];
  return GATED[act] ?? `gated ${ACTIVATIONS[act]}`;
}

/** From the last hidden states to the answer, for each kind of model. */
function describeHead(kind, config, labels) {
  const size = config.hidden_size;
  if (kind === "encoder") return [box("data", "Hidden states", [`${size} numbers per token`])];
  if (kind === "classifier") return describeClassifier(config, labels);
  const boxes = [];
  if (kind === "masked" && config.masked_lm_transform) {
    const lines = [`${size} → ${size}`, ACTIVATIONS[config.hidden_act], NORMS[config.norm_type][0]];
    boxes.push(box("head", "Transform", lines, { concept: "masked_head" }));
  }
  const vocabulary = kind === "seq2seq" ? config.decoder_vocab_size : config.vocab_size;
  const lines = [
    `${size} → ${vocabulary}`,
    config.tie_word_embeddings && "weights of the embedding",
    config.final_logit_softcapping && `logits capped at ±${config.final_logit_softcapping}`,
  ];
  boxes.push(box("head", "Head", lines, { concept: "head" }), softmaxBox(kind));
  return boxes;
}

function describeClassifier(config, labels) {
  const size = config.hidden_size;
  const isDecoder = config.model_type === "scratch_gpt";
  const poolings = {
    cls: "state of the first token",
    mean: "mean over the tokens",
    sum: "sum over the tokens",
  };
  const line = isDecoder ? "state of the last token" : poolings[config.classifier_pooling];
  const boxes = [box("head", "Pooling", [line], { concept: "pooling" })];
  if (!isDecoder && config.pooler) {
    const lines = [
      `${size} → ${size}`,
      ACTIVATIONS[config.pooler_activation],
      config.pooler_norm && NORMS[config.norm_type][0],
    ];
    boxes.push(box("head", "Pooler", lines, { concept: "pooling" }));
  }
  const count = labels?.length ?? "labels";
  boxes.push(box("head", "Classifier", [`${size} → ${count}`], { concept: "pooling", view: "classify" }));
  boxes.push(box("data", "Classes", [], { view: "classify" }));
  return boxes;
}

function softmaxBox(kind = "causal") {
  const view = { masked: "masked", seq2seq: "translate" }[kind] ?? "next";
  return box("data", "Softmax", ["probabilities"], { concept: "sampling", view });
}
