"""Preference data and DPO: formats of a pair, a complete run, and the loss compared with TRL."""

import json

import pytest
import torch
from accelerate import Accelerator
from helpers.models import save_tiny, tiny_model
from helpers.processes import PROJECT, refusals, run_here
from transformers import AutoModelForCausalLM, AutoTokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.data.readers.formats import BadRowError
from scratch_gpt.data.readers.preferences import Preference, open_preferences, preference_of
from scratch_gpt.errors import ScratchError
from scratch_gpt.tokenization.chat import add_chat_template
from scratch_gpt.train.engine.task import DataState
from scratch_gpt.train.tasks.dpo.task import METRICS, EncodedPairs, Preferences

DPO = str(PROJECT / "training" / "dpo.py")
ASK = {"role": "user", "content": "a b?"}
GOOD, BAD_ANSWER = ({"role": "assistant", "content": text} for text in ("a", "b c"))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD_ANSWER]},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD_ANSWER]},
        {"prompt": None, "chosen": [ASK, GOOD], "rejected": [ASK, BAD_ANSWER]},
        {"prompt": [ASK], "chosen": [ASK, GOOD], "rejected": [ASK, BAD_ANSWER]},
        {"prompt": "a b?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD_ANSWER]},
        {"prompt": "a b?", "chosen": [GOOD], "rejected": [BAD_ANSWER]},
    ],
)
def test_all_preference_formats_are_equivalent(row):
    assert preference_of(row) == Preference([ASK], [GOOD], [BAD_ANSWER])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "'chosen' and 'rejected' are the same: 1, first row 1"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "'prompt' is empty, want text"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, "'rejected' is null, want text"),
    ],
)
def test_invalid_preference_pair_is_rejected_with_reason(row, words, tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, (good, row))))
    with pytest.raises(ScratchError, match=words):
        list(open_preferences(str(tmp_path / "t.jsonl")).read())


def test_equal_completions_are_rejected():
    with pytest.raises(BadRowError, match="no difference"):
        preference_of({"chosen": [ASK, GOOD], "rejected": [ASK, GOOD]})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model, and pairs in which the preferred completion ends with the letter a."""
    folder = tmp_path_factory.mktemp("base")
    save_tiny(folder / "model")
    tokenizer = train_tokenizer(["abcdefgh? "], "char", model_max_length=64)
    torch.manual_seed(0)
    model = tiny_model("llama", vocab_size=len(tokenizer))
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {"prompt": f"{a}{b}", "chosen": f"{c}a", "rejected": f"{c}{b}"} for a in "abcd" for b in "bcde" for c in "fgh"
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "none.jsonl").write_text('{"text": "a"}\n')
    (folder / "one.jsonl").write_text(json.dumps(rows[0]))
    return folder


def test_training_learns_preferences_and_resumes_exactly(base, tmp_path):
    """The loss starts at log 2; at the end all held-out pairs are ranked correctly; `verify` resumes exactly."""
    out = tmp_path / "run"
    options = ["--num_threads", "1", "--precision", "fp32", "--max_steps", "80", "--eval_every", "40"]
    options += ["--save_every", "40"]
    options += ["--tokens_per_batch", "128", "--learning_rate", "0.01", "--output_dir", str(out)]
    run_here(DPO, "--init_from", str(base / "model"), "--dataset", str(base / "pairs.jsonl"), *options)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["val_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert rows[-1]["val_loss"] < 0.4
    assert rows[-1]["val_accuracy"] == 1.0
    assert rows[-1]["accuracy"] > 0.9
    sound = run_here("scratch-gpt", "verify", str(out))
    assert "✗" not in sound.stdout
    assert "bit-equal" in sound.stdout
    assert METRICS[0].title in (out / "README.md").read_text()


@pytest.mark.parametrize("conversational", [False, True])
def test_loss_equals_trl(base, tmp_path, conversational):
    """For a model that differs from its reference, and pairs whose sides have different lengths."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    rows = [
        {"prompt": "ab", "chosen": "cd", "rejected": "efgh"},
        {"prompt": "b", "chosen": "ghc", "rejected": "a"},
        {"prompt": "cab", "chosen": "h", "rejected": "ff"},
    ]
    if conversational:
        add_chat_template(tokenizer)
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        rows = [{name: [{"role": roles[name], "content": text}] for name, text in row.items()} for row in rows]
    model, reference = (tiny_model("llama", vocab_size=len(tokenizer)) for _ in range(2))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    pairs = EncodedPairs([preference_of(row) for row in rows], tokenizer, 64)
    task = Preferences(Accelerator(cpu=True), {"train": pairs, "validation": pairs}, reference, 0, 10_000, 0, 0.3)
    ours = sum(task.loss(model, task.make_batch(0, i)).item() for i in range(len(task.train.plan(0)))) / 3

    settings = {
        "output_dir": str(tmp_path),
        "beta": 0.3,
        "per_device_train_batch_size": 3,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,  # TRL enables it by default
    }
    config = DPOConfig(**settings, max_length=64, disable_dropout=True)
    if not conversational:  # TRL does not append <eos> to plain text
        rows = [{**row, **{side: row[side] + tokenizer.eos_token for side in ("chosen", "rejected")}} for row in rows]
    trainer = DPOTrainer(model, reference, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    theirs = trainer.compute_loss(trainer.model.eval(), batch).item()
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert abs(ours - 0.6931) > 0.01


def test_long_preference_pairs_are_counted(base):
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    pairs = EncodedPairs([Preference("a", "b", "c"), Preference("a", "b" * 9, "c")], tokenizer, 8)
    assert (len(pairs), pairs.num_too_long) == (1, 1)
    assert pairs.chosen[0].completion == [*tokenizer("b", add_special_tokens=False)["input_ids"], 2]


def test_template_without_answer_boundary_is_rejected(base):
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}h{% endif %}"
    )
    with pytest.raises(ScratchError, match="so that the start of the answer is unknown"):
        EncodedPairs([Preference([ASK], [GOOD], [BAD_ANSWER])], tokenizer, 64)


def test_padding_does_not_change_scores(base):
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    model = AutoModelForCausalLM.from_pretrained(base / "model")
    rows = [Preference("a", "b", "c"), Preference("abcd", "bcdefgh" * 3, "c")]
    both, *alone = (EncodedPairs(part, tokenizer, 64) for part in (rows, rows[:1], rows[1:]))
    together = both.score(model, 0, progress=False)
    torch.testing.assert_close(together, torch.cat([part.score(model, 0, progress=False) for part in alone], dim=1))


def test_batches_resume_at_any_step(base):
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    pairs = EncodedPairs(list(open_preferences(str(base / "pairs.jsonl")).read()), tokenizer, 64)
    model = AutoModelForCausalLM.from_pretrained(base / "model")
    task = Preferences(Accelerator(cpu=True), {"train": pairs, "validation": pairs}, model, 0, 64, 0, 0.1)
    stream = task.batches(DataState())
    taken = [next(stream) for _ in range(8)]
    again = next(task.batches(taken[4][1]))
    assert torch.equal(again[0]["input_ids"], taken[5][0]["input_ids"])
    assert task.count(again[0]) * 2 == len(again[0]["input_ids"]) == len(again[0]["reference"])


BAD = {
    "nothing to tune": ("--dataset pairs.jsonl", "give one with --init_from"),
    "no pairs": ("--init_from model", "give pairs with --dataset"),
    "no such file": ("--init_from model --dataset ./no.jsonl", "no such file or folder: ./no.jsonl"),
    "other columns": ("--init_from model --dataset none.jsonl", "has the columns 'text', want 'prompt', 'chosen'"),
    "too few": (
        "--init_from model --dataset one.jsonl",
        "one.jsonl has too few rows: it leaves nothing for validation",
    ),
    "beta": ("--init_from model --dataset pairs.jsonl --beta 0", "beta is 0.0, want more than 0"),
    "share": ("--init_from model --dataset pairs.jsonl --validation_fraction 1", "validation_fraction is 1.0, want"),
}


@pytest.fixture(scope="module")
def outcomes(base):
    commands = [[*arguments.split(), "--output_dir", "out"] for arguments, _ in BAD.values()]
    return dict(zip(BAD, refusals(DPO, commands, base), strict=True))


@pytest.mark.parametrize("case", BAD)
def test_invalid_arguments_are_reported_with_exit_code_2(case, outcomes, base):
    code, errors = outcomes[case]
    assert code == 2, errors
    assert BAD[case][1] in errors, errors
    assert not (base / "out").exists()
