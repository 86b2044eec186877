"""The card of a tuned model: its base model and license, whose code it runs on, and what it knows."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers.hub import hub_environment
from helpers.loopback_hub import Repository, running_hub
from helpers.native import save_chat_model
from helpers.processes import PROJECT, run_here, run_python
from huggingface_hub import ModelCard

from scratch_gpt.hub.base_model import base_model_facts, hub_id_of
from scratch_gpt.hub.card import render_card
from scratch_gpt.hub.card_origin import CardOrigin
from scratch_gpt.train.tasks import recipe_of

SFT = str(PROJECT / "training" / "sft.py")
RUN = ("--num_threads", "1", "--context_length", "64", "--batch_size", "2", "--precision", "fp32", "--max_steps", "1")
LICENSE = {"license": "other", "license_name": "tiny-license", "license_link": "LICENSE"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Qwen2 with a card that states its license, and conversations."""
    folder = tmp_path_factory.mktemp("base")
    save_chat_model(folder / "model", dtype=torch.float32)
    card = {**LICENSE, "base_model": "other/model", "pipeline_tag": "text-generation"}
    (folder / "model" / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n# A model\n")
    rows = [{"prompt": f"Rose {x}?", "completion": "red"} for x in "abcdef"]
    (folder / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def tune(base, out, origin, *arguments: str):
    """Fine-tune a checkpoint in this process, and return its card."""
    options = ("--init_from", str(origin), "--dataset", str(base / "chats.jsonl"), "--output_dir", str(out), *RUN)
    run_here(SFT, *options, *arguments)
    return ModelCard.load(out / "README.md")


ORIGINS = {
    "imported": (
        (),
        "A language model: the weights of `tester/base`, which was trained as a `Qwen2ForCausalLM` of "
        "transformers, in scratch_gpt's own implementation of that architecture, fine-tuned with it; the result is a "
        "Hugging Face model.",
    ),
    "own class": (
        ("--lora_rank", "2"),
        "A language model: `tester/base`, a `Qwen2ForCausalLM` of transformers, fine-tuned with scratch_gpt.",
    ),
}


@pytest.mark.parametrize("case", ORIGINS)
def test_a_model_of_the_hub_is_named_as_the_base_with_its_license(case, base, tmp_path):
    """In the metadata, and in words that are true of an imported model and of one in transformers' own class. A resume
    does not need the Hub, and a model that is tuned from the result has the same base."""
    arguments, introduction = ORIGINS[case]
    out = tmp_path / "run"
    with running_hub() as hub:
        files = {path.name: path.read_bytes() for path in (base / "model").iterdir()}
        hub.repositories["tester/base"] = Repository()
        hub.repositories["tester/base"].commit("main", files, "a model")
        options = ("--init_from", "tester/base", "--dataset", str(base / "chats.jsonl"), "--output_dir", str(out))
        run_python(SFT, *options, *RUN, *arguments, cwd=tmp_path, env=hub_environment(hub, tmp_path / "home"))
    run_here(SFT, "--output_dir", str(out), "--resume", "--max_steps", "1")
    cards = [ModelCard.load(out / "README.md"), tune(base, tmp_path / "again", out, *arguments)]
    for card in cards:
        metadata = card.data.to_dict()
        assert (metadata["base_model"], metadata["base_model_relation"]) == ("tester/base", "finetune")
        assert (metadata["license"], metadata["license_name"]) == ("other", "tiny-license")
        assert metadata["license_link"] == "https://huggingface.co/tester/base/blob/main/LICENSE"
        assert (metadata["library_name"], metadata["pipeline_tag"]) == ("transformers", "text-generation")
        assert introduction in card.content
        assert "What the model knows comes from `tester/base` and from the data above" in card.content
        for false in ("every part", "knows nothing beyond its training data", "/tmp"):
            assert false not in card.content
        assert ("code of scratch_gpt" in card.content) == (case == "imported")
        assert "| base model | `tester/base` |" in card.content
        assert "| license of the base model | `tiny-license` |" in card.content
        assert "| data type of the weights | float32 |" in card.content


def test_a_local_checkpoint_is_not_named_but_its_license_is_kept(base, tmp_path):
    """The base of a copied card is not the base of this model: only a card of this package is trusted with that."""
    card = tune(base, tmp_path / "run", base / "model")
    metadata = card.data.to_dict()
    assert not {"base_model", "base_model_relation", "license_link"} & metadata.keys()
    assert (metadata["license"], metadata["license_name"]) == ("other", "tiny-license")
    assert "the weights of a pretrained checkpoint, which was trained as a `Qwen2ForCausalLM`" in card.content
    assert str(base) not in card.content
    assert "/tmp" not in (tmp_path / "run" / "README.md").read_text()


def test_the_card_of_an_adapter_loads_it(base, tmp_path):
    """The code of the card, with the names of base model and adapter filled in, prints an answer."""
    out = tmp_path / "run"
    card = tune(base, out, base / "model", "--lora_rank", "2", "--adapter_only")
    assert (card.data.library_name, card.data.tags) == ("peft", ["scratch_gpt", "lora"])
    assert card.content.startswith("---\n")
    assert "An adapter (LoRA) of a pretrained checkpoint, a language model, trained with scratch_gpt" in card.content
    adapter = (out / "adapter" / "README.md").read_text()
    assert "loss.png" not in adapter
    assert ModelCard(adapter).data.to_dict() == card.data.to_dict()
    (code,) = re.findall(r"```python\n(.*?)```", card.content, re.S)
    code = code.replace("PATH_OR_ID", str(out / "adapter")).replace("BASE_MODEL", str(base / "model"))
    result = run_python("-c", "import sys; sys.modules['scratch_gpt'] = None\n" + code, cwd=tmp_path)
    assert "Rose" in result.stdout


def test_facts_of_imported_weights(base, tmp_path):
    """The class that the weights come from, and its Hub id if they were imported from the Hub."""
    config = SimpleNamespace(imported_from={"class": "LlamaForCausalLM", "name_or_path": "org/llama", "config": {}})
    facts = base_model_facts(str(base), config, "finetune")
    assert facts == {"relation": "finetune", "ids": ["org/llama"], "imported": "LlamaForCausalLM"}
    origin = CardOrigin.of({"base_model": facts})
    assert origin is not None
    sentence = origin.introduction("language model", "{}".format)
    assert sentence.startswith("A language model: the weights of org/llama, which was trained as a LlamaForCausalLM of")
    config.imported_from["name_or_path"] = str(tmp_path)
    assert base_model_facts(str(base), config, "finetune")["ids"] == []
    assert base_model_facts(str(base), SimpleNamespace(imported_from=None), "finetune")["ids"] == []


def test_a_hub_id_is_never_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snapshot = tmp_path / "models--org--name" / "snapshots" / "0123"
    for folder in (tmp_path / "runs" / "gpt", snapshot):
        folder.mkdir(parents=True)
    assert hub_id_of("runs/gpt") is None
    assert hub_id_of("./other") is None
    assert hub_id_of("/org/name") is None
    assert hub_id_of("org/name") == hub_id_of(str(snapshot)) == "org/name"


@pytest.mark.parametrize(
    "metadata", ["", "- a list\n", "a: [\n", "license: 3\n", "license: a b\n", "license: [a, b]\n"]
)
def test_an_unreadable_license_is_not_invented(metadata, tmp_path):
    (tmp_path / "README.md").write_text(f"---\n{metadata}---\n" if metadata else "no metadata")
    facts = base_model_facts(str(tmp_path), SimpleNamespace(), "finetune")
    origin = CardOrigin.of({"base_model": facts})
    assert origin is not None
    assert origin.metadata() == {}


TEXT = "a |\n\n## b\n\n[c](http://x.org) <img src=y> `d` **e**"


@pytest.mark.parametrize("value", [TEXT, 3, None, [TEXT], {"x": TEXT}, ["org/name", 4, TEXT], "org/name"])
def test_hostile_facts_of_the_base_model_are_omitted(value):
    """Whatever `run.yaml` states, the card is valid and has no other links, headings or metadata."""
    names = ("ids", "relation", "imported", "license", "license_name", "license_link")
    facts = {"task": "sft", "parameters": 1, "context_length": 8, "base_model": dict.fromkeys(names, value)}
    facts |= dict.fromkeys(("title", "style", "dataset", "license", "prompt"), "x") | {"dtype": value}
    facts |= {"train": {}, "validation": {}, "data": {}, "own_class": "Qwen2ForCausalLM"}
    machine = {"device": "x", "processes": 1, "threads": 1}
    run = {"arguments": {"metric_for_best_model": "val_loss"}, "facts": facts, "machine": machine, "versions": {}}
    card = ModelCard(render_card(run, [{"val_loss": 1.0, "step": 1}], recipe_of("sft").card))
    assert card.data.to_dict().get("base_model") in (None, "org/name")
    assert card.data.to_dict().get("license") is None
    assert len(re.findall("^#", card.content, re.M)) == 6
    assert "](http" not in card.content
    assert "<img" not in card.content
