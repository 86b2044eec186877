"""Inference from the command line and from Python: generation stays within the positions, each input line gives one
output line, and no input is ignored silently."""

import os
from pathlib import Path

import pytest
import torch
from helpers.models import lift_norms, randomise, tiny_encoder, tiny_model, tiny_seq2seq_config
from helpers.processes import run_here, run_python
from transformers import pipeline

from scratch_gpt import (
    ScratchEncoderForMaskedLM,
    ScratchEncoderForSequenceClassification,
    ScratchSeq2SeqForConditionalGeneration,
    train_tokenizer,
)
from scratch_gpt.cli.texts import one_line
from scratch_gpt.errors import ScratchError
from scratch_gpt.evaluation.chat import answer
from scratch_gpt.evaluation.translation import translate
from scratch_gpt.hub.loading import load_model, open_tokenizer
from scratch_gpt.hub.push import verify_loads_without_package
from scratch_gpt.models.pipeline_scratch_translation import ScratchTranslationPipeline, longest_translation
from scratch_gpt.rl.rollouts import fitting_prompts, max_completion_length

LETTERS = "abcdefgh "


def save(folder: Path, model, template: str = "causal") -> Path:
    """Save a model with a tokenizer of a few characters, one of them a line feed."""
    model.save_pretrained(folder)
    tokenizer = train_tokenizer([LETTERS + "\n"], "char", template=template, model_max_length=64)
    tokenizer.save_pretrained(folder)
    return folder


def scratch_gpt(*arguments, cwd, check=True):
    return run_here("scratch-gpt", *map(str, arguments), cwd=cwd, check=check)


@pytest.mark.parametrize(
    "arguments", ["tokenizer encode CAUSAL X", "tokenizer compare X CAUSAL", "generate CAUSAL --prompt X"]
)
def test_bytes_that_are_not_utf_8_are_an_error(arguments, causal, tmp_path):
    words = arguments.replace("CAUSAL", str(causal)).replace("X", os.fsdecode(b"a\xff")).split()
    refused = scratch_gpt(*words, cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "is not UTF-8 text" in refused.stderr


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """An encoder-decoder whose translations have different lengths, some with line feeds."""
    config = tiny_seq2seq_config("modern", vocab_size=14)
    model = lift_norms(randomise(ScratchSeq2SeqForConditionalGeneration(config), seed=1, std=0.3))
    model.config.set_languages("de", "en", False)
    return save(tmp_path_factory.mktemp("translator") / "model", model, "seq2seq")


@pytest.fixture(scope="module")
def translate_pipe(translator):
    return pipeline("seq2seq-translation", str(translator), trust_remote_code=False, device="cpu")


TEXTS = ["ab cd", "h", "abcdefgh abcdefgh", "ba", "gh fe dc ba abcd"]


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"num_beams": 3}, {"num_beams": 3, "length_penalty": 2.0}])
def test_batched_translations_equal_single_ones(translate_pipe, options):
    single = [translate_pipe(text, **options) for text in TEXTS]
    assert all(isinstance(record["translation_text"], str) for record in single)
    assert translate_pipe(TEXTS, **options) == single
    assert translate_pipe(TEXTS, batch_size=2, **options) == single
    assert translate_pipe(TEXTS, batch_size=5, **options) == single
    model, tokenizer = translate_pipe.model, translate_pipe.tokenizer
    expected = [record["translation_text"] for record in single]
    assert translate(model, tokenizer, TEXTS, batch_size=3, **options) == expected
    assert len(set(expected)) == len(TEXTS)


def test_each_text_gets_all_requested_sequences(translate_pipe):
    options = {"num_beams": 3, "num_return_sequences": 3}
    single = [translate_pipe(text, **options) for text in TEXTS]
    for records, text in zip(single, TEXTS, strict=True):
        assert [set(record) for record in records] == [{"translation_text"}] * 3
        assert records[0] == translate_pipe(text, num_beams=3)  # the best one is first
        assert len({record["translation_text"] for record in records}) > 1
    assert translate_pipe(TEXTS, batch_size=2, **options) == single
    assert translate_pipe([*TEXTS, ""], batch_size=3, **options)[-1] == [{"translation_text": ""}] * 3


def test_an_empty_text_has_an_empty_translation(translate_pipe):
    empty = {"translation_text": ""}
    assert translate_pipe("") == empty
    assert translate_pipe(["", "ab", " \t"], batch_size=3) == [empty, translate_pipe("ab"), empty]
    assert translate_pipe(["", ""], batch_size=2) == [empty, empty]
    model, tokenizer = translate_pipe.model, translate_pipe.tokenizer
    assert translate(model, tokenizer, ["", "ab", " "]) == ["", translate_pipe("ab")["translation_text"], ""]


def test_maximum_translation_length_depends_on_the_source_length_only(translate_pipe):
    lengths = [longest_translation(translate_pipe.model, n) for n in (1, 7, 8, 23, 64)]
    assert lengths == [32, 32, 64, 64, 64]


def test_sources_and_translations_are_limited_to_the_positions(translate_pipe):
    long = "abcdefgh " * 20
    assert translate_pipe(long) == translate_pipe("abcdefgh " * 7)  # one of the 64 positions is for <eos>
    translate_pipe("ab", max_new_tokens=500)
    translate_pipe("ab", max_length=500)


def test_each_input_line_gives_one_output_line(translator, tmp_path):
    """The translator generates line feeds, like one that was trained on targets with line feeds."""
    (tmp_path / "in.txt").write_text("ab cd\n\ncd\u2028ef\r\nba\ngh fe dc ba abcd\n", newline="")
    done = scratch_gpt("translate", translator, "--file", "in.txt", "--num_beams", "1", cwd=tmp_path)
    raw = translate(load_model(translator).eval(), open_tokenizer(str(translator)), TEXTS, num_beams=1)
    printed = done.stdout.removesuffix("\n").split("\n")
    assert len(printed) == 5
    assert printed[1] == ""
    assert any("\n" in text for text in raw)
    scratch_gpt("translate", translator, "--file", "in.txt", "--num_beams", "1", "--output", "out.txt", cwd=tmp_path)
    assert (tmp_path / "out.txt").read_text().removesuffix("\n").split("\n") == printed
    (tmp_path / "targets.txt").write_text("a\nb\nc\n")
    (tmp_path / "sources.txt").write_text("ab\nba\nabcdefgh abcdefgh\n")
    options = ("--dataset", "sources.txt", "--target_file", "targets.txt", "--output", "eval.txt", "--num_beams", "1")
    scratch_gpt("evaluate", translator, *options, cwd=tmp_path)
    assert len((tmp_path / "eval.txt").read_text().splitlines()) == 3


def test_one_line_replaces_line_breaks():
    assert one_line("a\nb\r\nc\rd\u2028e\x85f") == "a b c d e f"
    assert one_line("\n\n") == one_line("") == ""
    assert one_line(" a  b ") == " a  b "


def test_classify_writes_one_line_for_each_text(tmp_path):
    model = tiny_encoder(ScratchEncoderForSequenceClassification, "bert", vocab_size=15, num_labels=2)
    model.config.id2label, model.config.label2id = {0: "good\nor bad", 1: "x\ty"}, {"good\nor bad": 0, "x\ty": 1}
    save(tmp_path / "model", model, "encoder")
    (tmp_path / "in.txt").write_text("ab\ncd\ne\n")
    printed = scratch_gpt("classify", "model", "--file", "in.txt", cwd=tmp_path).stdout
    rows = [line.split("\t") for line in printed.removesuffix("\n").split("\n")]
    assert [len(row) for row in rows] == [2, 2, 2]
    assert {row[0] for row in rows} <= {"good or bad", "x y"}


# Generation within the positions


@pytest.fixture(scope="module")
def learned_positions(tmp_path_factory):
    """A model with 64 learned positions and no end-of-text token."""
    model = tiny_model("gpt2", vocab_size=14, eos_token_id=None)
    model.generation_config.max_new_tokens = 32
    model.generation_config.eos_token_id = None
    return save(tmp_path_factory.mktemp("learned_positions") / "model", model)


def test_generation_stops_at_the_last_position_and_continues_with_the_next_prompt(learned_positions, tmp_path):
    prompts = ["ab", "a" * 41, "b" * 80, "c" * 63, "cd"]  # and <bos>
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n")
    done = scratch_gpt(
        "generate", learned_positions, "--prompt_file", "prompts.txt", "--num_samples", "2", cwd=tmp_path
    )
    assert done.stderr.splitlines() == [
        "prompt 2: generation stopped at the model's 64 positions",
        "prompt 3 is skipped: its 81 tokens fill the model's 64 positions",
        "prompt 4 is skipped: its 64 tokens fill the model's 64 positions",
    ]
    assert done.stdout.count("a" * 41) == 2
    assert "\ncd" in done.stdout
    longer = scratch_gpt("generate", learned_positions, "--prompt", "ab", "--max_new_tokens", "500", cwd=tmp_path)
    assert "generation stopped at the model's 64 positions" in longer.stderr
    short = scratch_gpt("generate", learned_positions, "--prompt", "ab", "--max_new_tokens", "61", cwd=tmp_path)
    assert short.stderr == ""


def test_bigram_model_has_no_position_limit(tmp_path):
    from scratch_gpt import ScratchBigramConfig, ScratchBigramForCausalLM

    config = ScratchBigramConfig(vocab_size=14, max_position_embeddings=8, bos_token_id=1)
    save(tmp_path / "bigram", ScratchBigramForCausalLM(config))
    done = scratch_gpt("generate", "bigram", "--prompt", "a" * 20, "--max_new_tokens", "30", cwd=tmp_path)
    assert done.stderr == ""


CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def test_answers_stay_within_the_positions_and_do_not_depend_on_the_batch(learned_positions, capsys):
    model, tokenizer = load_model(learned_positions).eval(), open_tokenizer(str(learned_positions))
    tokenizer.chat_template = CHAT
    conversations = [
        [{"role": "user", "content": "abcdefgh"[i % 8] * n}] for i, n in enumerate((3, 60, 9, 20, 64, 70, 5, 44))
    ]
    batched = answer(model, tokenizer, conversations, max_new_tokens=20)
    assert "2 of 8 conversations fill the model's 64 positions: no answer" in capsys.readouterr().err
    assert [answer(model, tokenizer, [conversation], max_new_tokens=20)[0] for conversation in conversations] == batched
    assert batched[4] == batched[5] == ""
    assert all(batched[i] for i in (0, 1, 2, 3, 6, 7))


def test_prompts_without_space_for_a_completion_are_skipped():
    prompts = [[1] * n for n in (3, 60, 10, 33, 64)]
    assert fitting_prompts(prompts, 64, 20) == ([0, 2, 3], 20)
    assert fitting_prompts(prompts, 64, None) == ([0, 2, 3], 31)  # with the longest prompt, it would be 0
    assert fitting_prompts(prompts, 64, 4) == ([0, 1, 2, 3], 4)
    with pytest.raises(ScratchError, match="no prompt leaves 62 of the model's 64 positions"):
        fitting_prompts(prompts, 64, 62)
    with pytest.raises(ScratchError, match="the longest prompt has 64 tokens"):
        max_completion_length(prompts, 64, None)


@pytest.mark.parametrize("command", ["judge", "pairs"])
def test_prompts_that_are_too_long_are_counted_and_skipped(command, learned_positions, tmp_path):
    (tmp_path / "prompts.txt").write_text("\n".join(["ab", "a" * 61, "cd", "b" * 70]) + "\n")
    output = ("--output", "pairs.jsonl", "--samples", "8") if command == "pairs" else ()
    options = ("--reward", "re:a", "--dataset", "prompts.txt", "--max_new_tokens", "4", *output)
    done = scratch_gpt(command, learned_positions, *options, cwd=tmp_path, check=False)
    assert "2 of 4 prompts are skipped: they leave less than 4 of the model's 64 positions" in done.stderr
    if command == "judge":
        assert "2 completions by" in done.stdout


# Input texts


@pytest.fixture
def causal(tmp_path):
    return save(tmp_path / "causal", tiny_model("llama", vocab_size=14))


def test_prompt_files_are_decoded_like_other_input_files(causal, tmp_path):
    (tmp_path / "p.txt").write_bytes("\ufeffab\u2028cd\r\n\r\nef\x0bgh\n".encode())
    done = scratch_gpt("generate", causal, "--prompt_file", "p.txt", "--max_new_tokens", "1", cwd=tmp_path)
    assert done.stderr.splitlines() == ["2 characters are not in the vocabulary: '\\u2028', '\\x0b'"]
    assert len([line for line in done.stdout.split("\n") if line.startswith(("ab", "ef"))]) == 2
    (tmp_path / "p.txt").write_bytes("Käfer\n".encode("latin-1"))
    refused = scratch_gpt("generate", causal, "--prompt_file", "p.txt", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "p.txt is not UTF-8 text" in refused.stderr
    compared = scratch_gpt("tokenizer", "compare", "p.txt", causal, cwd=tmp_path, check=False)
    assert "p.txt is not UTF-8 text" in compared.stderr
    (tmp_path / "p.txt").write_text("\ufeffab\n")
    assert "exact" in scratch_gpt("tokenizer", "compare", "p.txt", causal, cwd=tmp_path).stdout


def test_characters_that_are_not_in_the_vocabulary_are_named(causal, translator, tmp_path):
    save(tmp_path / "classifier", tiny_encoder(ScratchEncoderForSequenceClassification, "bert"), "encoder")
    save(tmp_path / "masked", tiny_encoder(ScratchEncoderForMaskedLM, "bert"), "encoder")
    (tmp_path / "in.txt").write_text("aäb\nö ä <unk>\n")
    expected = "2 characters are not in the vocabulary: 'ä', 'ö'"
    for command in (
        ("generate", causal, "--prompt_file", "in.txt", "--max_new_tokens", "1"),
        ("translate", translator, "--file", "in.txt"),
        ("classify", "classifier", "--file", "in.txt"),
        ("fill", "masked", "aäb <mask> ö"),
        ("tokenizer", "encode", causal, "aäbö"),
        ("judge", causal, "--reward", "re:a", "--dataset", "in.txt", "--max_new_tokens", "2"),
    ):
        assert expected in scratch_gpt(*command, cwd=tmp_path).stderr, command[0]
    one = scratch_gpt("tokenizer", "encode", causal, "äää", cwd=tmp_path).stderr
    assert one == "1 character is not in the vocabulary: 'ä'\n"
    many = "".join(chr(0x4E00 + i) for i in range(30))
    shown = scratch_gpt("tokenizer", "encode", causal, many, cwd=tmp_path).stderr
    assert shown.startswith("30 characters are not in the vocabulary: '一', ")
    assert shown.endswith(", …\n")


def test_unknown_words_are_named_and_byte_level_tokenizers_have_none(tmp_path, story_tokenizer):
    tokenizer = train_tokenizer(["the dog sat. the cat sat."], "word")
    tokenizer.save_pretrained(tmp_path / "words")
    message = scratch_gpt("tokenizer", "encode", "words", "the zebra sat. the yak sat.", cwd=tmp_path).stderr
    assert message == "2 words are not in the vocabulary: ' zebra', ' yak'\n"
    story_tokenizer.save_pretrained(tmp_path / "bytes")
    assert scratch_gpt("tokenizer", "encode", "bytes", "ä一🙂", cwd=tmp_path).stderr == ""


def test_texts_that_are_truncated_are_counted(translator, tmp_path):
    (tmp_path / "in.txt").write_text("ab\n" + "cd" * 50 + "\n" + "ef" * 60 + "\n")
    done = scratch_gpt("translate", translator, "--file", "in.txt", cwd=tmp_path)
    assert "2 texts have more tokens than the model's 64 positions: truncated" in done.stderr


def test_options_without_an_effect_are_an_error(translator, tmp_path):
    refused = scratch_gpt(
        *("translate", translator, "ab", "--num_beams", "1", "--length_penalty", "0.5"), cwd=tmp_path, check=False
    )
    assert refused.returncode == 2
    assert "--length_penalty can't be used without beam search: omit it" in refused.stderr
    refused = scratch_gpt(
        *("evaluate", translator, "--dataset", "grammar", "--num_stories", "3", "--held_out", "0.5"),
        cwd=tmp_path,
        check=False,
    )
    assert "--held_out, --num_stories can't be used with" in refused.stderr
    assert "omit them" in refused.stderr
    scratch_gpt("translate", translator, "ab", "--num_beams", "2", "--length_penalty", "0.5", cwd=tmp_path)


def test_options_table_of_evaluate_contains_every_option():
    """An option of `evaluate` that is missing from the table would be accepted and ignored."""
    import inspect

    from scratch_gpt.cli.evaluate import USED_BY, evaluate

    always = {"context", "model", "dataset", "batch_size", "device", "dtype", "trust_remote_code"}
    assert set(inspect.signature(evaluate).parameters) == always | set().union(*USED_BY.values())


def test_plan_prefers_the_vocabulary_size_of_the_command_line(tmp_path):
    (tmp_path / "run.yaml").write_text("vocab_size: 500\nhidden_size: 16\nnum_hidden_layers: 1\nbatch_size: 1\n")
    sizes = ("--num_attention_heads", "2", "--context_length", "8")

    def parameters(*options):
        printed = scratch_gpt("plan", "--config", "run.yaml", *sizes, *options, cwd=tmp_path).stdout
        return int(next(line for line in printed.splitlines() if "parameters" in line).split("│")[2].replace(",", ""))

    assert parameters() - parameters("--vocab_size", "100") == 2 * 400 * 16  # embedding and head


# Publishing


def test_verification_before_a_push_has_a_timeout(causal, fresh_verification):
    with pytest.raises(ScratchError, match=r"took over 0\.1 s and was killed"):
        verify_loads_without_package(causal, timeout=0.1)


def test_checkpoint_selects_the_translation_pipeline(translate_pipe):
    assert isinstance(translate_pipe, ScratchTranslationPipeline)
    assert torch.equal(translate_pipe.preprocess("")["attention_mask"], torch.tensor([[0]]))


def test_with_the_package_a_pipeline_needs_no_remote_code(tmp_path):
    """As README.md says: after `import scratch_gpt`, transformers takes its classes, and not the copy in the folder."""
    code = (
        "import sys\nimport scratch_gpt\nfrom transformers import pipeline\n"
        'model = pipeline("text-generation", sys.argv[1], device="cpu").model\n'
        'print(type(model).__module__, "transformers_modules" in sys.modules)'
    )
    save(tmp_path / "model", tiny_model("llama", vocab_size=len(LETTERS) + 9))
    printed = run_python("-c", code, str(tmp_path / "model"), cwd=tmp_path, fresh=True).stdout
    assert printed.splitlines()[-1] == "scratch_gpt.models.modeling_scratch_gpt False"
    without = code.replace("import scratch_gpt\n", "")
    result = run_python("-c", without, str(tmp_path / "model"), cwd=tmp_path, fresh=True, check=False)
    assert result.returncode
    assert "trust_remote_code" in result.stderr
