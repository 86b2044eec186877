"""The configs of published decoder checkpoints (their `config.json`, in tests/helpers/published_configs): each is
accepted, and a model of its shape with fewer layers gives the logits of transformers' class."""

import json
from pathlib import Path

import pytest
import torch
from helpers import models
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from scratch_gpt import export_native, import_native
from scratch_gpt.hub.native.registry import TWINS

CONFIGS = json.loads((Path(models.__file__).parent / "published_configs" / "decoders.json").read_text(encoding="utf-8"))
LARGE = 6e7  # parameters of a layer, from which on the comparison is a slow test


def config_of(name: str, **changes):
    fields = {**CONFIGS[name], **changes}
    return AutoConfig.for_model(**{key: value for key, value in fields.items() if key != "auto_map"})


def one_layer(name: str):
    """The config with one layer, a small vocabulary and few experts."""
    fields = CONFIGS[name]
    changes = {"vocab_size": 500, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    changes["num_layers" if "num_layers" in fields else "n_layer" if "n_layer" in fields else "num_hidden_layers"] = 1
    changes |= {key: fields[key][-1:] for key in ("layer_types", "no_rope_layers") if key in fields}
    changes |= {key: fields["num_experts_per_tok"] + 1 for key in ("num_experts", "num_local_experts") if key in fields}
    if "attention_types" in fields:
        changes |= {"attention_types": [[["local"], 1]], "attention_layers": ["local"]}
    return config_of(name, **changes)


def twin_of(config):
    return next(twin for twin in TWINS if twin.config_class is type(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_published_config_is_accepted(name):
    native = config_of(name)
    twin = twin_of(native)
    assert twin.import_incompatibilities(native) == []
    ours = twin.config_from_native(native)
    assert twin.export_incompatibilities(ours) == []
    restored, expected = twin.config_to_native(ours).to_dict(), native.to_dict()
    for key in set(expected) & set(restored):
        if expected[key] is not None and key not in (
            "attention_types",
            "dtype",
            "_name_or_path",
            "transformers_version",
            "architectures",
        ):
            assert restored[key] == expected[key], key
    with torch.device("meta"):
        counts = [sum(p.numel() for p in model(config).parameters()) for model, config in (
            (twin.model_class, native), (twin.our_model_class, ours))]  # fmt: skip
    # Phi's bias of a tied head and OPT's two rows of positions are the only differences
    assert abs(counts[0] - counts[1]) <= 2 * ours.hidden_size


def sizes():
    for name in CONFIGS:
        with torch.device("meta"):
            count = AutoModelForCausalLM.from_config(one_layer(name)).num_parameters()
        yield pytest.param(name, marks=[pytest.mark.slow] if count > LARGE else [])


def fill(model):
    """Fill the parameters with random numbers: norms around 1, and the others, which may have a billion values, with
    repetitions of the same ones, of a length that fits no dimension."""
    numbers = torch.randn((1 << 20) + 7) * 0.02
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.data.copy_(torch.randn(weight.shape) * 0.2 + (1.0 if name.endswith("weight") else 0.0))
            continue
        numbers = numbers.roll(1009)  # so that no two parameters are equal
        for part in weight.data.view(-1).split(len(numbers)):
            part.copy_(numbers[: len(part)])


@pytest.mark.parametrize("name", sizes())
def test_a_layer_of_a_published_shape_has_the_logits_of_transformers(name):
    torch.manual_seed(0)
    with no_init_weights():
        native = AutoModelForCausalLM.from_config(one_layer(name), attn_implementation="eager", dtype=torch.float32)
    native.eval()
    native.tie_weights()
    fill(native)
    ids = torch.randint(3, 500, (1, 12))
    with torch.no_grad():
        expected = native(ids).logits
        ours = import_native(native)
        del native
        actual = ours(ids).logits
        again = export_native(ours)(ids).logits
    assert expected.std() > 1e-3
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual, expected, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(again, expected, atol=1e-4 * scale, rtol=0)
