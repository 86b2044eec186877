"""GGUF files in llama.cpp itself: the same token ids, log-probabilities and greedy texts."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
from helpers.models import randomise, save_tiny, tiny_model
from helpers.processes import PRETRAIN, PROJECT, run_here, run_python
from helpers.texts import various_texts
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForSequenceClassification

from scratch_gpt import ScratchGPTForCausalLM, export_native, train_tokenizer
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.engines.export import Source, export_model
from scratch_gpt.hub.engines.gguf import GGUF
from scratch_gpt.hub.engines.gguf_weights import tensors
from scratch_gpt.hub.engines.llama_cpp import gelu_of_llama_cpp, running_llama_cpp, same_split
from scratch_gpt.hub.engines.native_class import NATIVE
from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.tokenization.chat import add_chat_template

TEXTS = various_texts(500)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
STYLES = {
    "llama": ("llama", {}),
    "grouped queries": ("llama", {"num_key_value_heads": 2, "head_dim": 12, "attention_bias": True, "mlp_bias": True}),
    "tied": ("llama", {"tie_word_embeddings": True, "vocab_size": 600}),  # more tokens than the tokenizer
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama3": ("llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}}),
    "yarn": ("llama", {"rope_parameters": YARN}),
    "16 positions": ("llama", {"max_position_embeddings": 16}),
    "gpt2 with 16 positions": ("gpt2", {"max_position_embeddings": 16}),
    "gpt2": ("gpt2", {}),
    "gpt2 untied": ("gpt2", {"tie_word_embeddings": False}),
}


def build(tokenizer, preset: str = "llama", **fields) -> Source:
    """A model with random weights for a tokenizer."""
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    fields = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, **ids, **fields}
    model = randomise(tiny_model(preset, **fields))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return Source("runs/tiny", model, Tokenizers(tokenizer, tokenizer))


@pytest.fixture(scope="module")
def byte_level():
    return train_tokenizer(TEXTS, "bpe", 500)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "char"])
def test_llama_cpp_has_the_same_token_ids(kind, tmp_path):
    """On texts that the tokenizer was trained on and, with unknown characters, on others."""
    tokenizer = train_tokenizer(TEXTS[::2], kind, {"bpe": 500, "unigram": 300, "char": None}[kind])
    export_model(build(tokenizer), tmp_path / "out", GGUF)
    with running_llama_cpp(tmp_path / "out" / "model-f32.gguf", 256) as server:
        different = [text for text in TEXTS if server.encode(text) != tokenizer(text)["input_ids"]]
        assert all(same_split(server.encode(text), tokenizer(text)["input_ids"], tokenizer) for text in different)
        answer = server.post("/detokenize", tokens=tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"])
    assert different == [] or kind != "bpe"
    assert len(different) < 25
    decoded = answer["content"].removeprefix(" " if kind == "unigram" else "")  # the space of the first mark
    assert decoded == tokenizer.decode(tokenizer(TEXTS[0])["input_ids"], skip_special_tokens=True)


@pytest.mark.parametrize("style", STYLES)
def test_log_probabilities_and_greedy_texts_are_equal(style, byte_level, tmp_path):
    preset, fields = STYLES[style]
    record = export_model(build(byte_level, preset, **fields), tmp_path / "out", GGUF)
    compared = record["compared"]
    assert compared["engine"] == "xllamacpp"
    assert compared["equal_greedy"] == compared["texts"] == 8
    assert 0 < compared["largest_log_probability_difference"] < {"llama": 5e-5, "gpt2": 3e-3}[preset]
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == record


@pytest.mark.parametrize("preset", ["llama", "gpt2"])
def test_a_model_of_transformers_is_exported_to_the_same_file(preset, byte_level, tmp_path):
    ours = build(byte_level, preset)
    native = Source(ours.name, export_native(ours.model), ours.tokenizers)
    for source, folder in ((ours, "ours"), (native, "native")):
        export_model(source, tmp_path / folder, GGUF)
    files = [(tmp_path / folder / "model-f32.gguf").read_bytes() for folder in ("ours", "native")]
    assert files[0] == files[1]


def test_the_only_difference_of_gpt2_is_the_activation(byte_level, tmp_path):
    """llama.cpp looks up the activation in a table of float16: with one, our log-probabilities are the same."""
    source = build(byte_level, "gpt2")
    export_model(source, tmp_path / "out", GGUF)
    ids = byte_level(TEXTS[0])["input_ids"]
    with running_llama_cpp(tmp_path / "out" / "model-f32.gguf", 256) as server, torch.inference_mode():
        found = server.log_probabilities(ids, len(byte_level))
        exact = source.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        with gelu_of_llama_cpp(source.model):
            rounded = source.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        assert torch.equal(source.model(torch.tensor([ids])).logits[0, -1].log_softmax(-1), exact)
    assert (found - rounded).abs().max() < 2e-5
    assert (found - exact).abs().max() > 5e-5


def test_a_classifier_and_two_ends_of_a_turn_are_refused(byte_level, tmp_path):
    source = build(byte_level)
    native = LlamaForSequenceClassification(export_native(source.model).config).eval()
    with pytest.raises(ScratchError, match="has no architecture for a LlamaForSequenceClassification: supported are"):
        export_model(Source("x", native, source.tokenizers), tmp_path / "out", GGUF)
    source.model.generation_config.eos_token_id = [byte_level.eos_token_id, 7, 8]
    with pytest.raises(ScratchError, match="one token besides <eos> that ends a turn"):
        export_model(source, tmp_path / "out", GGUF)


def test_a_number_that_is_not_finite_is_not_written(byte_level, tmp_path):
    source = build(byte_level)
    source.model.lm_head.weight.data[5] = torch.nan
    for quantization in ("f32", "q8_0"):
        with pytest.raises(ScratchError, match="difference"):
            export_model(source, tmp_path / "out", GGUF, quantization)
    with pytest.raises(ScratchError, match="float16 gives nan as the largest logit difference"):
        export_model(source, tmp_path / "out", NATIVE, "float16")
    assert list(tmp_path.iterdir()) == []


def test_other_probabilities_are_not_written(byte_level, tmp_path, monkeypatch):
    def unchanged(model, architecture, changes, separate_head):
        return tensors(model, architecture, (), separate_head)

    monkeypatch.setattr("scratch_gpt.hub.engines.gguf.tensors", unchanged)
    with pytest.raises(ScratchError, match=r"llama\.cpp computes other probabilities: the largest difference"):
        export_model(build(byte_level), tmp_path / "new" / "out", GGUF)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantization", ["f16", "bf16", "q8_0"])
def test_quantizations_are_smaller_and_close(quantization, byte_level, tmp_path):
    source = build(byte_level, intermediate_size=80)  # the rows of one matrix are no multiple of 32
    for name in ("f32", quantization):
        export_model(source, tmp_path / name, GGUF, name)
    sizes = [next((tmp_path / name).glob("*.gguf")).stat().st_size for name in ("f32", quantization)]
    assert sizes[1] < sizes[0] * 0.8
    record = json.loads((tmp_path / quantization / "export.json").read_text())
    assert record["quantization"] == quantization
    assert record["compared"]["largest_log_probability_difference"] < 0.2


def test_the_chat_template_and_the_end_of_a_turn(byte_level, tmp_path):
    tokenizer = train_tokenizer(TEXTS, "bpe", 500)
    add_chat_template(tokenizer)
    source = build(tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    source.model.generation_config.eos_token_id = [tokenizer.eos_token_id, end]
    export_model(source, tmp_path / "out", GGUF)
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Łódź"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How warm is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "21 °C"},
    ]
    with running_llama_cpp(tmp_path / "out" / "model-f32.gguf", 256) as server:
        prompt = server.post("/apply-template", messages=messages[:2])["prompt"]
        ours = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
        assert f"<bos>{prompt}" == ours  # llama.cpp adds <bos> when it encodes the prompt
        calls = server.post("/apply-template", messages=messages)["prompt"]
        assert f"<bos>{calls}" == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        answer = server.post("/v1/chat/completions", messages=messages[:2], max_tokens=4, temperature=0)
        assert answer["usage"]["prompt_tokens"] == len(tokenizer(ours, add_special_tokens=False)["input_ids"])
    modelfile = (tmp_path / "out" / "Modelfile").read_text()
    assert modelfile.startswith("FROM ./model-f32.gguf\nTEMPLATE ")
    assert 'PARAMETER stop "<|end|>"\n' in modelfile
    assert "{{- range .Messages }}<|{{ .Role }}|>{{ .Content }}" in modelfile


REFUSED = {
    "words": ("word", "llama", {}, "llama.cpp has no tokenizer of whole words"),
    "nanochat": ("bpe", "nanochat", {}, "llama.cpp has no architecture for a NanoChatForCausalLM"),
    "n-grams": ("bpe", "nanochat_ngram", {}, "llama.cpp has no architecture for this model: no class of transformers"),
    "relu": ("bpe", "llama", {"hidden_act": "relu"}, "hidden_act is 'relu', the architecture llama of llama.cpp has"),
    "gelu": ("bpe", "gpt2", {"hidden_act": "gelu"}, "hidden_act is 'gelu', the architecture gpt2 of llama.cpp has"),
    "dynamic": (
        *("bpe", "llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
        "rope_type is 'dynamic', the architecture llama of llama.cpp has default, linear, llama3, yarn",
    ),
    "yarn settings": (
        *("bpe", "llama", {"rope_parameters": {**YARN, "beta_fast": 16.0, "attention_factor": 1.2}}),
        "rope_parameters has attention_factor, beta_fast, which is not exported for 'yarn'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_lacks_is_refused_by_name(case, tmp_path):
    kind, preset, fields, message = REFUSED[case]
    tokenizer = train_tokenizer(TEXTS[:40], kind)
    with pytest.raises(ScratchError, match=re.escape(message)):
        export_model(build(tokenizer, preset, **fields), tmp_path / "out", GGUF)
    assert list(tmp_path.iterdir()) == []


def test_other_tokenizers_are_refused_by_name(byte_level, tmp_path):
    from tokenizers import normalizers, pre_tokenizers

    tokenizer = train_tokenizer(TEXTS, "bpe", 500)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(ScratchError, match="found normalizer Lowercase, pre-tokenizer ByteLevel"):
        export_model(build(tokenizer), tmp_path / "out", GGUF)
    tokenizer = train_tokenizer(TEXTS, "unigram", 300)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    with pytest.raises(ScratchError, match=r"llama\.cpp has no unigram tokenizer like this one: want NFKC"):
        export_model(build(tokenizer), tmp_path / "out", GGUF)
    template = train_tokenizer(TEXTS, "bpe", 500, template="encoder")
    with pytest.raises(ScratchError, match=r"can put <bos> before a text and nothing else; .* '<eos>'\] for 'a'"):
        export_model(build(template), tmp_path / "out", GGUF)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_one_line_with_code_2(tmp_path):
    folder = save_tiny(tmp_path / "model")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    cases = {
        ("out", "q4_0"): "error: the format gguf has no quantization 'q4_0': choose one of f32, f16, bf16, q8_0",
        ("full", "f32"): "error: full already exists and is not an empty folder: delete it first, or choose another",
    }
    for (output, quantization), message in cases.items():
        options = (output, "--format", "gguf", "--quantization", quantization)
        result = run_here("scratch-gpt", "export", str(folder), *options, cwd=tmp_path, check=False)
        assert (result.returncode, result.stderr) == (2, f"{message}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "model"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A model trained on stories, so that texts and perplexities mean something."""
    folder = tmp_path_factory.mktemp("gguf") / "run"
    model = ("--preset", "llama", "--hidden_size", "64", "--num_hidden_layers", "2", "--num_attention_heads", "2")
    data = ("--dataset", "stories", "--num_stories", "2000", "--vocab_size", "600", "--context_length", "128")
    loop = ("--max_steps", "300", "--batch_size", "16", "--num_threads", "1", "--precision", "fp32")
    run_here(PRETRAIN, "--output_dir", str(folder), *model, *data, *loop, "--compile", "off")
    for quantization in ("f32", "q8_0"):
        options = ("--format", "gguf", "--quantization", quantization)
        said = run_here("scratch-gpt", "export", str(folder), str(folder.with_name(quantization)), *options).stdout
        assert "largest log probability difference" in said
    return folder


@pytest.mark.slow
def test_a_trained_model_writes_the_same_64_tokens_and_q8_0_has_the_same_perplexity(run):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    assert isinstance(model, ScratchGPTForCausalLM)
    with running_llama_cpp(run.with_name("f32") / "model-f32.gguf", 256) as server:
        for prompt in ("One day", "Anna has two", "The mill", "  She", "In the morning"):
            ids = tokenizer(prompt)["input_ids"]
            assert server.encode(prompt) == ids
            ours = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=64)[0, len(ids) :].tolist()
            assert server.greedy(ids, 64) == ours
    text = "".join(stories(999, 3))
    ids = tokenizer(text)["input_ids"][:120]
    losses = {"model": model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()}
    for quantization in ("f32", "q8_0"):
        path = run.with_name(quantization) / f"model-{quantization}.gguf"
        with running_llama_cpp(path, 256) as server:
            scores = [server.log_probabilities(ids[:n], len(tokenizer))[ids[n]] for n in range(1, len(ids))]
        losses[quantization] = -float(torch.stack(scores).mean())
    assert abs(losses["f32"] - losses["model"]) < 1e-4
    assert abs(math.exp(losses["q8_0"] - losses["f32"]) - 1) < 0.01
    assert losses["q8_0"] != losses["f32"]


@pytest.mark.slow
def test_the_how_to_runs_without_the_package(run, tmp_path):
    """The Python example of docs/how-to/engines-llama-cpp.md, in a process that can't import scratch_gpt."""
    how_to = (PROJECT / "docs" / "how-to" / "engines-llama-cpp.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", how_to, re.S)[0]
    script = "import sys; sys.modules['scratch_gpt'] = None\n" + example.replace(
        "runs/gguf/model-f32.gguf", str(run.with_name("f32") / "model-f32.gguf")
    )
    said = run_python("-c", script, cwd=tmp_path).stdout.strip()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    ids = torch.tensor([tokenizer("One day, Anna")["input_ids"]])
    ours = tokenizer.decode(model.generate(ids, do_sample=False, max_new_tokens=40)[0, ids.shape[1] :])
    assert said == ours.strip()
