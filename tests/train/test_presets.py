"""Every preset is described, and those of the GPT train from nothing at any size with a command."""

import pytest
import torch
from helpers.processes import PRETRAIN, TINY_LOOP, run_here
from transformers import AutoModelForCausalLM

from scratch_gpt import ScratchEncoderConfig, ScratchGPTConfig, ScratchSeq2SeqConfig
from scratch_gpt.errors import ScratchError
from scratch_gpt.models.configuration_scratch_gpt import PRESETS
from scratch_gpt.models.preset_descriptions import DECODERS
from scratch_gpt.train.tasks.classification.arguments import ClassifierModelArguments
from scratch_gpt.train.tasks.encoder_model import build_config as build_classifier_config
from scratch_gpt.train.tasks.language_modeling.arguments import ModelArguments
from scratch_gpt.train.tasks.language_modeling.build import build_config

FAST = ("gemma2", "gemma3", "gpt_neox", "mixtral", "olmo2", "smollm3")
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def config_of(preset: str, **fields) -> ScratchGPTConfig:
    """The config of a new language model."""
    return build_config(ModelArguments(preset=preset, **TINY, **fields), 99, 64, {})


@pytest.mark.parametrize("config_class", [ScratchGPTConfig, ScratchEncoderConfig, ScratchSeq2SeqConfig])
def test_every_preset_has_one_sentence(config_class):
    assert list(config_class.preset_descriptions) == list(config_class.presets)
    for description in config_class.preset_descriptions.values():
        assert description.endswith(".")
        assert ". " not in description


def test_help_and_errors_list_all_presets(tmp_path):
    for family in ("language_modeling", "distillation", "classification"):
        text = " ".join(run_here("scratch-gpt", "train", family, "--help").stdout.split())
        assert all(f"- {name}: {description}" in text for name, description in DECODERS.items())
    with pytest.raises(ScratchError, match="unknown preset 'lama': choose one of bigram, " + ", ".join(PRESETS)):
        config_of("lama")
    with pytest.raises(ScratchError, match="unknown preset 'lama': .*" + ", ".join(PRESETS)):
        build_classifier_config(ClassifierModelArguments(preset="lama"), 99, {})


@pytest.mark.parametrize(
    "preset", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in PRESETS]
)
def test_a_preset_is_trained_saved_loaded_and_generates(preset, text_file, tmp_path):
    sizes = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    sizes += ["--sliding_window", "8"] if "sliding_window" in PRESETS[preset] else []
    sizes += ["--num_experts", "4"] if "num_experts" in PRESETS[preset] else []
    options = ("--output_dir", str(tmp_path), "--dataset", str(text_file), "--tokenizer", "char", *TINY_LOOP)
    run_here(PRETRAIN, *options, *sizes, "--preset", preset, "--max_steps", "3")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = ScratchGPTConfig.from_preset(preset, **TINY).to_dict()
    found = {name: value for name, value in model.config.to_dict().items() if name in PRESETS[preset]}
    changed = {name for name, value in found.items() if value != expected[name]}
    assert changed <= {"sliding_window", "num_experts", "num_experts_per_tok"}
    ids = torch.randint(5, model.config.vocab_size, (1, 12))
    text = ids
    with torch.no_grad():
        for _ in range(6):
            text = torch.cat([text, model(text, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=None), text)


def test_number_of_experts():
    """A model of 128 experts is not usable at a small size, so that they can be fewer."""
    published = config_of("qwen3_moe")
    assert (published.num_experts, published.num_experts_per_tok) == (128, 8)
    fewer = config_of("qwen3_moe", num_experts=16)
    assert (fewer.num_experts, fewer.num_experts_per_tok) == (16, 8)
    fewest = config_of("qwen3_moe", num_experts=4)
    assert (fewest.num_experts, fewest.num_experts_per_tok) == (4, 4)
    assert config_of("qwen3_moe", num_experts=4, num_experts_per_tok=1).num_experts_per_tok == 1
    assert config_of("mixtral", num_experts=0).num_experts == 0
    assert config_of("llama", num_experts=4).num_experts_per_tok == 2
    with pytest.raises(ScratchError, match="num_experts is 4 and num_experts_per_tok 5, want"):
        config_of("mixtral", num_experts=4, num_experts_per_tok=5)
    with pytest.raises(ScratchError, match="num_experts is 4: experts require mlp_gated"):
        config_of("gpt2", num_experts=4)
    for ignored in ({"preset": "llama"}, {"preset": "mixtral", "num_experts": 0}):
        with pytest.raises(ScratchError, match="num_experts_per_tok is given for a model without experts"):
            config_of(**ignored, num_experts_per_tok=2)
    with pytest.raises(ScratchError, match="num_experts, num_experts_per_tok given for 'bigram', which has no layers"):
        config_of("bigram", num_experts=4)
    arguments = ClassifierModelArguments(preset="olmoe", num_experts=4, sliding_window=9)
    classifier = build_classifier_config(arguments, 99, {})
    assert (classifier.num_experts, classifier.num_experts_per_tok, classifier.sliding_window) == (4, 4, 9)


def test_sliding_window():
    with pytest.raises(ScratchError, match="sliding_window given for 'fasttext', which has no layers"):
        build_classifier_config(ClassifierModelArguments(preset="fasttext", sliding_window=9), 99, {})
    sliding, full = "sliding_attention", "full_attention"
    every = config_of("llama", sliding_window=9)
    assert (every.sliding_window, every.layer_types) == (9, [sliding] * 2)
    second = config_of("gemma2", sliding_window=9)
    assert (second.sliding_window, second.layer_types) == (9, [sliding, full])
    assert config_of("mistral").sliding_window == 4096
    assert config_of("llama").layer_types is None
