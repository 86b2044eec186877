"""Export to ONNX: ONNX Runtime computes the same without this package, and what can't be exported is refused."""

import json
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import lift_norms, randomise, tiny_config, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.processes import PROJECT, run_python
from transformers import MistralConfig, MistralForCausalLM

from scratch_gpt import (
    ScratchBigramConfig,
    ScratchBigramForCausalLM,
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchGPTForSequenceClassification,
    ScratchGPTModel,
    train_tokenizer,
)
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.engines import onnx_comparison
from scratch_gpt.hub.engines.export import SAMPLE_TEXTS, Source, export_model
from scratch_gpt.hub.engines.onnx import ONNX
from scratch_gpt.hub.loading import Tokenizers

VOCAB, TARGET_VOCAB = 300, 280
DOCS = (PROJECT / "docs" / "how-to" / "engines-onnx.md").read_text(encoding="utf-8")
TEXT = "One day, Anna saw a lamp."
FULL_ATTENTION = {"vocab_size": VOCAB, "layer_types": ["full_attention"] * 2, "sliding_window": None}
TWO_TOKENIZERS = {"decoder_vocab_size": TARGET_VOCAB, "share_encoder_decoder_embeddings": False}


def tiny_bigram():
    return randomise(
        ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=VOCAB, pad_token_id=0, eos_token_id=2))
    ).eval()


def tiny_classifier(preset: str, **overrides):
    return tiny_encoder(ScratchEncoderForSequenceClassification, preset, vocab_size=VOCAB, **overrides)


def tiny_translator(preset: str, **overrides):
    """With smaller residual branches than embeddings: otherwise, with random weights, it repeats one token."""
    model = tiny_seq2seq(preset, vocab_size=VOCAB, tie_word_embeddings=False, **overrides)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.bias", "o_proj.weight", "down_proj.weight")):
                parameter.mul_(0 if "norm" in name else 0.5)
    return model


MODELS = {
    "bigram": ("causal", tiny_bigram),
    "gpt2": ("causal", lambda: lift_norms(tiny_model("gpt2", vocab_size=VOCAB))),
    "llama": ("causal", lambda: tiny_model("llama", vocab_size=VOCAB, num_key_value_heads=2, head_dim=12)),
    "nanochat": ("causal", lambda: tiny_model("nanochat", vocab_size=VOCAB)),
    "nanochat_ngram": ("causal", lambda: tiny_model("nanochat_ngram", vocab_size=VOCAB)),
    "gpt_neox": ("causal", lambda: lift_norms(tiny_model("gpt_neox", vocab_size=VOCAB))),
    "smollm3": ("causal", lambda: tiny_model("smollm3", vocab_size=VOCAB, no_rope_layers=[1, 0])),
    "gemma3": ("causal", lambda: lift_norms(tiny_model("gemma3", **FULL_ATTENTION))),
    "vaswani2017": ("seq2seq", lambda: tiny_translator("vaswani2017", **TWO_TOKENIZERS)),
    "modern": ("seq2seq", lambda: tiny_translator("modern")),
    "t5": ("seq2seq", lambda: tiny_translator("t5")),
    "relative": ("causal", lambda: tiny_model("llama", vocab_size=VOCAB, position_type="relative")),
    "bert": ("masked", lambda: tiny_encoder(ScratchEncoderForMaskedLM, "bert", vocab_size=VOCAB)),
    "bert_with_types": ("classifier", lambda: tiny_classifier("bert", type_vocab_size=2)),
    "modernbert": (
        "masked",
        lambda: tiny_encoder(
            ScratchEncoderForMaskedLM,
            "modernbert",
            vocab_size=VOCAB,
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=3,
        ),
    ),
    "modern_classifier": ("classifier", lambda: tiny_classifier("modern")),
    "fasttext": ("classifier", lambda: tiny_classifier("fasttext", num_hidden_layers=0, ngram_buckets=64)),
    "gpt_classifier": (
        "classifier",
        lambda: randomise(
            ScratchGPTForSequenceClassification(tiny_config("llama", vocab_size=VOCAB, num_labels=3))
        ).eval(),
    ),
}
# Models whose parts the others have too.
SIMILAR = ("nanochat", "gpt_neox", "smollm3", "relative", "modern", "modern_classifier")
# Reads inputs.npz and writes outputs.npz in the working directory: logits for each batch, and greedy continuations.
RUN_WITHOUT_PACKAGE = """
import sys
sys.modules["scratch_gpt"] = None  # as if it were not installed
from pathlib import Path
import numpy as np
from onnxruntime import InferenceSession
from transformers import AutoTokenizer

folder, kind, text = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sessions = {path.stem: InferenceSession(str(path)) for path in folder.glob("*.onnx")}


def run(name, inputs):
    session = sessions[name]
    inputs = {each.name: inputs[each.name] for each in session.get_inputs()}
    return dict(zip((each.name for each in session.get_outputs()), session.run(None, inputs)))


def empty_past(rows):
    inputs = [each for each in sessions["model"].get_inputs() if each.name.startswith("past")]
    return {each.name: np.zeros((rows, each.shape[1], 0, each.shape[3]), np.float32) for each in inputs}


def past_of(outputs):
    return {name.replace("present", "past_key_values"): value for name, value in outputs.items() if "present" in name}


def encode(ids, mask):
    states = run("encoder_model", {"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    return {"encoder_attention_mask": mask, "encoder_hidden_states": states}


def greedy(ids, mask, count):
    tokens, rows = [], len(ids)
    if kind == "seq2seq":
        state, step, name = encode(ids, mask), np.zeros((rows, 1), np.int64), "decoder_model"
    else:
        state, step, name = empty_past(rows), ids, "model"
    for _ in range(count):
        outputs = run(name, {"input_ids": step, "attention_mask": mask, **state})
        tokens.append(outputs["logits"][:, -1:].argmax(-1))
        has_cache = kind == "seq2seq" or bool(state)
        state, name = state | past_of(outputs), "decoder_with_past_model" if kind == "seq2seq" else "model"
        step = tokens[-1] if has_cache else np.concatenate((step, tokens[-1]), axis=1)
        if kind != "seq2seq":
            mask = np.concatenate((mask, np.ones((rows, 1), np.int64)), axis=1)
    return np.concatenate(tokens, axis=1)


given, found = np.load("inputs.npz"), {}
for name in {key.split(".")[0] for key in given if key.startswith("batch")}:
    ids, mask = given[f"{name}.ids"], given[f"{name}.mask"]
    if kind == "seq2seq":
        found[name] = run("decoder_model", {"input_ids": given[f"{name}.target"], **encode(ids, mask)})["logits"]
    else:
        inputs = {"input_ids": ids, "attention_mask": mask}
        found[name] = run("model", inputs | (empty_past(len(ids)) if kind == "causal" else {}))["logits"]
    if kind in ("causal", "seq2seq"):
        found[name + ".greedy"] = greedy(ids, mask, 16)
found["text"] = AutoTokenizer.from_pretrained(folder)(text).input_ids
if (folder / "target_tokenizer").exists():
    found["target_text"] = AutoTokenizer.from_pretrained(folder / "target_tokenizer")(text).input_ids
np.savez("outputs.npz", **found)
"""


@cache
def tokenizer_of(vocab_size: int, template: str = "causal"):
    return train_tokenizer(stories(seed=0, count=100), "bpe", vocab_size, template=template)


def source_of(model, name: str = "name") -> Source:
    is_seq2seq = model.config.is_encoder_decoder
    tokenizer = tokenizer_of(VOCAB, "seq2seq" if is_seq2seq else "causal")
    has_own = is_seq2seq and model.config.decoder_vocab_size != VOCAB
    return Source(name, model, Tokenizers(tokenizer, tokenizer_of(TARGET_VOCAB, "seq2seq") if has_own else tokenizer))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export a model of `MODELS`, once per process: its source, the folder and the record."""

    @cache
    def export(name: str) -> tuple[Source, Path, dict]:
        source, folder = source_of(MODELS[name][1]()), tmp_path_factory.mktemp(name) / "onnx"
        record = export_model(source, folder, ONNX)
        return source, folder, record

    return export


def random_batches(model, kind: str) -> dict[str, np.ndarray]:
    """Ids and mask for one row and for three, each of two lengths. In a batch of a model that generates, the first row
    is padded on the left; otherwise the second one, on the right."""
    generator, batches = torch.Generator().manual_seed(0), {}
    for rows, length in ((1, 6), (1, 13), (3, 9), (3, 17)):
        ids = torch.randint(3, VOCAB, (rows, length), generator=generator)
        mask = torch.ones_like(ids)
        if rows > 1:
            if kind == "causal":
                mask[0, :3] = 0
            else:
                mask[1, -3:] = 0
        name = f"batch_{rows}_{length}"
        target = torch.randint(3, TARGET_VOCAB, (rows, length - 2), generator=generator)
        batches |= {f"{name}.ids": ids.numpy(), f"{name}.mask": mask.numpy(), f"{name}.target": target.numpy()}
    return batches


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.release if name in SIMILAR else pytest.mark.slow) for name in MODELS]
)
def test_onnx_runtime_without_the_package_computes_the_same(name, exported, tmp_path):
    kind = MODELS[name][0]
    source, folder, record = exported(name)
    model, batches = source.model, random_batches(source.model, kind)
    np.savez(tmp_path / "inputs.npz", **batches)
    run_python("-c", RUN_WITHOUT_PACKAGE, str(folder), kind, TEXT, cwd=tmp_path)
    found = np.load(tmp_path / "outputs.npz")

    if kind in ("causal", "seq2seq"):
        model.generation_config.eos_token_id = None
    tokens: set[int] = set()
    for batch in {key.split(".")[0] for key in batches}:
        ids, mask, target = (torch.from_numpy(batches[f"{batch}.{part}"]) for part in ("ids", "mask", "target"))
        inputs = {"input_ids": ids, "attention_mask": mask}
        with torch.no_grad():
            logits = model(**inputs, **({"decoder_input_ids": target} if kind == "seq2seq" else {})).logits.numpy()
        real = mask.numpy() == 1 if kind in ("causal", "masked") else ...
        assert logits.std() > 0.03, "degenerate"
        np.testing.assert_allclose(found[batch][real], logits[real], atol=1e-4, rtol=0, err_msg=batch)
        if kind in ("causal", "seq2seq"):
            expected = model.generate(**inputs, max_new_tokens=16, do_sample=False, num_beams=1)
            expected = expected[:, 1 if kind == "seq2seq" else ids.shape[1] :]
            tokens |= set(expected.flatten().tolist())
            assert found[f"{batch}.greedy"].tolist() == expected.tolist(), batch
    assert len(tokens) > 10 or kind not in ("causal", "seq2seq"), "degenerate"
    assert model.config._attn_implementation == ("eager" if name == "bigram" else "sdpa")  # as before the export
    assert found["text"].tolist() == source.tokenizers.source(TEXT).input_ids
    if source.tokenizers.target is not source.tokenizers.source:
        assert found["target_text"].tolist() == source.tokenizers.target(TEXT).input_ids
    assert record["compared"]["texts"] == len(SAMPLE_TEXTS)
    assert record["compared"]["largest_logit_difference"] < 1e-4
    assert record["compared"].get("equal_greedy") == (len(SAMPLE_TEXTS) if kind in ("causal", "seq2seq") else None)


@pytest.mark.parametrize(
    ("example", "name"),
    [pytest.param(0, "llama", marks=pytest.mark.slow), pytest.param(1, "modern", marks=pytest.mark.release)],
)
def test_example_in_the_docs_runs_without_the_package(example, name, exported, tmp_path):
    source, folder, _ = exported(name)
    block = re.findall(r"```python\n(.*?)```", DOCS, re.S)[example]
    path, text = re.search(r'folder = "(.*)"', block)[1], re.search(r'tokenizer\("(.*)"\)', block)[1]
    blocked = "import sys; sys.modules['scratch_gpt'] = sys.modules['torch'] = None\n"
    printed = run_python("-c", blocked + block.replace(path, str(folder)), cwd=tmp_path, fresh=True).stdout
    tokenizer = source.tokenizers.source
    source.model.generation_config.eos_token_id = tokenizer.eos_token_id
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    tokens = source.model.generate(**inputs, max_new_tokens=32, do_sample=False, num_beams=1)[0]
    assert printed.strip() == tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert len(tokens) > 8


def test_folder_is_complete_and_names_no_path_of_this_machine(exported):
    _, folder, record = exported("bigram")
    names = {path.name for path in folder.iterdir()}
    expected = {"model.onnx", "config.json", "generation_config.json", "export.json"}
    assert names == expected | {"tokenizer.json", "tokenizer_config.json"}
    assert json.loads((folder / "export.json").read_text()) == record
    assert record["format"] == "onnx"
    assert record["quantization"] == "float32"
    assert record["model_class"] == "ScratchBigramForCausalLM"
    assert record["parameters"] == VOCAB * VOCAB
    assert set(record["versions"]) == {"torch", "transformers", "onnx", "onnxscript"}
    assert record["compared"]["engine"] == "onnxruntime"
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["ScratchBigramForCausalLM"]
    assert "auto_map" not in config
    assert str(PROJECT).encode() not in (folder / "model.onnx").read_bytes()


def sliding_window_model():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    return MistralForCausalLM(MistralConfig(vocab_size=VOCAB, num_hidden_layers=1, **sizes))


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
UNSUPPORTED = {
    "trunk": (lambda: ScratchGPTModel(tiny_config("llama", vocab_size=VOCAB)), "a ScratchGPTModel can't be exported"),
    "dynamic": (
        lambda: tiny_model("llama", vocab_size=VOCAB, rope_parameters=DYNAMIC),
        "rope_type 'dynamic'",
    ),
    "sliding": (sliding_window_model, "DynamicSlidingWindowLayer"),
    "sliding in some layers": (
        lambda: tiny_model("gemma3", vocab_size=VOCAB),
        "want full attention in all layers .layer_types, sliding_window.",
    ),
    "dynamic in some layers": (
        lambda: tiny_model("gemma3", rope_parameters={"full_attention": DYNAMIC}, **FULL_ATTENTION),
        "rope_type 'dynamic'",
    ),
    "experts": (lambda: tiny_model("mixtral", vocab_size=VOCAB, num_experts=4), "num_experts is 4"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_models_are_refused_before_anything_is_written(name, tmp_path):
    build, message = UNSUPPORTED[name]
    written = []
    recording = replace(ONNX, write=lambda *arguments: written.append(arguments))
    with pytest.raises(ScratchError, match=message):
        export_model(source_of(build()), tmp_path / "out", recording)
    assert not written
    assert not list(tmp_path.iterdir())


def test_unknown_quantization_and_folders_with_files_are_refused(tmp_path):
    source = source_of(tiny_bigram())
    with pytest.raises(ScratchError, match=r"no quantization 'int8'.*float32"):
        export_model(source, tmp_path / "out", ONNX, "int8")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("kept")
    with pytest.raises(ScratchError, match="not an empty folder"):
        export_model(source, tmp_path, ONNX)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(("shift", "message"), [(0.01, "the logits of ONNX Runtime differ by 0.01"), (0, "NaN")])
def test_a_graph_that_computes_something_else_is_not_kept(shift, message, tmp_path):
    """The weights of the source change after the export."""
    source = source_of(tiny_bigram())

    def write_and_change(*arguments):
        ONNX.write(*arguments)
        table = source.model.table.weight.data
        table.copy_(table + shift if shift else table * torch.nan)

    with pytest.raises(ScratchError, match=message.replace("NaN", "differ by nan")):
        export_model(source, tmp_path / "out", replace(ONNX, write=write_and_change))
    assert not list(tmp_path.iterdir())


def test_other_continuations_are_refused(tmp_path, monkeypatch):
    source = source_of(tiny_bigram())
    monkeypatch.setattr(onnx_comparison, "ABSOLUTE_TOLERANCE", 100.0)

    def write_and_change(*arguments):
        ONNX.write(*arguments)
        source.model.table.weight.data.neg_()

    with pytest.raises(ScratchError, match="continues 8 of 8 texts with other tokens"):
        export_model(source, tmp_path / "out", replace(ONNX, write=write_and_change))
    assert not list(tmp_path.iterdir())


def test_a_graph_that_does_not_run_is_not_kept(tmp_path):
    def write_and_change(source, folder, quantization):
        ONNX.write(source, folder, quantization)
        (folder / "model.onnx").write_bytes(b"no graph")

    with pytest.raises(ScratchError, match=r"ONNX Runtime can't run model: [^\n]+$"):
        export_model(source_of(tiny_bigram()), tmp_path / "out", replace(ONNX, write=write_and_change))
    assert not list(tmp_path.iterdir())


def test_an_operation_that_pytorch_can_not_export_is_one_line(tmp_path):
    class Unsupported(ScratchBigramForCausalLM):
        def forward(self, input_ids, **kwargs):
            outputs = super().forward(input_ids)
            return replace(outputs, logits=torch.linalg.qr(outputs.logits)[0] if input_ids.sum() else outputs.logits)

    model = randomise(Unsupported(ScratchBigramConfig(vocab_size=VOCAB, pad_token_id=0, eos_token_id=2))).eval()
    with pytest.raises(ScratchError, match=r"PyTorch can't export model.onnx of this model: [^\n]+$"):
        export_model(source_of(model), tmp_path / "out", ONNX)
    assert not list(tmp_path.iterdir())
