"""GGUF files of all decoder families that llama.cpp has, in llama.cpp itself, and the settings that it lacks."""

import re

import pytest
import torch
from gguf import GGUFReader
from helpers.decoders import GROUPED, LAYERS, VARIANTS, WINDOW, native_decoder
from helpers.models import tiny_model
from helpers.texts import various_texts

from scratch_gpt import ScratchGPTConfig, import_native, train_tokenizer
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.engines.export import Source, export_model
from scratch_gpt.hub.engines.gguf import GGUF
from scratch_gpt.hub.engines.gguf_architectures import ARCHITECTURES, find_architecture
from scratch_gpt.hub.engines.gguf_weights import GEMMA_27B_LAYERS, tensors
from scratch_gpt.hub.engines.llama_cpp import uses_gelu
from scratch_gpt.hub.loading import Tokenizers

SIZES = {"max_position_embeddings": 256, "intermediate_size": 64}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3["original_max_position_embeddings"] = 32
# Values that differ from llama.cpp's defaults, so that each key is needed.
HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}}
FAST = {"hidden_act": "gelu_fast", **HALF}
CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 7.0}
BY_TYPE = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}
BY_TYPE |= {"sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}
NO_ROPE = {"no_rope_layer_interval": 4, "num_hidden_layers": 5}

# Family, variant and further fields, of models that llama.cpp runs.
SUPPORTED = [
    ("Qwen2", "grouped", {}),
    ("Qwen2", "tied", {"rope_parameters": YARN}),
    ("Qwen3", "grouped", {}),
    ("Qwen3", "tied", {"rope_parameters": YARN}),
    ("Mistral", "head_dim", {}),
    ("Mistral", "0.1", {"sliding_window": 256}),
    ("SmolLM3", "plain", NO_ROPE),
    ("SmolLM3", "plain", {**NO_ROPE, "rope_parameters": YARN}),
    ("Arcee", "plain", GROUPED),
    ("Arcee", "plain", {"head_dim": 12, "rope_parameters": LLAMA3}),
    ("Olmo2", "grouped", {}),
    ("Olmo2", "plain", {"tie_word_embeddings": True, "rope_parameters": YARN}),
    ("Granite", "plain", {}),
    ("Granite", "untied", {"rope_parameters": LLAMA3}),
    ("Phi3", "partial", GROUPED),
    ("Phi3", "no window", {}),
    ("Starcoder2", "plain", {"sliding_window": None}),
    ("Starcoder2", "plain", {"sliding_window": None, "tie_word_embeddings": False, "rope_parameters": YARN}),
    ("Gemma", "plain", {}),
    ("Gemma", "plain", {"rope_parameters": YARN}),
    ("Gemma2", "plain", CAPS),
    ("Gemma2", "strong caps", {"layer_types": ["sliding_attention"] * 3}),
    ("Gemma2", "plain", {"num_hidden_layers": GEMMA_27B_LAYERS["gemma2"], "layer_types": None}),
    ("Gemma3", "scaled", {**GROUPED, "rope_parameters": BY_TYPE}),
    ("Gemma3", "plain", {"tie_word_embeddings": False, "final_logit_softcapping": 0.7}),
    ("Gemma3", "plain", {"layer_types": ["full_attention"] * 3}),
    ("Gemma3", "plain", {"attn_logit_softcapping": 0.7}),  # which neither transformers nor llama.cpp computes
    ("Gemma3", "plain", {"num_hidden_layers": GEMMA_27B_LAYERS["gemma3_text"], "layer_types": None}),
    ("GPTNeoX", "plain", HALF),
    ("GPTNeoX", "sequential", {**FAST, "rope_parameters": {**YARN, "partial_rotary_factor": 0.5}}),
    ("Phi", "plain", {}),
    ("Phi", "grouped", {"qk_layernorm": False}),
    ("Mixtral", "plain", {}),
    ("Mixtral", "window", {"sliding_window": None, "rope_parameters": LLAMA3}),
    ("Olmoe", "plain", {}),
    ("Qwen3Moe", "plain", {}),
]
FIRST_CASES = [case for i, case in enumerate(SUPPORTED) if case[0] not in [family for family, *_ in SUPPORTED[:i]]]
# Those with weights or keys of their own.
FAST_CASES = [case for case in FIRST_CASES if case[0] in ("Qwen2", "Mistral", "Granite", "Phi3", "Gemma2", "Gemma3")]
FAST_CASES += [case for case in FIRST_CASES if case[0] in ("GPTNeoX", "Qwen3Moe")]
SLOW_CASES = [case for case in SUPPORTED if case not in FAST_CASES]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(various_texts(500), "bpe", 500)


def build(tokenizer, family: str, variant: str, **fields) -> Source:
    """A model of transformers with random weights for a tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = native_decoder(family, variant, **{"vocab_size": len(tokenizer), **SIZES, **ids, **fields})
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Source("runs/tiny", model, Tokenizers(tokenizer, tokenizer))


def check_in_llama_cpp(source: Source, folder) -> None:
    """Export a model, with the comparison, and the same model in our class without: the same keys and weights."""
    compared = export_model(source, folder / "native", GGUF)["compared"]
    assert compared["engine"] == "xllamacpp"
    if uses_gelu(source.model.config):  # the export compares with a model that has the table of llama.cpp, too
        assert 0 < compared["largest_log_probability_difference"] < 0.3  # about 0.01 with three layers
    else:
        assert compared["equal_greedy"] == compared["texts"] == 8
        assert 0 < compared["largest_log_probability_difference"] < 5e-5
    (folder / "ours").mkdir()
    with torch.inference_mode():
        GGUF.write(Source(source.name, import_native(source.model), source.tokenizers), folder / "ours", "f32")
    readers = [GGUFReader(folder / name / "model-f32.gguf") for name in ("native", "ours")]
    keys = [{name: field.contents() for name, field in reader.fields.items()} for reader in readers]
    assert keys[0] == keys[1]
    weights = [{tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors} for reader in readers]
    assert list(weights[0]) == list(weights[1])
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(("family", "variant", "fields"), FAST_CASES)
def test_log_probabilities_and_greedy_texts_are_equal(family, variant, fields, tokenizer, tmp_path):
    check_in_llama_cpp(build(tokenizer, family, variant, **fields), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant", "fields"), SLOW_CASES)
def test_log_probabilities_and_greedy_texts_of_variants_are_equal(family, variant, fields, tokenizer, tmp_path):
    check_in_llama_cpp(build(tokenizer, family, variant, **fields), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "variant", "fields"), FIRST_CASES)
def test_every_change_of_the_weights_is_needed(family, variant, fields, tokenizer, tmp_path, monkeypatch):
    """The comparison with llama.cpp finds each change of the weights that is left out."""
    source = build(tokenizer, family, variant, **fields)
    architecture, _ = find_architecture(source.model)
    for omitted in architecture.changes:

        def without(model, architecture, changes, separate_head, omitted=omitted):
            kept = tuple(change for change in changes if change is not omitted)
            return tensors(model, architecture, kept, separate_head)

        monkeypatch.setattr("scratch_gpt.hub.engines.gguf.tensors", without)
        with pytest.raises(ScratchError, match=r"llama\.cpp computes other probabilities"):
            export_model(source, tmp_path / "out", GGUF)


@pytest.mark.parametrize(("family", "variant", "limit"), [("Qwen3Moe", "plain", 0.3), ("Gemma3", "plain", 0.5)])
def test_quantized_weights_are_close(family, variant, limit, tokenizer, tmp_path):
    """With all experts per token, since rounded hidden states choose others where two have almost the same score."""
    fields = {"num_experts_per_tok": 4} if family == "Qwen3Moe" else {}
    record = export_model(build(tokenizer, family, variant, **fields), tmp_path / "out", GGUF, "q8_0")
    assert 1e-3 < record["compared"]["largest_log_probability_difference"] < limit
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(tmp_path / "out" / "model-q8_0.gguf").tensors}
    float32 = {name for name, kind in kinds.items() if kind == "F32"}
    assert all("norm" in name or "ffn_gate_inp" in name for name in float32)
    assert {kinds[name] for name in set(kinds) - float32} <= {"Q8_0", "F16"}
    assert kinds["blk.0.ffn_up.weight" if family == "Gemma3" else "blk.0.ffn_up_exps.weight"] == "Q8_0"


WINDOWED = f"sliding_window is {WINDOW} and max_position_embeddings 256"
REFUSED = [
    ("Qwen2", "windows", {}, WINDOWED),
    ("Qwen2", "grouped", {"rope_parameters": LLAMA3}, "rope_type is 'llama3', the architecture qwen2 of llama.cpp has"),
    ("Qwen3", "biases", {}, "attention_bias is True, the architecture qwen3 of llama.cpp has False"),
    ("Mistral", "0.1", {}, WINDOWED),
    ("SmolLM3", "plain", {}, "no_rope_layers is [1, 0, 1], llama.cpp has [1, 1, 1]"),
    ("SmolLM3", "biases", {}, "mlp_bias is True, the architecture smollm3 of llama.cpp has False"),
    ("Arcee", "biases", {}, "mlp_bias is True, the architecture arcee of llama.cpp has False"),
    ("Olmo2", "biases", {}, "attention_bias is True, the architecture olmo2 of llama.cpp has False"),
    ("Phi3", "4k", {}, WINDOWED),
    ("Phi3", "128k", {}, "rope_type is 'longrope', the architecture phi3 of llama.cpp has default"),
    ("Starcoder2", "no biases", {}, "mlp_bias is False, the architecture starcoder2 of llama.cpp has True"),
    ("Gemma", "untied", {}, "tie_word_embeddings is False, the architecture gemma of llama.cpp has True"),
    (
        "Gemma2",
        "uncapped",
        {},
        "attn_logit_softcapping is None, llama.cpp has a number; final_logit_softcapping is None",
    ),
    (
        "Gemma2",
        "plain",
        {"layer_types": [*LAYERS[:2], "full_attention"]},
        "layer_types is ['sliding_attention', 'full_",
    ),
    (
        "Gemma2",
        "plain",
        {"layer_types": ["full_attention"] * 3},
        "layer_types has no sliding_attention, llama.cpp wants",
    ),
    (
        "GPTNeoX",
        "plain",
        {"hidden_act": "relu"},
        "hidden_act is 'relu', the architecture gptneox of llama.cpp has 'gelu",
    ),
    ("GPTNeoX", "no biases", {}, "attention_bias is False, the architecture gptneox of llama.cpp has True"),
    ("Phi", "grouped", {}, "qk_norm is True, the architecture phi2 of llama.cpp has False"),
    ("Mixtral", "window", {}, WINDOWED),
    ("Olmoe", "normalized", {}, "num_key_value_heads is 2, llama.cpp has as many as query heads, 4"),
    (
        "Olmoe",
        "plain",
        {"norm_topk_prob": True},
        "norm_topk_prob is True, the architecture olmoe of llama.cpp has False",
    ),
    ("Qwen3Moe", "not normalized", {}, "norm_topk_prob is False, the architecture qwen3moe of llama.cpp has True"),
    ("OPT", "plain", {}, "llama.cpp has no architecture for a OPTForCausalLM: supported are GPT2LMHeadModel, LlamaFor"),
    ("GPTNeo", "plain", {}, "llama.cpp has no architecture for a GPTNeoForCausalLM"),
    ("GPTJ", "plain", {}, "llama.cpp has no architecture for a GPTJForCausalLM"),
]


@pytest.mark.parametrize(("family", "variant", "fields", "message"), REFUSED)
def test_settings_that_llama_cpp_lacks_are_refused_by_name(family, variant, fields, message, tokenizer, tmp_path):
    source = build(tokenizer, family, variant, **fields)
    with pytest.raises(ScratchError, match=re.escape(message)):
        export_model(source, tmp_path / "out", GGUF)
    assert list(tmp_path.iterdir()) == []


def test_windows_with_scaled_positions_are_refused(tokenizer, tmp_path):
    source = build(tokenizer, "Gemma3", "scaled")
    source.model.config.rope_parameters["sliding_attention"] = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    with pytest.raises(ScratchError, match="rope_type of sliding_attention is 'linear'"):
        export_model(source, tmp_path / "out", GGUF)


def test_models_of_our_presets_have_the_architecture_of_their_family():
    """A model that was not imported is exported as the first architecture that has its settings."""
    names = {"gpt_neox": "gptneox", "qwen3_moe": "qwen3moe", "phi": "phi2", "mistral": "llama", "mixtral": "llama"}
    for preset in ScratchGPTConfig.presets:
        fields = {"hidden_act": "gelu_new"} if preset == "gpt_neox" else {}
        model = tiny_model(preset, num_hidden_layers=6, **fields)
        if preset in ("nanochat", "nanochat_ngram", "opt", "gpt_neo", "gptj"):
            with pytest.raises(ScratchError, match=r"llama\.cpp "):
                find_architecture(model)
        else:
            assert find_architecture(model)[0].name == names.get(preset, preset)


def test_every_architecture_is_tested():
    tested = {name for name in VARIANTS if any(name == family for family, *_ in SUPPORTED)}
    classes = {architecture.twin.model_class.__name__.removesuffix("ForCausalLM") for architecture in ARCHITECTURES}
    assert classes - {"GPT2LMHeadModel", "Llama"} == tested
