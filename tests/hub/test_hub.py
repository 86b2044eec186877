"""Push to and load from a local Hub over HTTP, without the package and with an empty cache; and the model card."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers.hub import hub_environment, push
from helpers.loopback_hub import running_hub
from helpers.processes import PRETRAIN, TINY_RUN, run_command, run_here, run_python
from huggingface_hub import ModelCard, RepoCard
from huggingface_hub.repocard_data import ModelCardData
from markdown_it import MarkdownIt
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from scratch_gpt.hub.card import code_span, escape_markdown, fence, render_card
from scratch_gpt.train.tasks import FAMILIES, recipe_of

X = "torch.arange(3, 43).view(2, 20) % model.config.vocab_size"

LOAD_WITHOUT_PACKAGE = f"""
import sys
sys.modules["scratch_gpt"] = None
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
name, out, revision = sys.argv[1:]
remote = {{}} if revision == "main" else {{"trust_remote_code": True}}
model = AutoModelForCausalLM.from_pretrained(name, revision=revision, **remote)
tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, **remote)
write = pipeline("text-generation", model=name, revision=revision, **remote)
assert write("One day", max_new_tokens=4)[0]["generated_text"].startswith("One day")
save_file({{"logits": model({X}).logits.detach().contiguous()}}, out)
print(type(model).__module__.split(".")[0], tokenizer("One day").input_ids, model.generation_config.max_new_tokens)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "run"
    text = folder.with_name("text.txt")
    text.write_text("One day, Anna has two old lamps near the mill. She likes them.\n" * 60)
    options = ("--output_dir", str(folder), "--dataset", str(text), *TINY_RUN, "--dataset_license", "cc0-1.0")
    run_here(PRETRAIN, *options, "--max_steps", "4", "--eval_every", "2")
    return folder


@pytest.fixture(scope="module")
def bigram_run(run) -> Path:
    folder = run.with_name("bigram")
    options = ("--output_dir", str(folder), "--dataset", str(run.with_name("text.txt")), *TINY_RUN)
    run_here(PRETRAIN, *options, "--preset", "bigram", "--max_steps", "2")
    return folder


def test_push_then_load_by_name(run, tmp_path):
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(run), "tester/stories", "--native", "--yes")
        assert result.returncode == 0, result.stderr
        repository = hub.repositories["tester/stories"]
        sent = repository.revisions["scratch_gpt"]
        names = {path.name for path in run.iterdir() if path.is_file()}
        assert set(sent) - {".gitattributes"} == names - {"metrics.jsonl", "run.yaml"}
        assert not [path for path in sent if path.startswith("checkpoints")]
        card = (run / "README.md").read_text()
        assert card.count('pipeline("text-generation", "PATH_OR_ID", trust_remote_code=True)') == 1  # of the directory
        named = card.replace('"PATH_OR_ID", trust_remote_code=True', '"tester/stories"')
        named = named.replace("PATH_OR_ID", "tester/stories").encode()
        assert sent["README.md"] == repository.revisions["main"]["README.md"] == named
        changed = (".gitattributes", "README.md")
        assert all(sent[path] == (run / path).read_bytes() for path in sent if path not in changed)
        code, native = "Upload model, code and card", "Upload LlamaForCausalLM and card"
        assert repository.titles == ["initial commit", "branch scratch_gpt", code, native]  # main last
        assert not [path for path in repository.revisions["main"] if path.endswith(".py")]
        said = " ".join(result.stdout.split())
        assert "revision main needs transformers 4.56 or later, for its own class LlamaForCausalLM" in said
        needs = "transformers 5.0 or later with trust_remote_code=True, or the package scratch_gpt"
        assert f"revision scratch_gpt needs {needs}" in said

        model = AutoModelForCausalLM.from_pretrained(run)
        expected = model(eval(X, {"torch": torch, "model": model})).logits
        for revision, module, tolerance in (("scratch_gpt", "transformers_modules", 0), ("main", "transformers", 1e-5)):
            elsewhere = tmp_path / f"elsewhere_{revision}"
            elsewhere.mkdir()
            environment = hub_environment(hub, elsewhere / "home")
            environment.pop("HF_TOKEN")
            out = str(elsewhere / "logits.safetensors")
            arguments = ("-I", "-c", LOAD_WITHOUT_PACKAGE, "tester/stories", out, revision)
            loaded = run_python(*arguments, env=environment, cwd=elsewhere)
            assert loaded.stdout.split()[0] == module
            assert loaded.stdout.strip().endswith(" 16")  # generation settings travel
            torch.testing.assert_close(load_file(out)["logits"], expected, atol=tolerance, rtol=0)


def test_push_to_hub_on_the_model_object(run, tmp_path):
    script = (
        "import sys, scratch_gpt\n"
        "from transformers import AutoModelForCausalLM\n"
        "AutoModelForCausalLM.from_pretrained(sys.argv[1]).push_to_hub('tester/object')"
    )
    with running_hub() as hub:
        run_python("-c", script, str(run), cwd=tmp_path, env=hub_environment(hub, tmp_path / "home"))
        sent = hub.repositories["tester/object"].revisions["main"]
    assert {"model.safetensors", "modeling_scratch_gpt.py", "configuration_scratch_gpt.py", "block.py"} <= set(sent)
    auto_map = json.loads(sent["config.json"])["auto_map"]
    heads = {"CausalLM", "Decision", "SequenceClassification"}
    assert {"AutoConfig", "AutoModel", *(f"AutoModelFor{head}" for head in heads)} == set(auto_map)


def test_a_directory_that_does_not_load_without_the_package_is_not_pushed(run, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in run.iterdir():
        if path.is_file() and path.name != "block.py":
            (broken / path.name).write_bytes(path.read_bytes())
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(broken), "tester/broken", "--yes")
        assert result.returncode == 2
        assert "does not load without this package" in result.stderr
        assert not hub.repositories


@pytest.mark.slow
def test_a_hub_that_refuses_is_explained(run, tmp_path):
    with running_hub() as hub:
        environment = {**hub_environment(hub, tmp_path / "home"), "HF_ENDPOINT": f"{hub.endpoint}/wrong"}
        result = run_command("push", str(run), "tester/nobody-there", "--yes", cwd=tmp_path, env=environment)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "the Hub refused tester/nobody-there" in result.stderr


def numbers(text: str) -> set[str]:
    return {number.replace(",", "") for number in re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w.])", text)}


def test_each_number_of_the_card_is_in_the_runs_files(run):
    card = (run / "README.md").read_text()
    body = card.split("\n---\n", 1)[1]
    body = re.sub(r"## How to use.*(?=## Results)|## Citation.*|<summary>Settings.*?</details>", "", body, flags=re.S)
    body = re.sub(r"^\| versions .*$", "", body, flags=re.M)
    record = yaml.safe_load((run / "run.yaml").read_text())
    known: set[str] = set()

    def collect(value) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                collect(inner)
        elif isinstance(value, bool) or value is None:
            return
        elif isinstance(value, int):
            known.add(str(value))
        elif isinstance(value, float):
            known.update({f"{value:.4f}", str(value)})

    collect(record)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = min((row for row in rows if "val_loss" in row), key=lambda row: row["val_loss"])
    collect(best)
    baseline = min(value for name, value in best.items() if name.startswith("baseline_"))
    known.add(f"{best['val_bits_per_byte'] / baseline:.1f}")
    assert numbers(body) >= {f"{best['val_loss']:.4f}", f"{best['val_bits_per_byte']:.4f}"}
    assert numbers(body) <= known
    index = ModelCard(card).data.eval_results
    assert index is not None
    assert [result.metric_value for result in index] == [
        round(best[name], 4) for name in ("val_loss", "val_perplexity", "val_bits_per_byte")
    ]
    assert "cc0-1.0" in card


def test_the_card_is_valid_and_holds_no_path(run, tmp_path):
    card = RepoCard.load(run / "README.md")
    metadata = ModelCardData(**card.data.to_dict())
    assert (metadata.library_name, metadata.pipeline_tag) == ("transformers", "text-generation")
    text = str(card)
    assert str(run.parent) not in text
    assert "/tmp" not in text
    with running_hub() as hub:
        script = "import sys; from huggingface_hub import RepoCard; RepoCard.load(sys.argv[1]).validate()"
        run_python("-c", script, str(run / "README.md"), cwd=tmp_path, env=hub_environment(hub, tmp_path / "home"))
        assert "POST /api/validate-yaml" in hub.requests


@pytest.mark.parametrize("example", [0, 1, 2, 3])
def test_the_code_examples_of_a_published_card_run(run, tmp_path, example):
    """As copied from it: the first without trust, the others with the code of a revision or with the package."""
    with running_hub() as hub:
        assert push(hub, tmp_path / "home", str(run), "tester/stories", "--yes").returncode == 0
        card = hub.repositories["tester/stories"].revisions["main"]["README.md"].decode()
        examples = re.findall(r"```python\n(.*?)```", card, re.S)
        trusted = ["trust_remote_code" in script for script in examples]
        assert trusted == [False, True, True, False]
        assert all('"tester/stories"' in script for script in examples)
        blocked = "" if example == 3 else "import sys; sys.modules['scratch_gpt'] = None\n"
        environment = hub_environment(hub, tmp_path / "home")
        run_python("-c", blocked + examples[example], cwd=tmp_path, env=environment)


def test_a_model_in_transformers_own_class_is_published_as_it_is(run, tmp_path):
    native = tmp_path / "native"
    run_here("scratch-gpt", "export", str(run), str(native))
    with running_hub() as hub:
        result = push(hub, tmp_path / "home", str(native), "tester/native", "--native", "--yes")
        assert "revision main needs transformers, for its own class LlamaForCausalLM" in " ".join(result.stdout.split())
        sent = hub.repositories["tester/native"].revisions
        assert set(sent) == {"main"}
        assert sent["main"]["model.safetensors"] == (native / "model.safetensors").read_bytes()
        assert not [path for path in sent["main"] if path.endswith(".py")]


def test_a_model_without_a_native_class_is_published_with_its_code_and_the_reason(bigram_run, tmp_path):
    with running_hub() as hub:
        refused = push(hub, tmp_path / "home", str(bigram_run), "tester/bigram", "--native", "--yes")
        assert refused.returncode == 2
        reason = "no class of transformers can express this model: there is none for a ScratchBigramForCausalLM"
        assert reason in " ".join(refused.stderr.split())
        assert not hub.repositories
        result = push(hub, tmp_path / "home", str(bigram_run), "tester/bigram", "--yes")
        assert reason in " ".join(result.stdout.split())
        sent = hub.repositories["tester/bigram"].revisions
        assert set(sent) == {"main"}
        assert "modeling_scratch_bigram.py" in sent["main"]
        card = sent["main"]["README.md"].decode()
        assert "closest class of transformers: there is none for a ScratchBigramForCausalLM" in card
        assert re.findall(r"```python\n(.*?)```", card, re.S)[0].count("trust_remote_code=True") == 1


HOSTILE = (
    "a |\n\n## Licence\n\n[log in](http://x.org) <img src=y> ![z](http://w) `c` ``` **b** <http://v> www.x.org "
    "\\| &lt; \x1b[31m"
)
SHOWN = " ".join(HOSTILE.replace("\x1b", "\\x1b").split())


def card_of(task: str, text: str) -> str:
    """The card of a run in which every text is `text`."""
    scores = dict.fromkeys(("bleu", "bleu_lowercase", "chrf"), text)
    facts = {"task": task, "parameters": 1, "context_length": 8, "scores": scores, "labels": {text: 2, "plain": 3}}
    facts |= dict.fromkeys(("title", "style", "dataset", "license", "prompt", "rewarded"), text)
    facts |= dict.fromkeys(("source_lang", "target_lang"), text)
    facts |= {"train": {}, "validation": {}, "data": {"rows_skipped": {text: 4}, "unknown_share": 0.5}}
    machine = {"device": text, "processes": 1, "threads": 1}
    arguments = {"metric_for_best_model": "val_loss", "chat_template": text, "lines": "x\n```\n# y\n"}
    run = {"arguments": arguments, "facts": facts, "machine": machine, "versions": {text: "1.0"}}
    row = {"val_loss": 1.0, "val_reward": 0.5, "step": 1, "title": 7, "fence": 8, text: 9, "note": text}
    return render_card(run, [row], recipe_of(task).card)


@pytest.mark.parametrize("task", FAMILIES)
def test_hostile_names_do_not_change_the_structure_of_the_card(task):
    """Names add no heading, link, image, HTML, table cell or code block, and are readable."""

    def shape(card: str) -> list[tuple[str, str]]:
        tokens = [token for each in parse(card) for token in (each, *(each.children or ()))]
        kinds = (
            "heading",
            "link",
            "image",
            "html",
            "tr_",
            "td_",
            "th_",
            "fence",
            "code_block",
            "hr",
            "list",
            "blockquote",
        )
        return [
            (token.type, token.attrGet("href") or token.attrGet("src") or "")
            for token in tokens
            if token.type.startswith(kinds)
        ]

    def parse(card: str) -> list:
        return MarkdownIt("commonmark").enable("table").parse(card.split("\n---\n", 1)[1])

    card = card_of(task, HOSTILE)
    assert shape(card) == shape(card_of(task, "plain"))
    assert "\x1b" not in card
    texts = "\n".join("".join(child.content for child in token.children or ()) for token in parse(card))
    assert SHOWN in texts.splitlines()  # the heading
    assert texts.count(SHOWN) >= 5
    blocks = [token for token in parse(card) if token.type == "fence"]
    (settings_block,) = [block for block in blocks if block.info == "yaml"]
    settings = yaml.safe_load(settings_block.content)
    assert (settings["chat_template"], settings["lines"]) == (HOSTILE, "x\n```\n# y\n")
    examples = [block for block in blocks if block.info == "python"]
    assert len(examples) >= 3
    for block in examples:
        compile(block.content, "example", "exec")
    data = ModelCard(card).data
    assert (data.model_name, data.eval_results[0].dataset_name) == (SHOWN, SHOWN)


@pytest.mark.parametrize(
    "text", [HOSTILE, "", "\\", "a\\", "|", "`", "_a_b_", "snake_case", "1.5 - 2", "trailing #", "``a``"]
)
def test_escaped_text_renders_as_itself(text):
    shown = " ".join(text.replace("\x1b", "\\x1b").split())
    markdown = MarkdownIt("commonmark").enable("table")
    for line, code in ((escape_markdown(text), False), (code_span(text), True)):
        cells = [token for token in markdown.parse(f"| x | y |\n|-|-|\n| {line} | z |\n") if token.type == "inline"]
        assert [cell.content for cell in cells[:2] + cells[3:]] == ["x", "y", "z"]
        assert {child.type for child in cells[2].children} <= ({"code_inline"} if code else {"text"})
        assert "".join(child.content for child in cells[2].children).strip() == shown
    assert fence("a ```` b") == "`````"
