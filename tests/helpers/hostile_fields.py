"""Hostile values for the files of a run, and the fields that are known to have an effect.

In the texts of a plan, `@OUTSIDE@` is a folder that no command may write to, `@HERE@` the directory, `@MARK@` a file
that code would create, and `@DEEP9@`, `@LONG9@`, `@DIGITS9@`, `@MANY9@` and `@NAMES9@` for nine levels of
lists, letters, digits, items of a list and of a mapping.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

ANSI = "\x1b[31mHOSTILE\x1b[0m\x07"
CODE = "import pathlib\npathlib.Path('@MARK@').touch()\n"
ESCAPE = "{{ cycler.__init__.__globals__.os.system('touch @MARK@') }}"
ENDLESS = "{% for a in range(999999999) %}{% for b in range(999999999) %}x{% endfor %}{% endfor %}"

TASKS = ("language_modeling", "sft", "dpo", "policy_gradient", "translation", "classification", "masked_lm")

# --- values ---

NUMBERS = [0, 1, -1, 3, 17, 65537, 10**6, 10**9, 2**31, 2**63, 2**64, 10**30, -(10**9), 0.5, -0.5, 1e-12, 1e308]
NUMBERS += [float("nan"), float("inf"), float("-inf"), True, False, None, "@DIGITS400@", "@DIGITS5000@"]
PATHS = ["../../x", "/etc/passwd", "@OUTSIDE@/secret.txt", "@OUTSIDE@/model", "@OUTSIDE@", "../outside/secret.txt"]
PATHS += ["..", ".", "/", "~/x", "/dev/zero", "file:///etc/passwd", "http://127.0.0.1:9/x", "hf://a/b", "C:\\x", "a/b"]
NAMES = ["os.system", "builtins.exec", "subprocess.Popen", "torch.load", "evil.Model", "evil", "a/b--evil.Model"]
NAMES += ["@OUTSIDE@--evil.Model", "sub/evil.Model", "../outside/evil.Model", "helper.py:f", "@HERE@/helper.py:f"]
NAMES += ["GPT2LMHeadModel", "LlamaForCausalLM", "gpt2", "llama", "bert", "char", "bpe", "stories", "from_pretrained"]
TEXTS = ["", " ", "x", "nan", "None", "true", "-1", "1e99", ANSI, "[/x]", "[link=file:///etc/passwd]x[/link]", "a\nb"]
TEXTS += ["\ud800", "\x00", "a |\n\n## Licence\n\n![x](http://127.0.0.1:9)", "<img src=x>", "@LONG3000000@", "%s%n{0}"]
TEXTS += [ESCAPE, ENDLESS, "\u202egnp.x", "\ufeff"]
AUTO_MAPS = [
    {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": [None, "evil.Fast"]},
    {"AutoConfig": "a/b--evil.Config", "AutoModelForCausalLM": "a/b--evil.Model"},
    {"AutoConfig": "sub/evil.Config", "AutoModelForCausalLM": "sub.evil.Model"},
    {"AutoConfig": "@OUTSIDE@--evil.Config", "AutoModelForCausalLM": "../outside/evil.Model"},
    {"AutoConfig": ["evil.Config", None], "AutoTokenizer": "evil.Fast"},
    ["evil.Slow", "evil.Fast"],
]
STRUCTURES = [[], {}, [[]], [None], {"": None}, {"a": {"b": []}}, [1, "x", None], "@DEEP60@", "@DEEP900@"]
STRUCTURES += ["@DEEP200000@", "@MANY600000@", "@NAMES100000@", *AUTO_MAPS]
VALUES = st.one_of(
    *(st.sampled_from(values) for values in (NUMBERS, PATHS, NAMES, TEXTS, STRUCTURES)),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=12),
)
SIZES = st.sampled_from([0, -1, 1, 2, 3, 16, 1000, 10**5, 10**7, 10**9, 2**31, 2**63, 1.5, "8", None, True, [], 1e30])


def _one_of(*values: Any) -> st.SearchStrategy[Any]:
    """Mostly one of these values, else any hostile value."""
    known = st.sampled_from(values)
    return st.sampled_from([known, known, known, VALUES]).flatmap(lambda chosen: chosen)


# --- fields that are known to have an effect, by file ---

CONFIG = {
    **{
        name: SIZES
        for name in (
            *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
            *("intermediate_size", "max_position_embeddings", "head_dim", "ngram_buckets", "ngram_size", "num_labels"),
            *("num_experts", "num_local_experts", "n_layer", "n_embd", "type_vocab_size", "encoder_layers"),
        )
    },
    "model_type": _one_of("gpt2", "llama", "bert", "scratch_bigram", "scratch_seq2seq", "scratch_encoder", "theirs"),
    "architectures": _one_of(["ScratchGPTForSequenceClassification"], ["XForMaskedLM"], ["os.system"], "x", [None], []),
    "auto_map": st.sampled_from(AUTO_MAPS),
    "custom_pipelines": _one_of({"text-generation": {"impl": "evil.Pipe", "pt": ["AutoModelForCausalLM"]}}, ["x"]),
    "quantization_config": _one_of(
        *({"quant_method": name, "bits": 4} for name in ("bitsandbytes", "gptq", "awq", "fp8", "torchao", "evil")),
        {"load_in_4bit": True},
    ),
    "dtype": _one_of("float16", "bfloat16", "int8", "float8_e4m3fn", "os.system", "load", {"": "float32"}, "auto"),
    "torch_dtype": _one_of("float64", "evil"),
    "transformers_weights": _one_of("weights.bin", "../outside/weights.safetensors", "evil.safetensors"),
    "attn_implementation": _one_of("eager", "flash_attention_2", "kernels-community/flash-attn", "paged|eager"),
    "_attn_implementation": _one_of("kernels-community/flash-attn", "a/b:c"),
    "attribute_map": _one_of({"hidden_size": "vocab_size"}, {"a": "b", "b": "a"}, {"vocab_size": "vocab_size"}),
    "id2label": _one_of({"0": "a |\n\n## x", "1": ANSI}, "@NAMES3000000@", {"x": "y"}, ["a", "b"]),
    "rope_parameters": _one_of(
        {"rope_type": "yarn", "factor": 1e9, "rope_theta": 1e4, "original_max_position_embeddings": 4},
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": "@MANY600000@", "rope_theta": 1e4},
        {"rope_type": "dynamic", "factor": float("nan"), "rope_theta": 0},
    ),
    "text_config": _one_of({"model_type": "llama", "hidden_size": 10**9}),
    "position_type": _one_of("learned", "alibi", "sinusoidal", "relative"),
    "ngram_sizes": _one_of([3, 3, 3], [10**9]),
    "hidden_act": _one_of("relu", "xielu"),
    "tokenizer_class": _one_of("GPT2Tokenizer", "BertJapaneseTokenizer", "os.system"),
    "pruned_heads": _one_of({"0": [0]}),
    "eos_token_id": _one_of([1, 2], 36, -5, []),
    "problem_type": _one_of("regression"),
    "transformers_version": _one_of("99.0", "0.0.1"),
    "layer_types": _one_of(["full_attention"] * 3),
    **{
        name: _one_of(True, False)
        for name in (
            *("is_encoder_decoder", "is_decoder", "tie_word_embeddings", "trust_remote_code", "use_cache"),
            *("return_dict", "output_attentions", "output_hidden_states", "torchscript", "gradient_checkpointing"),
        )
    },
    **{
        name: VALUES
        for name in (
            *("to_dict", "__class__", "__dict__", "_name_or_path", "name_or_path", "presets", "layer_fields", "x"),
            *("pad_token_id", "bos_token_id", "base_model_tp_plan", "sub_configs", "chunk_size_feed_forward"),
            *("initializer_range", "norm_eps", "norm_type", "norm_position", "attention_dropout", "vision_config"),
            *("_commit_hash", "backbone", "decoder", "adapter_config", "_auto_class", "label2id", "per_layer_config"),
        )
    },
}
TOKENIZER_CONFIG = {
    "tokenizer_class": _one_of(
        *("PreTrainedTokenizerFast", "GPT2Tokenizer", "LlamaTokenizer", "BertJapaneseTokenizer", "ByT5Tokenizer"),
        *("MistralCommonBackend", "SentencePieceBackend", "os.system", "Wav2Vec2CTCTokenizer", "TokenizersBackend"),
    ),
    "auto_map": st.sampled_from([{"AutoTokenizer": [None, "evil.Fast"]}, {"AutoTokenizer": "evil.Slow"}, *AUTO_MAPS]),
    "chat_template": _one_of(
        ESCAPE, ENDLESS, "{% include '/etc/passwd' %}", [{"name": "default", "template": ENDLESS}]
    ),
    "added_tokens_decoder": _one_of(
        {"4000000000": {"content": "x", "special": True}}, {"x": {"content": ANSI}}, {"0": "x"}, "@NAMES100000@"
    ),
    "extra_special_tokens": _one_of(
        {"from_pretrained": "x"}, {"convert_tokens_to_ids": "x"}, ["<a>", 7], "@MANY600000@"
    ),
    "additional_special_tokens": _one_of(["<a>", {"__type": "AddedToken", "content": "<b>"}], [1], ["@LONG3000000@"]),
    **{
        name: _one_of({"__type": "AddedToken", "content": ANSI}, "") for name in ("eos_token", "bos_token", "pad_token")
    },
    **{name: st.sampled_from(PATHS) for name in ("tokenizer_file", "vocab_file", "merges_file", "subfolder")},
    "fast_tokenizer_files": _one_of(["tokenizer.1.0.json"], ["../outside/tokenizer.1.0.json"], ["tokenizer.x.json"]),
    "gguf_file": _one_of("x.gguf", "../outside/x.gguf"),
    "backend": _one_of("sentencepiece", "mistral-common", "custom"),
    "model_max_length": SIZES,
    "model_input_names": _one_of(["../x"], [7], []),
    **{name: _one_of(True, False) for name in ("from_slow", "use_fast", "trust_remote_code", "add_prefix_space")},
    **{name: _one_of(True, False) for name in ("is_local", "local_files_only", "fix_mistral_regex")},
    **{
        name: VALUES
        for name in ("padding_side", "truncation_side", "processor_class", "name_or_path", "tokenizer_object")
    },
    **{name: VALUES for name in ("split_special_tokens", "__class__", "token", "revision", "init_inputs", "unk_token")},
}
PATTERNS = ["(a+)+$", "(?:a?){60}a{60}", "((((((((((x*)*)*)*)*)*)*)*)*)*)*$", "[", "(?=.*)*", "\\p{L}{1,100000}", ""]
SPLITS = [{"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False} for p in PATTERNS]
TOKENIZER = {
    "pre_tokenizer": _one_of(*SPLITS, {"type": "Sequence", "pretokenizers": "@MANY600000@"}, {"type": "evil"}),
    "normalizer": _one_of(
        *({"type": "Replace", "pattern": {"Regex": p}, "content": "@LONG3000000@"} for p in PATTERNS),
        {"type": "Replace", "pattern": {"String": ""}, "content": "xx"},
        {"type": "Prepend", "prepend": "@LONG3000000@"},
        {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    ),
    "decoder": _one_of({"type": "Replace", "pattern": {"String": "a"}, "content": ANSI}, {"type": "Metaspace"}),
    "post_processor": _one_of(
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<no>", "type_id": 0}}],
            "pair": [],
            "special_tokens": {"<no>": {"id": "<no>", "ids": [4000000000], "tokens": ["<no>"]}},
        },
        {"type": "RobertaProcessing", "sep": ["x", 10**9], "cls": ["y", 10**9], "trim_offsets": True},
    ),
    "padding": _one_of(
        *(
            {
                "strategy": s,
                "direction": "Right",
                "pad_to_multiple_of": m,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
            for s, m in (({"Fixed": 10**9}, None), ("BatchLongest", 10**9), ("BatchLongest", 0))
        )
    ),
    "truncation": _one_of(
        *({"direction": "Right", "max_length": n, "strategy": "LongestFirst", "stride": s} for n, s in ((0, 0), (1, 9)))
    ),
    "added_tokens": _one_of(
        [{"id": 4000000000, "content": "x", "special": True}],
        [{"id": n, "content": ANSI, "special": True, "normalized": False} for n in range(3)],
        [{"id": 0, "content": "", "special": True}],
        [{"id": 0, "content": "@LONG3000000@", "special": True}],
    ),
    "model": _one_of(
        {"type": "WordLevel", "vocab": {"a": 4000000000, "<eos>": 2}, "unk_token": "<no>"},
        {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": [["a", "b"]]},
        {"type": "Unigram", "vocab": [["a", float("nan")]], "unk_id": 10**9},
        {"type": "Unigram", "vocab": [], "unk_id": None},
        {"type": "WordPiece", "vocab": {}, "unk_token": "x", "max_input_chars_per_word": 0},
    ),
    "version": VALUES,
}
GENERATION = {
    "custom_generate": _one_of("custom_generate", ".", "a/b", "@HERE@"),
    **{
        name: SIZES
        for name in (
            *("max_new_tokens", "max_length", "min_length", "min_new_tokens", "num_beams", "num_return_sequences"),
            *("num_beam_groups", "top_k", "top_h", "prompt_lookup_num_tokens", "no_repeat_ngram_size", "max_time"),
            *("pad_token_id", "prefill_chunk_size", "encoder_no_repeat_ngram_size", "guidance_scale", "top_p"),
        )
    },
    "eos_token_id": _one_of([1, 2], [10**9], [], "@MANY600000@"),
    "stop_strings": _one_of(["a"], "@LONG3000000@", ["@LONG3000000@"]),
    "bad_words_ids": _one_of([[1]], [[10**9]], [[]]),
    "sequence_bias": _one_of([[[1], 1e9]], {"1": 5}),
    "cache_implementation": _one_of("static", "offloaded", "quantized", "paged", "x"),
    "compile_config": _one_of({"backend": "inductor", "fullgraph": True}, {"backend": "os.system"}),
    "watermarking_config": _one_of({"greenlist_ratio": 0.0}, {"ngram_len": 10**6}),
    **{name: VALUES for name in ("temperature", "repetition_penalty", "penalty_alpha", "forced_eos_token_id")},
    **{name: VALUES for name in ("suppress_tokens", "assistant_model", "do_sample", "token_healing", "return_dict")},
    **{name: VALUES for name in ("trust_remote_code", "is_assistant", "_from_model_config", "transformers_version")},
    **{name: _one_of(True) for name in ("output_scores", "output_attentions", "return_dict_in_generate")},
}
REWARDS = ["helper.py:f", "@HERE@/helper.py:f", "helper:f", "os:system", "@HERE@", "(a+)+$", "regex:(a+)+$", "length"]
ARGUMENTS = {
    "trust_remote_code": _one_of(True, "yes"),
    "reward": st.sampled_from(REWARDS),
    "init_from": _one_of("@HERE@", "@OUTSIDE@/model", "a/b"),
    "dataset": _one_of(
        "stories", "@OUTSIDE@", "@HERE@", "@OUTSIDE@/secret.txt", "*", "**/*", "[", "x::y", "a/b", "/dev"
    ),
    "validation_dataset": _one_of("stories", "@OUTSIDE@/secret.txt", "@HERE@/data.parquet"),
    "tokenizer": _one_of("@HERE@", "@OUTSIDE@/model", "bpe"),
    "tracker": _one_of("tensorboard", "wandb", "trackio"),
    "output_dir": st.sampled_from(PATHS),
    "optimizer": _one_of("adamw", "os.system"),
    "precision": _one_of("bf16"),
    "compile": _one_of("off", "yes"),  # "on" would take the time of compilation
    "keep_last": _one_of(0, -1, 1),
    "gradient_accumulation_steps": _one_of(0, 10**9),
    "metric_for_best_model": _one_of("val_loss", ANSI),
    "dataset_license": _one_of("a\n---\n# x", ANSI),
    "max_steps": _one_of(0, 1, 10**12),
    **{
        name: SIZES
        for name in (
            *(
                "num_stories",
                "batch_size",
                "context_length",
                "num_threads",
                "seed",
                "epochs",
                "vocab_size",
                "save_every",
            ),
            *("eval_every", "log_every", "split_seed", "max_documents", "validation_fraction", "average_decay"),
        )
    },
    **{
        name: VALUES
        for name in (
            *("learning_rate", "weight_decay", "schedule", "preset", "streaming", "dropout", "allow_changed_settings"),
            *("text_column", "delimiter", "dataset_config", "config", "resume", "evil", "max_grad_norm", "lora_rank"),
        )
    },
}
RUN = {
    **{f"arguments/{name}": values for name, values in ARGUMENTS.items()},
    "facts/task": _one_of(*TASKS, "../x", "os", ".."),
    "machine/processes": SIZES,
    **{
        name: VALUES
        for name in ("arguments", "facts", "machine", "versions", "started", "facts/title", "facts/dataset")
    },
    **{name: VALUES for name in ("facts/prompt", "facts/data", "facts/data/labels", "facts/license", "facts/train")},
    **{name: VALUES for name in ("facts/data/fingerprint", "facts/data/files", "facts/data/rows_skipped")},
}
STATE = {
    **{name: VALUES for name in ("step", "loop", "task", "param_groups", "random", "loop/step", "loop/data", "x")},
    **{name: VALUES for name in ("loop/data/epoch", "loop/data/row", "loop/best_step", "loop/best_metric", "random/0")},
}
MANIFEST = {
    "files": _one_of({"../../../outside/secret.txt": {"size": 1, "sha256": "x"}}, {"config.json": None}, ["x"]),
    **{name: VALUES for name in ("sha256", "files/config.json", "files/config.json/size", "files/../x")},
}
METRICS = {name: VALUES for name in ("step", "val_loss", "train_loss", "sample", "seconds", "learning_rate", "x")}
FIELDS = {
    "config.json": CONFIG,
    "tokenizer_config.json": TOKENIZER_CONFIG,
    "tokenizer.json": TOKENIZER,
    "generation_config.json": GENERATION,
    "run.yaml": RUN,
    "training_state.json": STATE,
    "manifest.json": MANIFEST,
    "metrics.jsonl": METRICS,
}
