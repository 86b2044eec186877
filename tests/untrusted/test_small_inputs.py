"""Small files can't exhaust the machine: the size that a config, tokenizer, template or record specifies is bounded.

Each rejection is tested in a child process, whose time and memory growth are measured."""

import ctypes
import json
import multiprocessing
import os
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from helpers.models import save_tiny, tiny_model
from safetensors.torch import load_file, save_file
from tokenizers import Regex, normalizers, pre_tokenizers

from scratch_gpt import ScratchGPTForCausalLM, train_tokenizer
from scratch_gpt.errors import ScratchError, tokenizer_errors
from scratch_gpt.hub.directory_checks import check_size
from scratch_gpt.hub.loading import check_vocabulary, load_model, open_tokenizer
from scratch_gpt.rl.rewards import judge, open_reward
from scratch_gpt.tokenization.safety import check_template, render_chat
from scratch_gpt.untrusted import parse_json, parse_yaml, read_bytes, read_yaml


def refusal(function, *arguments, seconds: float = 2.0, mebibytes: float = 200) -> str:
    """The error message of `function` in a child process; asserts bounded time and memory."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        # Memory that this process has freed and kept (`retain_freed_memory`) would hide the first growth.
        ctypes.CDLL(None).malloc_trim(0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.monotonic()
        said = None
        try:
            function(*arguments)
        except ScratchError as error:
            said = str(error)
        except BaseException as error:
            said = f"{type(error).__name__}: not a ScratchError: {error}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        sender.send((said, time.monotonic() - started, grown))
        os._exit(0)
    try:
        assert receiver.poll(30), "took more than 30 s"
        said, taken, grown = receiver.recv()
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert said is not None, "was not refused"
    assert "not a ScratchError" not in said, said
    assert taken < seconds, f"{taken} s: {said}"
    assert grown < mebibytes, f"{grown} MiB: {said}"
    return said


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A model directory; loading it once completes imports and other initialisation."""
    folder = save_tiny(tmp_path_factory.mktemp("small") / "model")
    load_model(folder)
    open_tokenizer(str(folder))
    return folder


@pytest.fixture
def model(directory, tmp_path) -> Path:
    return Path(shutil.copytree(directory, tmp_path / "model"))


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


CONFIGS = {
    "labels": {"num_labels": 300_000_000},
    "labels by name": {"id2label": {str(i): f"L{i}" for i in range(3_000_000)}},
    "learned positions": {"max_position_embeddings": 10**9, "position_embedding_type": "learned", "model_type": "gpt2"},
    "positions of gpt2": {"model_type": "gpt2", "n_positions": 10**9, "n_embd": 32, "n_head": 2, "n_layer": 1},
    "experts": {"model_type": "mixtral", "num_local_experts": 10**7, "hidden_size": 2, "intermediate_size": 2},
    "some experts": {"model_type": "mixtral", "num_local_experts": 99_999, "hidden_size": 64, "intermediate_size": 64},
    "layers": {"num_hidden_layers": 200_000, "hidden_size": 2, "num_attention_heads": 1, "head_dim": 2},
    "some layers": {"num_hidden_layers": 90_000, "hidden_size": 2, "num_attention_heads": 1, "head_dim": 2},
    "vocabulary": {"vocab_size": 10**10},
    "features": {"hidden_size": 2**20},
    "inner features": {"intermediate_size": 10**12},
    "buckets of n-grams": {"ngram_buckets": 10**10, "ngram_sizes": [3]},
    "size of n-grams": {"ngram_buckets": 1024, "ngram_size": 10**6},
    "beyond any integer": {"vocab_size": 10**400},
    "depth": {"extra": json.loads("[" * 300 + "]" * 300)},
    "heads": {"num_attention_heads": 10**9, "head_dim": 1},
    "quantised": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_of_excessive_size_is_rejected(case, model):
    if "model_type" in CONFIGS[case]:
        shutil.rmtree(model / "model.safetensors", ignore_errors=True)
        settings = {"vocab_size": 99, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
        (model / "config.json").write_text(json.dumps({**settings, "architectures": ["X"], **CONFIGS[case]}))
    else:
        edit(model / "config.json", **CONFIGS[case])
    said = refusal(load_model, model)
    assert said.startswith("no model can be opened from")


class Auto:
    """An Auto class for one model."""

    @staticmethod
    def from_config(config, trust_remote_code):
        return ScratchGPTForCausalLM(config)


def test_the_size_is_exact_before_memory_is_allocated(directory):
    """It is not estimated from fields, but counted on a model on the meta device."""
    check_size(Auto, tiny_model("llama").config, directory, False)
    for field, value in (("vocab_size", 10**8), ("intermediate_size", 10**8), ("max_position_embeddings", 10**12)):
        wrong = tiny_model("gpt2").config
        setattr(wrong, field, value)
        with pytest.raises(ScratchError, match=r"asks for [\d,]+ parameters or more"):
            check_size(Auto, wrong, directory, False)


def header_of_a_gigabyte(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.write((10**9).to_bytes(8, "little") + b"{")
        file.truncate(2 * 10**9)  # sparse: it takes no space


def many_tensors(folder: Path) -> None:
    table = {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(300_000)}
    header = json.dumps(table).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


def named_pipe(name: str):
    def make(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere", "peft_type": "LORA"}')


def long_file(name: str, size: int):
    def make(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return make


def test_a_folder_instead_of_a_file_is_rejected(tmp_path):
    with pytest.raises(ScratchError, match="is a folder, want a regular file"):
        read_bytes(tmp_path)


FILES = {
    "a header of a gigabyte": (header_of_a_gigabyte, "has a header of 1,000,000,000 bytes"),
    "300,000 tensors": (many_tensors, "model.safetensors has a header of"),
    "a named pipe as weights": (named_pipe("model.safetensors"), "a named pipe, want a regular file"),
    "a named pipe as config": (named_pipe("config.json"), "a named pipe, want a regular file"),
    "a named pipe deep inside": (
        lambda folder: (os.makedirs(folder / "a/b"), os.mkfifo(folder / "a/b/c")),
        "named pipe",
    ),
    "an adapter": (adapter, "adapter_config.json is of an adapter"),
    "a large config": (long_file("config.json", 10**9), "config.json has 1,000,000,000 bytes"),
    "a large tokenizer": (long_file("tokenizer.json", 10**9), "tokenizer.json has 1,000,000,000 bytes"),
    "a large template": (long_file("chat_template.jinja", 10**7), "chat_template.jinja has 10,000,000 bytes"),
    "large code": (long_file("block.py", 10**8), "block.py has 100,000,000 bytes"),
    "UTF-16": (lambda folder: (folder / "config.json").write_bytes("{}".encode("utf-16")), "is not UTF-8 text"),
    "a loop of links": (
        lambda folder: ((folder / "a").symlink_to("b"), (folder / "b").symlink_to("a")),
        "outside of the folder",
    ),
    "beams": (
        lambda folder: edit(folder / "generation_config.json", num_beams=100_000),
        "num_beams is 100000, want at most 1,024",
    ),
    "n-grams": (
        lambda folder: edit(folder / "generation_config.json", encoder_no_repeat_ngram_size=2**31),
        "encoder_no_repeat_ngram_size is 2.14748e+09, want at most 1,024",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_takes_time_or_memory_is_rejected(case, model):
    make, said = FILES[case]
    make(model)
    assert said in refusal(load_model, model)


def test_files_that_are_not_read_may_have_any_size(model):
    """Such as a trainer's log, a training text, or the state of a run with many processes."""
    for name in ("trainer_state.json", "training_state.json", "text.txt", "notes.md"):
        long_file(name, 10**9)(model)
    assert load_model(model).num_parameters() > 0


def edit_tokenizer(folder: Path, **parts) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
TOKENIZERS = {
    "doubling": ({"normalizer": {"type": "Sequence", "normalizers": [REPLACE] * 40}}, "one character to 1.1e+12"),
    "doubling in the decoder": ({"decoder": {"type": "Sequence", "decoders": [REPLACE] * 40}}, "decoder may expand"),
    "depth": ({"normalizer": json.loads('{"type":"Sequence","normalizers":[' * 300 + "]}" * 300)}, "that opens"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_expands_texts_without_bound_is_rejected(case, model):
    parts, said = TOKENIZERS[case]
    edit_tokenizer(model, **parts)
    assert said in refusal(open_tokenizer, str(model))


def test_padding_settings_of_a_tokenizer_are_ignored(model):
    """Otherwise `encode_batch` would pad each text to a million tokens, and truncate others."""
    strategy = {"Fixed": 10**6}
    padding = {"strategy": strategy, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0}
    edit_tokenizer(model, padding={**padding, "pad_token": "<pad>"}, truncation={
        "direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0})  # fmt: skip
    tokenizer = open_tokenizer(str(model))
    assert len(tokenizer.backend_tokenizer.encode("a b").ids) == 4  # <bos> and three characters


def test_ids_beyond_the_embedding_are_rejected(model):
    content = json.loads((model / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    edit_tokenizer(model, model={**content["model"], "vocab": {**vocabulary, "b": 10**6}})
    with pytest.raises(ScratchError, match="1000001 tokens and the model's vocabulary 99"):
        check_vocabulary(open_tokenizer(str(model)), 99)


def test_a_tokenizer_pattern_with_catastrophic_backtracking_is_an_error(capfd):
    tokenizer = train_tokenizer(["a b"], "char", model_max_length=64)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+b"), "isolated")
    with pytest.raises(ScratchError, match="the tokenizer fails on this text"), tokenizer_errors():
        tokenizer("a" * 60 + "c")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("(a+)+b"), "x")
    with pytest.raises(ScratchError, match="the tokenizer fails on this text"), tokenizer_errors():
        tokenizer("a" * 60 + "c")


TEMPLATES = {
    "loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "growth": "{% set n = namespace(x='a') %}{% for i in range(99999) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "recursion": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "attributes": "{{ messages.__class__.__mro__[1].__subclasses__() }}",
    "no template": "{% for",
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_chat_template_is_bounded_and_runs_no_code(case):
    tokenizer = train_tokenizer(["a b"], "char", model_max_length=64)
    tokenizer.chat_template = TEMPLATES[case]
    messages = [{"role": "user", "content": "a"}]
    # The template's limit of two seconds; and a string may double between two checks.
    assert "chat template" in refusal(render_chat, tokenizer, messages, seconds=4.0, mebibytes=900)


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ 'a' * 10**9 }}", "multiplies (line 1)"),
        ("\n{{ 'a' * n }}", "multiplies (line 2)"),
        ("{{ " + "(" * 5000 + ")" * 5000 + " }}", "nested too deep"),
        ("x" * 10**6, "not a string of at most"),
        (7, "not a string of at most"),
        ({"default": "a", "tool_use": "{{ 2 ** 10 }}"}, "multiplies"),
    ],
)
def test_a_chat_template_that_can_exhaust_memory_at_once_is_rejected(template, said):
    assert said in refusal(check_template, template)


def test_common_chat_templates_are_accepted():
    from scratch_gpt.tokenization.chat import CHAT_TEMPLATE

    for template in (CHAT_TEMPLATE, None, "{{ '=' * 80 }}", "{%- generation -%}a{%- endgeneration -%}{% break %}"):
        check_template(template)


def test_a_reward_pattern_with_catastrophic_backtracking_is_stopped():
    reward = open_reward("re:^(a+)+$")
    said = refusal(judge, reward, ["x"], ["a" * 60 + "!"])
    assert "the search for ^(a+)+$ in one completion ran for more than 1 s" in said


@pytest.mark.parametrize("pattern", ["(" * 5000 + ")" * 5000, "a{99999999999999}", "(?P<x"])
def test_an_invalid_reward_pattern_is_rejected(pattern):
    assert "is not a regular expression" in refusal(open_reward, f"re:{pattern}")


def aliases(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join(lines)


def test_yaml_and_json_are_bounded(tmp_path):
    assert len(aliases(9)) < 700
    assert "has an alias (*a0)" in refusal(parse_yaml, aliases(9), "run.yaml")
    assert "levels deep" in refusal(parse_yaml, "[" * 900 + "]" * 900, "run.yaml")
    assert "nesting depth" in refusal(parse_yaml, "[" * 10_000, "run.yaml")
    assert "not valid YAML" in refusal(parse_yaml, "!!python/object/apply:os.system ['true']", "run.yaml")
    assert "levels deep" in refusal(parse_json, "[" * 10**6, "config.json")
    assert "not valid JSON" in refusal(parse_json, "9" * 10**6, "config.json")
    large = tmp_path / "run.yaml"
    large.write_text("a: 1\n" * 10**6)
    assert "want at most 524,288" in refusal(read_yaml, large)
    assert "a device, want a regular file" in refusal(read_bytes, Path("/dev/zero"))
    os.mkfifo(tmp_path / "pipe")
    assert "a named pipe, want a regular file" in refusal(read_bytes, tmp_path / "pipe")


def test_large_valid_numbers_in_a_config_are_accepted(directory):
    """A config of a rotary model with positions for ten million tokens takes no more memory for them."""
    config = json.loads((directory / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    weights = load_file(directory / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) > 10_000
    edited = directory.parent / "long"
    shutil.copytree(directory, edited)
    edit(edited / "config.json", max_position_embeddings=10**7)
    save_file(weights, edited / "model.safetensors", {"format": "pt"})
    assert load_model(edited)(torch.tensor([[1, 2]])).logits.isfinite().all()
