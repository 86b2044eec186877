"""Property tests with hypothesis: random input is processed, or rejected with an error that names it.

pytest tests/cli/test_generated.py --hypothesis-profile thorough --hypothesis-show-statistics    # 2,000 of each kind
"""

import csv
import io
import json
import string

import pytest
import tokenizers
import torch
from helpers.models import tiny_model
from helpers.processes import PROJECT, run_here
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given
from hypothesis import strategies as st

from scratch_gpt import (
    ScratchEncoderConfig,
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchSeq2SeqConfig,
    ScratchSeq2SeqForConditionalGeneration,
    train_tokenizer,
)
from scratch_gpt.data.readers.labelled import open_labelled
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.sources import open_source
from scratch_gpt.errors import ScratchError
from scratch_gpt.tokenization.training import encode_batch

TOKENIZERS = tuple(int(part) for part in tokenizers.__version__.split(".")[:2])
SPECIALS = st.sampled_from(["<bos>", "<eos>", "<pad>", "<unk>", "<mask>", "\ufeff", "\x00", "\r\n", "e\u0301", "שלום"])
TEXT = st.lists(st.one_of(st.text(max_size=20), SPECIALS), max_size=6).map("".join)


# --- tokenizers ---


@pytest.fixture(scope="module")
def bpe():
    return train_tokenizer(["a few words to learn from, said twice. " * 3], "bpe", 280)


@given(texts=st.lists(TEXT, max_size=4))
def test_byte_level_bpe_round_trips_any_text(bpe, texts):
    rows = encode_batch(bpe, texts)
    assert [bpe.decode(ids) for ids in rows] == texts
    assert not {token for ids in rows for token in ids} & set(bpe.all_special_ids)


@given(kind=st.sampled_from(["char", "word", "bpe", "unigram"]), texts=st.lists(TEXT, max_size=4))
def test_a_tokenizer_round_trips_its_training_texts(kind, texts):
    """Unigram is not compared, because SentencePiece normalises the text; it must only not fail."""
    try:
        tokenizer = train_tokenizer(texts, kind)
    except ScratchError:
        if any(texts):
            raise
        return
    rows = encode_batch(tokenizer, texts)
    # Before tokenizers 0.23, the length does not count an id whose token the vocabulary has twice.
    size = len(tokenizer) if TOKENIZERS >= (0, 23) else max(tokenizer.get_vocab().values()) + 1
    assert all(0 <= token < size for ids in rows for token in ids)
    decoded = [tokenizer.decode(ids) for ids in rows]
    if kind != "unigram":
        assert decoded == texts


# --- configs ---

JUNK = st.sampled_from([-1, 0, 1.5, "8", None, True, [], {}, float("nan"), float("inf")])


def config_fields(config_class, sizes: dict[str, list[int]]):
    """Draw some config fields, most of them valid, for small models."""
    choices = {
        "num_attention_heads": [1, 2, 3, 4],
        "num_key_value_heads": [1, 2, None],
        "head_dim": [2, 3, 8, None],
        "intermediate_size": [1, 24, None],
        "hidden_size": [16, 32, 48],
        "norm_type": ["layer_norm", "rms_norm", "rms_norm_without_weight", "batch_norm"],
        "norm_position": ["pre", "post", "sandwich"],
        "norm_eps": [1e-5, 1.0, 0.0],
        "position_type": ["learned", "sinusoidal", "rotary", "relative", "alibi"],
        "rope_parameters": [
            None,
            {"rope_type": "default", "rope_theta": 100.0},
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0},
            {"rope_type": "spiral"},
        ],
        "hidden_act": ["relu", "relu2", "gelu", "gelu_new", "silu", "tanh"],
        "embedding_dropout": [0, 0.5, 1.0, -0.1],
        "attention_dropout": [0, 0.5, 1.0],
        "initializer_range": [0.02, 1.0],
        "output_projection_init": ["normal", "scaled", "zero", "one"],
        **{name: [True, False] for name in ("embedding_norm", "qk_norm", "mlp_gated", "attention_bias", "mlp_bias")},
        "tie_word_embeddings": [True, False],
        **sizes,
    }
    fields = {name: st.one_of(*[st.sampled_from(values)] * 12, JUNK) for name, values in choices.items()}
    style = st.sampled_from(sorted(config_class.presets))
    return st.tuples(style, st.fixed_dictionaries({}, optional=fields))


def build(config_class, style: str, fields: dict):
    """Build a config, or return None if it is rejected: the error must name a field that was set, or `rope_type`."""
    torch.manual_seed(0)
    small = {"vocab_size": 11, "hidden_size": 32, "num_attention_heads": 2, "max_position_embeddings": 16}
    small |= dict.fromkeys(config_class.layer_fields, 1) | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    small.pop("decoder_vocab_size", None)
    try:
        return config_class.from_preset(style, **{**small, **fields})
    except (StrictDataclassError, ValueError) as error:
        named = [name for name in (*fields, "rope_type") if name in str(error)]
        if not named:
            raise
        return None


TOKENS = torch.tensor([[1, 3, 4, 5], [1, 6, 2, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def check_runs(model, **inputs) -> None:
    output = model(TOKENS, attention_mask=MASK, **inputs)
    assert torch.isfinite(output.logits).all()
    output.loss.backward()


@given(drawn=config_fields(ScratchGPTConfig, {"num_hidden_layers": [1, 2], "final_logit_softcapping": [None, 5.0, -1]}))
def test_a_gpt_config_runs_or_names_the_invalid_field(drawn):
    config = build(ScratchGPTConfig, *drawn)
    if config is not None:
        check_runs(ScratchGPTForCausalLM(config), labels=TOKENS)


SIDES = {"encoder_layers": [1, 2], "decoder_layers": [1, 2], "label_smoothing": [0, 0.1, 1.0], "lm_head_bias": [True]}
SIDES |= {"scale_embedding": [True, False], "cross_attention_rotary": [True, False], "decoder_vocab_size": [None, 13]}
SIDES |= {"share_encoder_decoder_embeddings": [True, False]}


@given(drawn=config_fields(ScratchSeq2SeqConfig, SIDES))
def test_an_encoder_decoder_config_runs_or_names_the_invalid_field(drawn):
    config = build(ScratchSeq2SeqConfig, *drawn)
    if config is not None:
        check_runs(ScratchSeq2SeqForConditionalGeneration(config), labels=TOKENS)


HEADS = {"num_hidden_layers": [1, 2], "masked_lm_transform": [True, False], "lm_head_bias": [True, False]}
HEADS |= {"classifier_pooling": ["cls", "mean", "max"], "pooler": [True, False], "classifier_dropout": [None, 0.5, 1.0]}


@given(drawn=config_fields(ScratchEncoderConfig, HEADS))
def test_an_encoder_config_runs_or_names_the_invalid_field(drawn):
    config = build(ScratchEncoderConfig, *drawn)
    if config is not None:
        check_runs(ScratchEncoderForMaskedLM(config), labels=TOKENS)
        check_runs(ScratchEncoderForSequenceClassification(config), labels=torch.tensor([0, 1]))


# --- readers ---

CELLS = st.one_of(TEXT, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(st.integers(), max_size=2))
BROKEN = st.one_of(st.just(b""), st.just(b""), st.binary(max_size=8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("generated")


@given(content=st.one_of(st.binary(max_size=200), TEXT.map(str.encode)), suffix=st.sampled_from([".txt", ".gz", ""]))
def test_any_bytes_are_read_as_text_or_rejected(folder, content, suffix):
    path = folder / f"bytes{suffix}"
    path.write_bytes(content)
    try:
        text = "".join(piece.text for piece in open_source(str(path)).pieces())
    except ScratchError as error:
        if path.name not in str(error):
            raise
        return
    if suffix != ".gz":
        assert text == content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")


def table(names: list[str]):
    """Draw the bytes of a table with some of these columns, as JSON lines, CSV or TSV."""
    rows = st.lists(st.fixed_dictionaries({}, optional={name: CELLS for name in names}), max_size=5)
    return st.tuples(st.sampled_from([".jsonl", ".csv", ".tsv"]), rows, BROKEN).map(lambda t: (t[0], write(*t), t[1]))


def write(suffix: str, rows: list[dict], broken: bytes) -> bytes:
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode() + broken
    names = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, names, delimiter="\t" if suffix == ".tsv" else ",")
    if names:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode("utf-8", "surrogatepass") + broken


@given(drawn=table(["text", "label", "x"]))
def test_any_table_is_read_as_texts_or_rejected(folder, drawn):
    path = folder / f"texts{drawn[0]}"
    path.write_bytes(drawn[1])
    try:
        texts = [piece.text for piece in open_source(str(path)).pieces()]
    except ScratchError as error:
        if path.name not in str(error):
            raise
        return
    assert all(isinstance(text, str) and text for text in texts)


@given(drawn=table(["text", "label"]))
def test_any_table_is_read_as_labelled_texts_or_rejected(folder, drawn):
    path = folder / f"labelled{drawn[0]}"
    path.write_bytes(drawn[1])
    try:
        examples = list(open_labelled(str(path)).read())
    except ScratchError as error:
        if path.name not in str(error):
            raise
        return
    assert all(isinstance(part, str) and part for example in examples for part in example)


@given(drawn=table(["de", "en", "translation"]))
def test_any_table_is_read_as_pairs_or_rejected(folder, drawn):
    path = folder / f"pairs{drawn[0]}"
    path.write_bytes(drawn[1])
    try:
        pairs = list(open_pairs(str(path), "de", "en").read())
    except ScratchError as error:
        if path.name not in str(error):
            raise
        return
    assert all(isinstance(side, str) and side.strip() for pair in pairs for side in pair)


# --- the command line ---

COMMANDS = [
    "tokenizer",
    "train",
    "encode",
    "decode",
    "compare",
    "generate",
    "evaluate",
    "translate",
    "classify",
    "fill",
]
COMMANDS += ["info", "import", "export", "plan", "push", "verify"]
OPTIONS = ["--dataset", "--prompt", "--num_samples", "--top_p", "--temperature", "--kind", "--vocab_size", "--seed"]
OPTIONS += ["--help", "--debug", "--native", "--split", "--file", "--hidden_size", "--preset", "--config", "--tokens"]
VALUES = st.one_of(
    st.sampled_from(["none", "text.txt", ".", "", "-1", "0", "1e99", "nan", "8", "stories", "a/b", "../x", "--"]),
    st.text(string.printable, max_size=6),
)
WORDS = st.one_of(st.sampled_from(COMMANDS), st.sampled_from(OPTIONS), st.sampled_from(["model", "text.txt"]), VALUES)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a text, and a model of random weights with its tokenizer."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.txt").write_text("One day, Anna has two old lamps.\n" * 9)
    tokenizer = train_tokenizer(["One day, Anna has two old lamps."], "char", model_max_length=64)
    tokenizer.save_pretrained(folder / "model")
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder / "model")
    return folder


def check_outcome(result) -> None:
    """Success, or one line of error with exit code 2 (1 if a confirmation was missing or a run failed)."""
    assert result.returncode in (0, 1, 2), result.stderr
    assert "Traceback" not in result.stderr or "--debug" in result.args
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error:" in line or "nothing was done" in line]
        assert errors or "Usage:" in result.stdout + result.stderr or "--debug" in result.args, result
    if result.returncode == 1:
        assert "run again as 'scratch-gpt --debug" not in result.stderr, result.stderr


@given(command=st.sampled_from(COMMANDS), arguments=st.lists(WORDS, max_size=6))
def test_any_command_line_succeeds_or_is_rejected(world, command, arguments):
    check_outcome(run_here("scratch-gpt", command, *arguments, cwd=world, check=False))


SETTINGS = ["hidden_size", "num_hidden_layers", "num_attention_heads", "context_length", "batch_size", "dropout"]
SETTINGS += ["learning_rate", "optimizer", "schedule", "preset", "tokenizer", "vocab_size", "dataset", "config", "seed"]
SETTINGS += ["metric_for_best_model", "average_decay", "init_from", "validation_dataset", "resume", "dataset_license"]
SETTINGS += ["weight_decay", "warmup_steps", "eval_every", "save_every", "gradient_checkpointing", "tracker"]
WRONG = st.one_of(
    st.sampled_from(["-1", "0", "nan", "none.yaml", "", "gpt5", "1.5", "no", "[]", "none/x", "./none", "99999999"]),
    st.text(string.printable, max_size=5),
)


@given(
    script=st.sampled_from(["language_modeling", "translation", "classification", "masked_lm"]),
    settings=st.dictionaries(st.sampled_from(SETTINGS), WRONG, min_size=1, max_size=3),
)
def test_invalid_settings_are_rejected_before_anything_is_written(world, script, settings):
    """A setting that is always invalid is added, so that no run starts."""
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    path = PROJECT / "training" / f"{script}.py"
    refused = run_here(str(path), *options, "--max_steps", "-1", "--output_dir", "out", cwd=world, check=False)
    assert refused.returncode == 2, refused
    assert "Traceback" not in refused.stderr
    assert "error:" in refused.stderr
    assert not (world / "out").exists()
