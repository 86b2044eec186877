"""What each preset is, in words: for help texts and documentation, which import neither torch nor transformers."""

DECODERS = {
    "gpt2": "LayerNorm, learned positions, GELU, biases, dropout, and tied embeddings.",
    "llama": "RMSNorm, rotary positions and SwiGLU, without biases.",
    "nanochat": "llama with squared ReLU in place of SwiGLU, norms without weights, also of the embeddings, queries "
    "and keys, soft-capped logits, and blocks that start as the identity.",
    "nanochat_ngram": "nanochat with embeddings of 3-grams, best on little text in little time.",
    "arcee": "llama with squared ReLU in place of SwiGLU.",
    "gemma": "llama with GELU in place of SiLU as the gate, and tied embeddings.",
    "gemma2": "gemma with norms before and after each branch, soft-capped attention scores and logits, and a sliding "
    "window in every second layer.",
    "gemma3": "gemma with norms before and after each branch, normalized queries and keys, and in five of six layers a "
    "sliding window with rotary settings of its own.",
    "gpt_neo": "gpt2 with a sliding window in every second layer, without biases of queries, keys and values, and "
    "without dropout.",
    "gpt_neox": "gpt2 with attention and feed-forward network in parallel, and rotary positions in a quarter of each "
    "head, without tied embeddings and dropout.",
    "gptj": "gpt_neox with one norm for both branches, a bias of the head, and none in attention.",
    "mistral": "llama with a sliding window of 4,096 tokens.",
    "mixtral": "llama with 8 experts, of which 2 process a token.",
    "olmo2": "llama with norms after each branch in place of before, and over all queries and all keys.",
    "olmoe": "llama with 64 experts, of which 8 process a token, and norms over all queries and all keys.",
    "opt": "gpt2 with ReLU, and dropout of the residual branches only.",
    "phi": "gptj with biases in attention, and rotary positions in half of each head.",
    "qwen2": "llama with biases of queries, keys and values.",
    "qwen3": "llama with normalized queries and keys.",
    "qwen3_moe": "qwen3 with 128 experts, of which 8 process a token.",
    "smollm3": "llama with tied embeddings, and without positions in every fourth layer.",
    "starcoder2": "gpt2 with rotary positions and a sliding window of 4,096 tokens, without dropout.",
}

ENCODERS = {
    "bert": "learned positions, LayerNorm after each sum, GELU, biases and dropout.",
    "modernbert": "rotary positions, LayerNorm without biases, GELU as the gate and, in two of three layers, attention "
    "to 64 tokens on each side.",
    "modern": "rotary positions, RMSNorm and SwiGLU, without biases.",
    "fasttext": "a bag of tokens and n-grams without layers, for a few thousand texts.",
    "roberta": "bert with a larger epsilon in its norms.",
    "distilbert": "bert with ReLU in the pooler of its classifier, and more dropout there.",
}

ENCODER_DECODERS = {
    "vaswani2017": "sinusoidal positions, LayerNorm after each sum, ReLU and biases, as in 2017.",
    "modern": "rotary positions, also in cross-attention, RMSNorm, SwiGLU, no biases, normalized queries and keys, and "
    "blocks that start as the identity.",
    "bart": "vaswani2017 with learned positions, a norm of the embeddings, which are not scaled, and GELU.",
    "pegasus": "vaswani2017 with norms before each branch, and dropout of the attention weights.",
    "t5": "relative positions, RMSNorm, GELU as the gate, no biases, and a head of its own, as in version 1.1.",
    "mbart": "bart with norms before each branch, and scaled embeddings.",
}
