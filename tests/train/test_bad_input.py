"""Errors of `language_modeling.py` for bad input: one line, exit code 2, and nothing is written."""

import pytest
from helpers.models import tiny_config
from helpers.processes import PRETRAIN, PROJECT, TINY_LOOP, TINY_RUN, refusals

from scratch_gpt import ScratchGPTForCausalLM

BAD = {
    "missing file": (["--dataset", "DIR/none.txt"], "no such file or folder"),
    "empty file": (["--dataset", "DIR/empty.txt"], "is empty"),
    "text shorter than the context": (["--dataset", "DIR/short.txt"], "shorter than context_length 32"),
    "dataset without that column": (["--dataset", "DIR/t.jsonl", "--text_column", "body"], "no column 'body'"),
    "heads that do not divide": (["--num_attention_heads", "5"], "num_attention_heads is 5"),
    "tokenizer too large": (["--init_from", "DIR/model", "--tokenizer", "DIR/tokenizer"], "the model's vocabulary"),
    "another run": (["--output_dir", "DIR/other"], "contains another run"),
    "unknown preset": (["--preset", "gtp2"], "unknown preset 'gtp2': choose one of bigram, gpt2"),
    "unknown flag": (["--learning_rat", "1"], "unrecognized arguments: --learning_rat"),
    "nothing to resume": (["--resume"], "holds no run"),
    "sizes with a checkpoint": (["--init_from", "DIR/model", "--hidden_size", "64"], "remove --hidden_size"),
    "wrong value in the config": (["--config", "DIR/wrong.yaml"], "invalid int value: 'many'"),
    "unwritable output": (["--output_dir", "DIR/good.txt/run"], "can't be created"),
    "tracker that is not installed": (["--tracker", "trackio"], "trackio is not installed"),
    "context length 0": (["--context_length", "0"], "max_position_embeddings is 0"),
    "unknown tokenizer": (["--tokenizer", "DIR/none"], "is none of char, word, bpe, unigram"),
    "null in the config": (["--config", "DIR/null.yaml"], "log-every: want a value, not null"),
    "dropout out of range": (
        ["--dropout", "17", "--attention_dropout", "-1"],
        "dropout is 17.0, want at least 0 and at most 1; attention_dropout is -1.0",
    ),
    "unknown setting in the config": (["--config", "DIR/bad.yaml"], "unknown settings: max_step"),
    "type for a trained model": (["--init_from", "DIR/model", "--tokenizer", "bpe"], "omit --tokenizer with"),
    "batch size 0": (
        ["--batch_size", "0", "--learning_rate", "-1"],
        "learning_rate is -1.0, want more than 0; batch_size is 0, want more than 0",
    ),
    "wrong type": (["--max_steps", "many"], "invalid int value: 'many'"),
    "unknown Hub dataset": (["--dataset", "nobody/nothing"], "there is no file or folder of that name here"),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, story_tokenizer) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty.txt").touch()
    (folder / "short.txt").write_text("ten chars.")
    (folder / "t.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    (folder / "good.txt").write_text("It is good to have some text here. " * 40)
    (folder / "wrong.yaml").write_text("max_steps: many\n")
    (folder / "null.yaml").write_text("log_every: null\n")
    (folder / "bad.yaml").write_text("max_step: 3\n")
    (folder / "other").mkdir()
    (folder / "other" / "run.yaml").touch()
    ScratchGPTForCausalLM(tiny_config("llama")).save_pretrained(folder / "model")
    story_tokenizer.save_pretrained(folder / "tokenizer")
    before = sorted(folder.rglob("*"))
    argument_lists = []
    for arguments, _ in BAD.values():
        tiny = TINY_LOOP if "--init_from" in arguments else TINY_RUN
        text = [] if "--dataset" in arguments else ["--dataset", "DIR/good.txt"]
        options = ["--output_dir", "DIR/out", *text, *tiny, *arguments]
        argument_lists.append([option.replace("DIR", str(folder)) for option in options])
    found = refusals(PRETRAIN, argument_lists, cwd=PROJECT)
    assert sorted(folder.rglob("*")) == before  # nothing is written
    return dict(zip(BAD, found, strict=True))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_a_one_line_error_and_exit_code_2(case, outcomes):
    code, errors = outcomes[case]
    assert code == 2, errors
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert "error:" in last
    assert BAD[case][1] in last
