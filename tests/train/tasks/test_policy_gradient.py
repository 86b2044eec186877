"""Policy-gradient runs end to end: learning, exact resumes, and errors of bad input."""

import json
from collections import Counter

import pytest
import torch
from accelerate import Accelerator
from helpers.models import randomise
from helpers.processes import PROJECT, TWO_PROCESSES, refusals, run_here, run_python
from safetensors import safe_open
from transformers import AutoModelForCausalLM, BloomConfig

from scratch_gpt import ScratchGPTForCausalLM, train_tokenizer
from scratch_gpt.data.readers.prompts import open_prompts
from scratch_gpt.data.readers.tables import ReadOptions
from scratch_gpt.errors import ScratchError
from scratch_gpt.rl.rewards import pattern_reward
from scratch_gpt.train.tasks.policy_gradient.arguments import PolicyArguments
from scratch_gpt.train.tasks.policy_gradient.task import PolicyGradient

PPO = str(PROJECT / "training" / "policy_gradient.py")
OPTIONS = ["--num_threads", "1", "--prompts_per_rollout", "32", "--validation_prompts", "32", "--max_new_tokens", "8"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that generates random letters, and prompts."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = train_tokenizer(["abcdefgh "], "char", model_max_length=32)
    fields = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    fields |= {"max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = ScratchGPTForCausalLM(ScratchGPTForCausalLM.config_class.from_preset("llama", **fields))
    model = randomise(model, std=0.05)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.generation_config.do_sample, model.generation_config.max_new_tokens = True, 8
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "prompts.txt").write_text("\n".join(f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh"))
    conversations = [{"messages": [{"role": "user", "content": text}]} for text in "ab"]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, conversations)))
    BloomConfig(architectures=["BloomForCausalLM"]).save_pretrained(folder / "bloom")
    (folder / "wrong.py").write_text("def nan(prompts, completions):\n    return [float('nan')] * len(completions)\n")
    (folder / "plain.jsonl").write_text('{"column": "a"}\n')
    return folder


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "reinforce", "grpo"])
def test_policy_learns_the_rewarded_behaviour(algorithm, base, tmp_path):
    """The fraction of rewarded completions rises from below 0.75 to at least 0.9; `verify` resumes the run exactly in
    the middle of a round; the published model has no value head and loads without the package."""
    out = tmp_path / "run"
    steps = {"ppo": 96, "reinforce": 64, "grpo": 128}[algorithm]
    options = [*OPTIONS, "--max_steps", str(steps), "--eval_every", str(steps), "--save_every", str(steps // 2 + 1)]
    options += ["--learning_rate", "0.01", "--algorithm", algorithm, "--output_dir", str(out)]
    options += ["--num_generations", "4"]
    run_here(
        PPO, "--init_from", str(base / "model"), "--reward", "re:a|zz", "--dataset", str(base / "prompts.txt"), *options
    )
    rows = rows_of(out)
    first, last = rows[0], rows[-1]
    assert first["step"] == 0
    assert first["val_kl"] == pytest.approx(0, abs=1e-5)
    assert first["val_reward"] < 0.75
    assert last["val_reward"] >= 0.9
    assert 0 < last["val_kl"] < 12
    assert 0 < last["entropy"] < 3
    verified = run_here("scratch-gpt", "verify", str(out))
    assert "✗" not in verified.stdout
    assert "bit-equal" in verified.stdout
    checkpoint = sorted((out / "checkpoints").iterdir())[0]
    for folder in (out, checkpoint):
        with safe_open(folder / "model.safetensors", "pt") as file:
            assert not [name for name in file.keys() if "value" in name]  # noqa: SIM118
    with safe_open(checkpoint / "training_state.safetensors", "pt") as file:
        assert ("unpublished.value_head.score.weight" in file.keys()) == (algorithm == "ppo")  # noqa: SIM118
    card = (out / "README.md").read_text()
    assert "| mean reward |" in card
    assert r"`re:a\|zz`" in card
    assert f"It has {AutoModelForCausalLM.from_pretrained(out).num_parameters():,} parameters" in card
    code = "import sys; from transformers import pipeline as p; t = p('text-generation', sys.argv[1], "
    code += "trust_remote_code=True, device='cpu'); print(t('bb')[0]['generated_text']); assert 'scratch_gpt' not in "
    without_package = run_python(
        "-I", "-c", code + "sys.modules", str(out), cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "m")
    )
    assert without_package.stdout.splitlines()[-1].startswith("bb")


def test_interrupted_run_resumes_exactly(base, tmp_path):
    """It stops in the middle of a round, and the checkpoint contains the rollouts of this round."""
    same = ["--init_from", str(base / "model"), "--reward", "re:a", "--dataset", str(base / "prompts.txt"), *OPTIONS]
    same += ["--eval_every", "100", "--schedule", "constant"]
    run_here(PPO, *same, "--max_steps", "22", "--output_dir", str(tmp_path / "straight"))
    run_here(PPO, *same, "--max_steps", "11", "--output_dir", str(tmp_path / "stopped"))
    more = ["--resume", "--allow_changed_settings", "--max_steps", "22"]
    run_here(PPO, "--output_dir", str(tmp_path / "stopped"), *more)
    final_checkpoints = [tmp_path / name / "checkpoints" / "step-00000022" for name in ("straight", "stopped")]
    for name in ("model.safetensors", "training_state.safetensors"):
        with safe_open(final_checkpoints[0] / name, "pt") as one, safe_open(final_checkpoints[1] / name, "pt") as other:
            assert set(one.keys()) == set(other.keys())
            assert all(torch.equal(one.get_tensor(n), other.get_tensor(n)) for n in one.keys())  # noqa: SIM118
    tasks = [json.loads((folder / "training_state.json").read_text())["task"] for folder in final_checkpoints]
    assert tasks[0] == tasks[1]
    assert len(tasks[0]["round"]) == 32


def test_collapse_stops_the_run_and_keeps_the_best_model(base, tmp_path):
    out = tmp_path / "run"
    options = [
        *OPTIONS,
        "--max_kl",
        "0.5",
        "--learning_rate",
        "0.01",
        "--max_steps",
        "200",
        "--eval_every",
        "0",
        "--output_dir",
        str(out),
    ]
    result = run_here(
        PPO,
        *("--init_from", str(base / "model"), "--reward", "re:a", "--dataset", str(base / "prompts.txt"), *options),
        check=False,
    )
    assert result.returncode == 1
    assert "more than max_kl 0.5: the policy has collapsed, and output_dir keeps the best one" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    kept, before = (AutoModelForCausalLM.from_pretrained(folder) for folder in (out, base / "model"))
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), before.parameters(), strict=True))


@pytest.mark.slow
def test_two_processes_train_on_the_same_rollouts(base, tmp_path):
    out = tmp_path / "run"
    options = [*OPTIONS, "--max_steps", "24", "--eval_every", "24", "--learning_rate", "0.01"]
    options += ["--num_generations", "4"]
    options += ["--init_from", str(base / "model"), "--reward", "re:a", "--dataset", str(base / "prompts.txt")]
    run_python(*TWO_PROCESSES, PPO, *options, "--output_dir", str(out), cwd=tmp_path, OMP_NUM_THREADS="1")
    last = rows_of(out)[-1]
    assert last["samples"] == 128 * 2
    assert last["val_reward"] > rows_of(out)[0]["val_reward"]


def task_of(base, **settings):
    model, tokenizer = ScratchGPTForCausalLM.from_pretrained(base / "model"), train_tokenizer(["abcdefgh "], "char")
    args = PolicyArguments(prompts_per_rollout=6, **settings)
    args = args.resolve_defaults(1)
    prompts = {"train": ["a", "bc", "def", "gh", "h", "aa"], "validation": ["b"]}
    other = ScratchGPTForCausalLM.from_pretrained(base / "model")
    return model, PolicyGradient(Accelerator(), model, other, tokenizer, pattern_reward("a"), prompts, args)


def test_each_sample_is_used_once_per_epoch(base):
    _, task = task_of(base, num_generations=2, num_ppo_epochs=3, batch_size=4, algorithm="grpo")
    state, epochs = task_state(0, 0), []
    stream = task.batches(state)
    for _ in range(3):
        seen = []
        for _ in range(3):
            batch, state = next(stream)
            seen += rollouts_in(batch["labels"])
        epochs.append(sorted(seen))
    assert (state.epoch, state.row) == (1, 0)
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(epochs[0]) == 12
    assert task.batches_left(task_state(0, 0), 1.0) == 9
    assert task.batches_left(task_state(0, 16), 2.0) == 14


def test_round_resumes_with_another_number_of_processes(base):
    """Each sample is used once per epoch, also if the batch size changes in the middle of a round."""
    _, task = task_of(base, num_generations=2, num_ppo_epochs=2, batch_size=4, algorithm="grpo")
    stream = task.batches(task_state(0, 0))
    seen, state = [], task_state(0, 0)
    for _ in range(4):
        batch, state = next(stream)
        seen += rollouts_in(batch["labels"])
    _, other = task_of(base, num_generations=2, num_ppo_epochs=2, batch_size=2, algorithm="grpo")
    other.load_state_dict(task.state_dict())
    for batch, next_state in other.batches(state):
        seen += rollouts_in(batch["labels"])
        if next_state.epoch == 1:
            break
    counts = Counter(seen)
    assert len(seen) == 24
    assert all(count % 2 == 0 for count in counts.values())


def rollouts_in(labels):
    return [tuple(token for token in row if token != -100) for row in labels.tolist()]


def task_state(epoch, row):
    from scratch_gpt.train.engine.task import DataState

    return DataState(epoch, row)


def test_probability_ratio_is_one_before_the_first_step(base):
    """The policy that generated the samples scores them: in the first batch nothing is clipped, and the loss is the
    negative sum of the advantages."""
    model, task = task_of(base, algorithm="grpo", batch_size=12, num_generations=2)
    batch, _ = next(task.batches(task_state(0, 0)))
    loss = task.loss(model.train(), batch)
    metrics = task.training_metrics()
    assert metrics["clip_fraction"] == 0
    assert metrics["kl_of_step"] == pytest.approx(0, abs=1e-6)
    assert loss.item() == pytest.approx(-batch["advantages"].sum().item(), abs=1e-3)
    assert task.training_metrics().keys() >= {"reward", "kl", "samples"}


BAD = {
    "no model to tune": ("--reward re:a", "give one with --init_from"),
    "no reward": ("--init_from model", "there is no reward: give one with --reward"),
    "a bad pattern": ("--init_from model --reward re:(", "reward re:( is not a regular expression"),
    "a NaN reward": ("--init_from model --reward wrong.py:nan", "gave float nan for completion 0"),
    "no such prompts": ("--init_from model --reward re:a --dataset ./none.txt", "no such file or folder: ./none.txt"),
    "too few prompts": (
        "--init_from model --reward re:a --validation_prompts 64",
        "validation_prompts is 64, want fewer than the 64 prompts",
    ),
    "no such column": (
        "--init_from model --reward re:a --dataset plain.jsonl",
        "has the columns 'column', want one of",
    ),
    "temperature 0": ("--init_from model --reward re:a --temperature 0", "temperature is 0.0, want more than 0"),
    "groups of one completion": (
        "--init_from model --reward re:a --algorithm grpo --num_generations 1",
        "grpo compares completions of the same prompt",
    ),
    "several epochs of reinforce": (
        "--init_from model --reward re:a --algorithm reinforce --num_ppo_epochs 2",
        "reinforce makes one on-policy update",
    ),
    "batch size that does not divide": (
        "--init_from model --reward re:a --batch_size 7",
        "is not a multiple of the 7 sequences of a step",
    ),
    "messages without a template": (
        "--init_from model --reward re:a --dataset chats.jsonl --validation_prompts 1",
        "the tokenizer has no chat template",
    ),
    "reward model without labels": ("--init_from model --reward model", "which has no labels"),
    "a class without an equivalent": (
        "--init_from bloom --reward re:a",
        "bloom is a bloom model, and this task tunes scratch_gpt models only: cannot import a BloomForCausalLM",
    ),
    "too many new tokens": (
        "--init_from model --reward re:a --max_new_tokens 99",
        "no prompt leaves 99 of the model's 32 positions",
    ),
}


@pytest.fixture(scope="module")
def outcomes(base):
    argument_lists = [[*arguments.split(), "--output_dir", f"out{i}"] for i, (arguments, _) in enumerate(BAD.values())]
    argument_lists = [
        ["--dataset", "prompts.txt", "--validation_prompts", "8", *arguments] for arguments in argument_lists
    ]
    return dict(zip(BAD, refusals(PPO, argument_lists, base), strict=True))


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_a_one_line_error_and_exit_code_2(case, outcomes):
    code, errors = outcomes[case]
    assert code == 2, errors
    assert BAD[case][1] in errors, errors
    assert len([line for line in errors.splitlines() if "error" in line.lower()]) == 1


def test_prompts_are_read_from_all_sources(base, tmp_path):
    prompts = list(open_prompts("stories", num_prompts=50, seed=3).read())
    assert len(set(prompts)) == 50
    assert prompts == list(open_prompts("stories", num_prompts=50, seed=3).read())
    assert prompts != list(open_prompts("stories", num_prompts=50).read())
    assert list(open_prompts(str(base / "prompts.txt"), ReadOptions(max_rows=3)).read()) == ["aa", "ab", "ac"]
    question, reply = {"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Yes."}
    table = tmp_path / "t.jsonl"
    for row, expected in (
        ({"prompt": "Hi?"}, "Hi?"),
        ({"text": "Hi?"}, "Hi?"),
        ({"messages": [question, reply]}, [question]),
        ({"prompt": [question]}, [question]),
        ({"instruction": "Hi?", "input": "", "output": "Yes."}, [question]),
    ):
        table.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
        assert list(open_prompts(str(table)).read()) == [expected]
    table.write_text(json.dumps({"messages": [reply]}) + "\n")
    with pytest.raises(ScratchError, match="the conversation has only assistant messages: 1, first row 0"):
        list(open_prompts(str(table)).read())
