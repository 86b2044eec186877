"""Exact match is a metric only if each question has one correct answer."""

import json

from helpers.models import tiny_model
from helpers.processes import PROJECT, run_here

from scratch_gpt import train_tokenizer
from scratch_gpt.data.corpora.stories import stories
from scratch_gpt.train.engine.run_directory import read_metrics

SFT = str(PROJECT / "training" / "sft.py")


def test_exact_match_is_a_metric_of_built_in_questions_only(tmp_path):
    tokenizer = train_tokenizer(stories(seed=0, count=200), "char", model_max_length=256)
    base = tmp_path / "base"
    tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=256).save_pretrained(base)
    tokenizer.save_pretrained(base)
    rows = [{"prompt": f"how {i}", "completion": f"so {i}"} for i in range(20)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = f"--init_from {base} --max_steps 1 --eval_every 1 --num_threads 1 --precision fp32 --batch_size 4"
    for name, data in (("built_in", "--num_questions 40"), ("own", "--dataset own.jsonl --validation_fraction 0.2")):
        result = run_here(SFT, *options.split(), *data.split(), "--output_dir", name, cwd=tmp_path)
        assert result.stdout.count("\n  answer: ") == 3  # of the finished model
        assert "\n    question: " in result.stdout  # of an evaluation
        assert ("warning: 20 conversations: too few to learn from" in result.stderr) == (name == "own")
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        evaluated = [row for row in rows if "val_loss" in row]
        assert evaluated
        verdict = next(row["verdict"] for row in read_metrics(tmp_path / name) if "verdict" in row)
        assert verdict.startswith("The model ")
        assert verdict[1:-1] in result.stdout
        question, answer, expected = evaluated[-1]["sample"].splitlines()
        if name == "own":
            assert question.replace("question: how", "expected: so") == expected
        assert answer.startswith("answer: ")
        assert all(("val_exact" in row) == (name == "built_in") for row in evaluated)
