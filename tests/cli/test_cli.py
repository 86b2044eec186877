"""`scratch-gpt`: for each command its help, one success and three errors."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.models import tiny_model
from helpers.processes import PRETRAIN, TINY_RUN, refusals, run_here, run_python
from typer.main import get_command

from scratch_gpt import export_native
from scratch_gpt.cli.app import COMMANDS, app
from scratch_gpt.cli.convert import Format
from scratch_gpt.hub.engines.formats import FORMATS


def scratch_gpt(*arguments: str, cwd, check: bool = True) -> subprocess.CompletedProcess:
    return run_here("scratch-gpt", *arguments, cwd=cwd, check=check)


@pytest.fixture(scope="module")
def world(tmp_path_factory, story_tokenizer):
    """A folder with a trained run, a native model, a tokenizer, a text, and invalid files."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "text.txt").write_text("One day, Anna has two old lamps near the mill. She likes them.\n" * 60)
    options = ("--output_dir", str(folder / "run"), "--dataset", str(folder / "text.txt"), *TINY_RUN)
    run_here(PRETRAIN, *options, "--max_steps", "3")
    model = tiny_model("gpt2", vocab_size=len(story_tokenizer))
    export_native(model).save_pretrained(folder / "native")
    story_tokenizer.save_pretrained(folder / "native")
    story_tokenizer.save_pretrained(folder / "tokenizer")
    post = tiny_model("gpt2", vocab_size=len(story_tokenizer), norm_position="post")
    post.save_pretrained(folder / "post")
    story_tokenizer.save_pretrained(folder / "post")
    (folder / "empty.txt").touch()
    (folder / "prompts.txt").write_text("One day\n\nAnna likes\n")
    (folder / "latin.txt").write_bytes("Ein Käfer\n".encode("latin-1"))
    (folder / "bad.yaml").write_text("hidden_sise: 3\n")
    return folder


HELP = ["", "tokenizer", "tokenizer train", "tokenizer encode", "tokenizer decode", "tokenizer compare"]
HELP += ["generate", "evaluate", "translate", "classify", "fill", "judge", "pairs", "info", "see", "import", "export"]
HELP += ["learn", "plan", "push", "verify"]

WORKS = {
    "tokenizer train": ("text.txt new_tokenizer --vocab_size 280", "280 tokens in new_tokenizer"),
    "tokenizer encode": ("tokenizer 'One day'", "tokens"),
    "tokenizer decode": ("tokenizer 300 301", ""),
    "tokenizer compare": ("text.txt tokenizer run", "exact"),
    "generate": ("run --prompt 'One day' --prompt_file prompts.txt --num_samples 2 --max_new_tokens 5", "Anna likes"),
    "evaluate": ("run --dataset text.txt", "bits per byte"),
    "judge": (
        "run --reward re:a --dataset prompts.txt --reference run --batch_size 2",
        "KL to run, nats per completion",
    ),
    "pairs": ("run --reward re:e --dataset prompts.txt --samples 8 --output pairs.jsonl", "pairs in pairs.jsonl"),
    "info": ("run", "model.layers.1.mlp.down_proj.weight"),
    "see": ("run", "see.html, "),
    "export": ("run exported", "LlamaForCausalLM in exported"),
    "import": ("native imported", "ScratchGPTForCausalLM in imported"),
    "learn": ("attention --save plots", "attention.py"),
    "plan": ("--hidden_size 32 --num_hidden_layers 1 --batch_size 2 --vocab_size 99", "FLOPs per token"),
}

FAILS = {
    "tokenizer train": [
        ("none.txt out", "no such file or folder: none.txt"),
        ("empty.txt out", "empty.txt is empty"),
        ("text.txt tokenizer", "already contains a tokenizer"),
        ("text.txt out --streaming", "--streaming can't be used with a single file"),
        ("text.txt out --dataset_config a", "--dataset_config can't be used with a single file"),
        ("stories out --split test", "--split can't be used with the built-in stories"),
    ],
    "tokenizer encode": [
        ("none 'a'", "tokenizer 'none'"),
        ("tokenizer", "Missing argument"),
        ("tokenizer a b", "unexpected extra argument"),
    ],
    "tokenizer decode": [
        ("tokenizer 99999", "no such token ids: 99999; the largest is 599"),
        ("tokenizer word", "Input should be a valid integer"),
        ("none 1", "tokenizer 'none'"),
    ],
    "tokenizer compare": [
        ("text.txt none", "tokenizer 'none'"),
        ("text.txt", "Missing argument"),
        ("text.txt tokenizer --kind bpe", "No such option"),
    ],
    "judge": [
        ("none --reward re:a", "no model can be opened from 'none'"),
        ("run --reward re:(", "is not a regular expression"),
        ("run --reward re:a --dataset empty.txt", "empty.txt is empty"),
    ],
    "pairs": [
        ("run --reward re:a --output none/pairs.jsonl", "no such folder: none"),
        ("run --reward re:$ --dataset prompts.txt --output p.jsonl --samples 32", "had the same reward"),
        ("run --reward re:a", "Missing option '--output'"),
    ],
    "generate": [
        ("none", "no model can be opened from 'none'"),
        ("run --prompt_file none.txt", "no such file: none.txt"),
        ("run --top_p 2", "Invalid value for '--top_p'"),
        ("run --temperature 0 --top_k 5 --seed 1", "--seed, --top_k can't be used with greedy decoding"),
        ("run --prompt_file latin.txt", "latin.txt is not UTF-8 text"),
        ("run --device cuda:9", "device 'cuda:9' is not available"),
        ("run --dtype float64", "unknown dtype 'float64': want one of auto, float32, bfloat16, float16, int8"),
    ],
    "evaluate": [
        ("run --dataset none.txt", "no such file or folder: none.txt"),
        ("run --dataset empty.txt", "empty.txt is empty"),
        ("run --dataset text.txt --num_beams 2", "--num_beams can't be used with a scratch_gpt model"),
        (
            "run --dataset text.txt --num_stories 5",
            "--num_stories can't be used with text.txt, only with",
        ),
        ("run --dataset text.txt --seed 5 --num_pairs 3", "--num_pairs can't be used with a scratch_gpt model; --seed"),
        ("run --dataset text.txt --split train", "--split can't be used with a single file"),
        ("run --dataset text.txt --text_column a", "--text_column can't be used with a text file"),
        ("run --dataset stories --text_column a", "--text_column can't be used with the built-in stories"),
    ],
    "translate": [
        ("none 'Ja.'", "no model can be opened from 'none'"),
        ("run 'Ja.'", "does not translate"),
        ("run", "give either texts or --file"),
    ],
    "classify": [
        ("none 'A film.'", "no model can be opened from 'none'"),
        ("run 'A film.'", "which has no labels"),
        ("run --file none.txt", "no such file: none.txt"),
    ],
    "fill": [
        ("none 'A <mask>.'", "no model can be opened from 'none'"),
        ("run 'A <mask>.'", "which does not predict masked tokens"),
        ("run", "Missing argument"),
    ],
    "info": [
        ("none", "no model can be opened from 'none'"),
        ("tokenizer", "no model can be opened from 'tokenizer'"),
        ("run extra", "unexpected extra argument"),
    ],
    "see": [
        ("none", "no model can be opened from 'none'"),
        ("run --output see.txt", "--output see.txt does not end in .html"),
        ("run --against native", "--against native has another tokenizer than run"),
    ],
    "export": [
        ("run native", "native already exists and is not an empty folder"),
        ("none out", "no model can be opened from 'none'"),
        ("post out", "norm_position is 'post'"),
    ],
    "import": [
        ("run out", "cannot import a ScratchGPTForCausalLM"),
        ("native tokenizer", "tokenizer already exists"),
        ("none out", "no model can be opened from 'none'"),
    ],
    "learn": [
        ("nosuch", "unknown lesson 'nosuch': choose one of 1 neuron, 2 autograd"),
        ("neuron --steps 3", "--steps: only for the ladder"),
        ("ladder --dataset none.txt", "no such file: none.txt"),
        ("ladder --dataset empty.txt --save .", "the text has 0 characters, want at least 650"),
        ("--save plots", "--save saves the plots of a lesson"),
        ("neuron --save text.txt", "can't create the folder text.txt for plots"),
    ],
    "plan": [
        ("--num_attention_heads 5", "num_attention_heads is 5"),
        ("--hidden_sise 4", "unrecognized arguments: --hidden_sise"),
        ("--config bad.yaml", "unknown settings: hidden_sise"),
    ],
    "verify": [
        ("none", "none contains no run with checkpoints"),
        ("tokenizer", "tokenizer contains no run with checkpoints"),
        ("run extra", "unexpected extra argument"),
    ],
    "push": [
        ("tokenizer user/name --yes", "tokenizer is not a model directory"),
        ("none user/name --yes", "none is not a model directory"),
        ("run", "Missing argument"),
    ],
}


def words(command: str, arguments: str) -> list[str]:
    import shlex

    return [*command.split(), *shlex.split(arguments)]


@pytest.mark.parametrize("command", HELP)
def test_help_shows_examples_on_lines_of_their_own(command, tmp_path):
    """A Markdown paragraph is reflowed, which would join several examples to one line."""
    printed = scratch_gpt(*command.split(), "--help", cwd=tmp_path).stdout
    if command in ("", "tokenizer"):
        return
    examples = re.split(r"^ Examples?: *$", printed, flags=re.M)[1].split("╭")[0].split("\n")
    lines = [line.strip() for line in examples if line.strip()]
    assert lines
    assert all(line.startswith(f"scratch-gpt {command} ") for line in lines)
    assert all(line.count("scratch-gpt") == 1 for line in lines)


def flags_of(command, path: str = "scratch-gpt") -> dict[str, list]:
    """The boolean options of a command and its subcommands, by command."""
    found = {path: [option for option in command.params if getattr(option, "is_flag", False)]}
    for name, each in getattr(command, "commands", {}).items():
        found |= flags_of(each, f"{path} {name}")
    return found


def test_booleans_are_pairs_of_flags():
    """`--name/--no-name`, except output format, confirmation and diagnostics, which need no negation."""
    for name in COMMANDS:
        importlib.import_module(f"scratch_gpt.cli.{name}")
    single = set()
    for options in flags_of(get_command(app)).values():
        for option in options:
            if option.secondary_opts:
                assert option.secondary_opts == [option.opts[0].replace("--", "--no-", 1)]
            else:
                single.add(option.opts[0])
    assert single == {"--debug", "--json", "--yes"}


@pytest.mark.parametrize("command", WORKS)
def test_command_works(command, world):
    arguments, expected = WORKS[command]
    result = scratch_gpt(*words(command, arguments), cwd=world)
    assert expected in result.stdout


CASES = [(command, *case) for command, cases in FAILS.items() for case in cases]


@pytest.fixture(scope="module")
def outcomes(world) -> dict[tuple[str, str], tuple[int, str]]:
    before = sorted(world.iterdir())
    found = refusals("scratch-gpt", [words(command, arguments) for command, arguments, _ in CASES], cwd=world)
    assert sorted(world.iterdir()) == before  # a command that fails writes nothing
    return {(c, a): outcome for (c, a, _), outcome in zip(CASES, found, strict=True)}


@pytest.mark.parametrize(("command", "arguments", "message"), CASES)
def test_command_explains_errors_in_one_line(command, arguments, message, outcomes):
    code, errors = outcomes[command, arguments]
    assert code == 2, errors
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if "error:" in line]
    assert len(lines) == 1, errors
    assert message in lines[0]


def test_every_command_has_its_errors_tested():
    assert set(FAILS) == set(HELP) - {"", "tokenizer"}
    assert all(len(cases) >= 3 for cases in FAILS.values())


def test_debug_shows_the_traceback(world):
    command = [str(Path(sys.executable).with_name("scratch-gpt")), "--debug", "info", "none"]
    result = subprocess.run(command, cwd=world, capture_output=True, text=True, timeout=300)
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.slow
def test_help_of_the_program_imports_nothing_heavy(tmp_path):
    script = (
        "import sys; sys.argv = ['any-name', '--help']\n"
        "from scratch_gpt_cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'matplotlib') if name in sys.modules])"
    )
    assert run_python("-c", script, cwd=tmp_path, fresh=True).stdout.strip().splitlines()[-1] == "[]"


def test_the_same_seed_generates_the_same_text(world):
    first = scratch_gpt("generate", "run", "--prompt", "One", "--max_new_tokens", "12", "--seed", "3", cwd=world).stdout
    again = scratch_gpt("generate", "run", "--prompt", "One", "--max_new_tokens", "12", "--seed", "3", cwd=world).stdout
    other = scratch_gpt("generate", "run", "--prompt", "One", "--max_new_tokens", "12", "--seed", "4", cwd=world).stdout
    assert first == again != other
    assert first.startswith("One")


def test_evaluate_agrees_with_training(world):
    """The loss on the held-out end of the text is the one that the run recorded."""
    printed = scratch_gpt("evaluate", "run", "--dataset", "text.txt", "--held_out", "0.1", cwd=world).stdout
    row = json.loads((world / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    found = re.search(r"loss\s*│\s*([\d.]+)", printed)
    assert found is not None
    assert float(found[1]) == pytest.approx(row["val_loss"], abs=2e-4)


def test_there_are_no_options_that_install_shell_completion():
    """typer adds them by default."""
    assert "-completion" not in run_here("scratch-gpt", "--help").stdout


def test_export_has_all_formats_and_its_help_their_quantizations():
    assert [format.value for format in Format] == list(FORMATS)
    said = " ".join(run_here("scratch-gpt", "export", "--help").stdout.replace("│", " ").split())
    for name, format in FORMATS.items():
        assert f"{name}: {', '.join(format.quantizations)}." in said


def test_a_write_error_is_reported_in_one_line(world):
    (world / "a_file").touch()
    result = scratch_gpt("export", "run", "a_file/native", cwd=world, check=False)
    assert (result.returncode, result.stderr) == (
        2,
        "error: a_file/native can't be created, since a_file is a file: choose another\n",
    )


def test_pairs_have_a_better_and_a_worse_completion(world):
    options = ("--reward", "re:e", "--dataset", "prompts.txt", "--samples", "8", "--output", "made.jsonl")
    scratch_gpt("pairs", "run", *options, cwd=world)
    pairs = [json.loads(line) for line in (world / "made.jsonl").read_text().splitlines()]
    assert pairs
    assert all("e" in pair["chosen"] and "e" not in pair["rejected"] for pair in pairs), pairs


def test_judge_prints_the_metrics_that_it_writes(world):
    options = ("--reward", "re:e", "--dataset", "prompts.txt", "--max_new_tokens", "6", "--output", "judged.json")
    printed = " ".join(scratch_gpt("judge", "run", *options, cwd=world).stdout.replace("│", " ").split())
    metrics = json.loads((world / "judged.json").read_text())
    assert f"mean reward {metrics['reward']:.4f}" in printed
    assert f"distinct word bigrams {metrics['distinct_2']:.1%}" in printed
    assert f"tokens per completion {metrics['length']:.1f}" in printed
    assert f"perplexity under itself {metrics['reference_perplexity']:.3f}" in printed


def test_judge_uses_the_requested_number_of_prompts(world):
    """A number above the 2,000 prompts that the reader generates by default."""
    options = ("--reward", "re:e", "--num_prompts", "2003", "--max_new_tokens", "1", "--batch_size", "512")
    result = scratch_gpt("judge", "post", *options, cwd=world, check=False)
    skipped = re.search(r"([\d,]+) of 2,003 prompts are skipped", result.stderr)
    made = re.search(r"(\d+) completions by post", result.stdout)
    counts = [int(match[1].replace(",", "")) for match in (skipped, made) if match]
    assert sum(counts) == 2003, result.stdout + result.stderr
