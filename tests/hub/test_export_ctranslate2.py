"""Export to CTranslate2: refusals, the exported folder, and the translations of `generate` without the package."""

import json
import re
from dataclasses import replace

import pytest
import sacrebleu
import torch
from helpers.models import lift_norms, randomise, tiny_encoder, tiny_model, tiny_seq2seq, tiny_seq2seq_config
from helpers.processes import PROJECT, run_here, run_python
from helpers.translation import TRAIN
from transformers import AutoTokenizer

from scratch_gpt import (
    ScratchEncoderForMaskedLM,
    ScratchSeq2SeqForConditionalGeneration,
    export_native,
    train_tokenizer,
)
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.data.readers.tables import ReadOptions
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.engines import ctranslate2 as module
from scratch_gpt.hub.engines.ctranslate2 import CTRANSLATE2
from scratch_gpt.hub.engines.export import Source, export_model
from scratch_gpt.hub.loading import Tokenizers, load_model, open_tokenizers
from scratch_gpt.hub.model_directory import set_translation_defaults

PAIRS = list(open_pairs("grammar", "de", "en", ReadOptions(split="test"), num_pairs=200).read())
GERMAN, ENGLISH = ([pair[side] for pair in PAIRS] for side in (0, 1))
TRAINING = ("--preset", "vaswani2017", "--num_pairs", "8000", "--vocab_size", "600", "--hidden_size", "64")
TRAINING += ("--encoder_layers", "2", "--decoder_layers", "2", "--num_attention_heads", "4", "--dropout", "0")
TRAINING += ("--tokens_per_batch", "1024", "--eval_every", "1200", "--precision", "fp32")
TRAINING += ("--learning_rate", "3e-3", "--warmup_steps", "50", "--num_threads", "1")

HOW_TO = PROJECT / "docs" / "how-to" / "engines-ctranslate2.md"
DOCUMENTED = re.search(r"```python\n(.*?)```", HOW_TO.read_text(encoding="utf-8"), re.S)[1]
WITHOUT_PACKAGE = """
import json, sys
sys.modules["scratch_gpt"] = None  # as if it were not installed
{documented}
texts = json.loads(open(sys.argv[1], encoding="utf-8").read())
print(json.dumps([translate(texts), *(translate(texts, num_beams) for num_beams in (1, 5))]))
"""
END_BIAS = 2.0  # of random models, so that their translations end before the last position


def translate_without_package(folder, texts, tmp_path) -> list[list[str]]:
    """Translations by the code of the documentation: with the default number of beams, with 1 and with 5."""
    assert DOCUMENTED.count('"runs/ct2"') == 1
    documented = DOCUMENTED.replace('"runs/ct2"', repr(str(folder)))
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    script = WITHOUT_PACKAGE.format(documented=documented)
    result = run_python("-I", "-c", script, str(tmp_path / "texts.json"), cwd=tmp_path)
    return json.loads(result.stdout.strip().splitlines()[-1])


def generate(source: Source, texts: list[str], num_beams: int) -> list[str]:
    """Translations by the model's `generate` with its own generation config, in batches of one text."""
    translations, longest = [], source.model.config.max_position_embeddings
    for text in texts:
        inputs = source.tokenizers.source(text, return_tensors="pt", truncation=True, max_length=longest)
        ids, mask = inputs.input_ids, inputs.attention_mask
        options = {"num_beams": num_beams, "early_stopping": num_beams > 1}
        tokens = source.model.generate(input_ids=ids, attention_mask=mask, **options)
        translations.append(source.tokenizers.target.decode(tokens[0], skip_special_tokens=True))
    return translations


def random_source(kind="bpe", separate=False, preset="vaswani2017", **overrides) -> Source:
    """A tiny translator with random weights."""
    size = None if kind == "char" else 300
    tokenizer = target = train_tokenizer(GERMAN + ENGLISH, kind, size, template="seq2seq")
    fields = {"vocab_size": len(tokenizer), "lm_head_bias": preset != "t5", **overrides}
    if separate:
        target = train_tokenizer(ENGLISH, kind, None if kind == "char" else 280, template="seq2seq")
        fields |= {"decoder_vocab_size": len(target), "share_encoder_decoder_embeddings": False}
        fields |= {"target_tokenizer": True}
    model = lift_norms(randomise(ScratchSeq2SeqForConditionalGeneration(tiny_seq2seq_config(preset, **fields)), seed=1))
    if model.config.lm_head_bias:
        model.lm_head.bias.data[target.eos_token_id] += END_BIAS
    set_translation_defaults(model, target, num_beams=5)
    return Source("random", model, Tokenizers(tokenizer, target))


def with_settings(**settings) -> Source:
    source = random_source()
    source.model.generation_config.update(**settings)
    return source


def of_model(model) -> Source:
    tokenizer = train_tokenizer(["a b c"], "char", template="seq2seq")
    return Source("other", model, Tokenizers(tokenizer, tokenizer))


REFUSED = {
    "modern": (lambda: of_model(tiny_seq2seq("modern")), "position_type is 'rotary', .* has 'relative'"),
    "gpt": (lambda: of_model(tiny_model("gpt2")), "this is a ScratchGPTForCausalLM"),
    "native-gpt": (lambda: of_model(export_native(tiny_model("gpt2"))), "this is a GPT2LMHeadModel"),
    "encoder": (lambda: of_model(tiny_encoder(ScratchEncoderForMaskedLM, "bert")), "this is a ScratchEncoderForMasked"),
    "activation": (lambda: random_source(hidden_act="relu2"), "its activation is 'relu2'"),
    "vocabulary": (lambda: random_source(vocab_size=290), "tokenizer has the token id 299, the model has 290 tokens"),
    "end": (lambda: with_settings(eos_token_id=[2, 5]), r"eos_token_id is \[2, 5\], want that of the tokenizer, 2"),
    "sampling": (lambda: with_settings(do_sample=True), "sets do_sample to True"),
    "penalty": (lambda: with_settings(repetition_penalty=1.2), "sets repetition_penalty to 1.2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_the_engine_does_not_support_are_refused(name, tmp_path):
    make, reason = REFUSED[name]
    with pytest.raises(ScratchError, match=reason):
        export_model(make(), tmp_path / "new" / "out", CTRANSLATE2)
    assert list(tmp_path.iterdir()) == []


def test_unknown_quantization_and_a_folder_with_files_are_refused(tmp_path):
    source = random_source()
    with pytest.raises(ScratchError, match="no quantization 'int4': choose one of float32, float16, int8"):
        export_model(source, tmp_path / "out", CTRANSLATE2, "int4")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ScratchError, match="is not an empty folder"):
        export_model(source, tmp_path, CTRANSLATE2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


CASES = {
    "bpe": {},
    "int8": {},
    "float16": {},
    "bpe-separate": {"separate": True},
    "char-separate": {"kind": "char", "separate": True},
    "word-no-bias": {"kind": "word", "lm_head_bias": False},
    "unigram-untied": {"kind": "unigram", "tie_word_embeddings": False, "scale_embedding": False},
    "gelu-more-rows": {"hidden_act": "gelu", "vocab_size": 304},
    "gelu_new": {"hidden_act": "gelu_new"},
    "silu": {"hidden_act": "silu"},
    **{preset: {"preset": preset} for preset in ("bart", "mbart", "pegasus", "t5")},
    "bart-untied": {"preset": "bart", "tie_word_embeddings": False, "lm_head_bias": False, "scale_embedding": True},
    "t5-tied": {"preset": "t5", "tie_word_embeddings": True, "mlp_gated": False, "hidden_act": "relu"},
    "t5-silu": {"preset": "t5", "hidden_act": "silu", "head_dim": 12, "relative_attention_max_distance": 20},
}


@pytest.mark.parametrize("name", CASES)
def test_record_states_the_comparison_and_the_model_is_unchanged(name, tmp_path):
    source = random_source(**CASES[name])
    before = {key: weight.clone() for key, weight in source.model.state_dict().items()}
    quantization = name if name in CTRANSLATE2.quantizations else "float32"
    record = export_model(source, tmp_path / "out", CTRANSLATE2, quantization)
    assert json.loads((tmp_path / "out" / "export.json").read_text()) == record
    assert (record["format"], record["quantization"]) == ("ctranslate2", quantization)
    assert set(record["versions"]) == {"torch", "transformers", "ctranslate2"}
    compared = record["compared"]
    assert compared["engine"] == "ctranslate2"
    if quantization == "float32":
        assert compared["texts"] == compared["equal_greedy"] == compared["equal_beams"] == 8
        assert compared["largest_log_probability_difference"] < 2e-5
    else:  # below the smallest error of 8 bits, and above that of float32
        assert 2e-5 < compared["largest_log_probability_difference"] < {"float16": 0.01, "int8": 0.5}[quantization]
    assert all(torch.equal(weight, before[key]) for key, weight in source.model.state_dict().items())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.bin", "config.json", "tokenizer.json", "generation_config.json", "export.json"} <= names
    assert ("target_tokenizer" in names) == CASES[name].get("separate", False)


@pytest.mark.parametrize("tied", [True, False])
def test_a_native_t5_is_exported(tied, tmp_path):
    """Its config says that the head is tied, also if it is not, and has neither a length nor a start token."""
    # transformers' T5 with more decoder than encoder layers can't decode with a cache.
    source = random_source(preset="t5", tie_word_embeddings=tied, encoder_layers=3)
    native = export_native(source.model)
    native.config.tie_word_embeddings = True
    native.config.decoder_start_token_id = native.config.n_positions = None
    record = export_model(Source("t5", native, source.tokenizers), tmp_path, CTRANSLATE2)
    assert record["model_class"] == "T5ForConditionalGeneration"
    assert record["compared"]["equal_greedy"] == record["compared"]["equal_beams"] == 8


def test_the_first_token_of_mbart_is_refused_by_name(tmp_path):
    source = random_source(preset="mbart")
    source.model.generation_config.forced_bos_token_id = 17
    with pytest.raises(ScratchError, match="sets forced_bos_token_id to 17, which the exported model can't record"):
        export_model(source, tmp_path, CTRANSLATE2)


def test_marian_model_is_exported_as_it_is(tmp_path):
    """Its generation config may be that of a new model; and it stays as it is, though the engine quantises in place."""
    source = random_source()
    marian = export_native(source.model)
    marian.generation_config = type(marian.generation_config).from_model_config(marian.config)
    before = {key: weight.clone() for key, weight in marian.state_dict().items()}
    for quantization in ("int8", "float32"):
        folder = tmp_path / quantization
        record = export_model(Source("marian", marian, source.tokenizers), folder, CTRANSLATE2, quantization)
        assert all(torch.equal(weight, before[key]) for key, weight in marian.state_dict().items())
    assert record["model_class"] == "MarianMTModel"
    assert record["compared"]["equal_greedy"] == record["compared"]["equal_beams"] == 8
    saved = json.loads((folder / "generation_config.json").read_text())
    assert (saved["num_beams"], saved["max_length"], saved["length_penalty"]) == (1, 64, 1.0)
    assert AutoTokenizer.from_pretrained(folder).model_max_length == 64


@pytest.mark.parametrize("broken", ["weights", "beams"])
def test_a_wrong_export_is_refused_and_leaves_nothing(broken, tmp_path):
    def write(source, folder, quantization):
        if broken == "weights":
            source = random_source()
            source.model.model.decoder.layers[0].mlp.up_proj.bias.data[0] += 5
        module.write(source, folder, quantization)
        if broken == "beams":
            path = folder / "generation_config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "length_penalty": -2.0}))

    reason = {
        "weights": "CTranslate2's log-probabilities differ by up to",
        "beams": "of 8 translations by CTranslate2, 0 differ .* with greedy decoding, and [1-8] with 5 beams",
    }[broken]
    with pytest.raises(ScratchError, match=reason):
        export_model(random_source(), tmp_path / "out", replace(CTRANSLATE2, write=write))
    assert list(tmp_path.iterdir()) == []


def train(folder, *options: str) -> Source:
    run_here(TRAIN, "--output_dir", str(folder), *TRAINING, *options)
    model = load_model(folder).eval()
    return Source(str(folder), model, open_tokenizers(str(folder), model.config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Source:
    """A small translator, trained to about 90 BLEU."""
    return train(tmp_path_factory.mktemp("translation") / "run", "--max_steps", "1200")


@pytest.mark.release
def test_translations_are_those_of_generate_without_the_package(trained, tmp_path):
    """200 sentences in float32; int8 loses at most 0.3 BLEU."""
    export_model(trained, tmp_path / "float32", CTRANSLATE2)
    default, greedy, beams = translate_without_package(tmp_path / "float32", GERMAN, tmp_path)
    assert greedy == generate(trained, GERMAN, num_beams=1)
    assert beams == default == generate(trained, GERMAN, num_beams=5)
    assert greedy != beams
    bleu = sacrebleu.corpus_bleu(beams, [ENGLISH]).score
    assert bleu > 60  # the translations are not trivial

    export_model(trained, tmp_path / "int8", CTRANSLATE2, "int8")
    size = {name: (tmp_path / name / "model.bin").stat().st_size for name in ("float32", "int8")}
    assert size["int8"] < 0.35 * size["float32"]
    quantized = translate_without_package(tmp_path / "int8", GERMAN, tmp_path)[0]
    assert quantized != beams
    assert sacrebleu.corpus_bleu(quantized, [ENGLISH]).score >= bleu - 0.3


@pytest.mark.slow
def test_separate_vocabularies_without_the_package(tmp_path):
    source = train(tmp_path / "run", "--max_steps", "300", "--separate_vocabularies", "--tokenizer", "word")
    export_model(source, tmp_path / "out", CTRANSLATE2)
    default, greedy, beams = translate_without_package(tmp_path / "out", GERMAN[:50], tmp_path)
    assert greedy == generate(source, GERMAN[:50], num_beams=1)
    assert beams == default == generate(source, GERMAN[:50], num_beams=5)
    assert len(set(greedy)) > 40
