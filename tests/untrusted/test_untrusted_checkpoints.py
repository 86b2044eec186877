"""Untrusted model directories: what is rejected before it is read or run."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.models import save_tiny
from helpers.processes import PRETRAIN, TINY_LOOP, run_here
from safetensors.torch import load_file, save_file

from scratch_gpt import train_tokenizer
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import load_model, open_tokenizer


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("untrusted") / "model")


def test_a_sound_directory_opens(directory):
    model = load_model(directory)
    assert len(open_tokenizer(str(directory))) <= model.config.vocab_size


def edit_config(folder: Path, **fields) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_weights(folder: Path, change) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    save_file(change(weights), path, {"format": "pt"})


def pickle_only(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def link_out(folder: Path) -> None:
    outside = folder.parent / "outside.json"
    outside.write_text("{}")
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to(outside)


def index_out(folder: Path) -> None:
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def widen(weights):
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    return weights | {name: torch.zeros(7, 32)}


def without_one(weights):
    name = next(name for name in weights if name.endswith("q_proj.weight"))
    return {key: tensor for key, tensor in weights.items() if key != name}


TAMPERED = {
    "a pickle": (pickle_only, "pytorch_model.bin is a pickle"),
    "truncated": (truncate, "model.safetensors is corrupt or truncated"),
    "a link out": (link_out, "generation_config.json is a link to .*outside.json"),
    "an index out": (index_out, "index.json names '../model.safetensors'"),
    "a trillion": (
        lambda folder: edit_config(folder, hidden_size=65536, num_hidden_layers=60, intermediate_size=262144),
        r"asks for [\d,]+ parameters or more, in [\d,]+ tensors; its weights have [\d,]+ in 21 tensors",
    ),
    "more than its weights": (
        lambda folder: edit_config(folder, hidden_size=2048, intermediate_size=8192),
        r"asks for [\d,]+ parameters or more, in [\d,]+ tensors; its weights have [\d,]+ in 21 tensors",
    ),
    "wrong shapes": (
        lambda folder: edit_weights(folder, widen),
        r"q_proj.weight has the shape \(7, 32\), its config",
    ),
    "a missing weight": (lambda folder: edit_weights(folder, without_one), "its weights lack .*q_proj.weight"),
    "whole numbers": (
        lambda folder: edit_weights(folder, lambda weights: {n: t.to(torch.int8) for n, t in weights.items()}),
        "holds numbers of type I8, want floating point",
    ),
    "no config": (lambda folder: (folder / "config.json").write_text("[]"), "no model can be opened"),
}


@pytest.mark.parametrize(("tamper", "said"), TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_directory_is_rejected_in_one_line(directory, tmp_path, tamper, said):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    tamper(folder)
    with pytest.raises(ScratchError, match="no model can be opened") as refusal:
        load_model(folder)
    assert re.search(said, str(refusal.value))
    result = run_here("scratch-gpt", "generate", str(folder), check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


def test_links_within_the_hub_cache_are_accepted(directory, tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "c0ffee"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(directory.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    assert load_model(snapshot).num_parameters() == load_model(directory).num_parameters()


def test_a_tokenizer_with_a_larger_vocabulary_is_rejected(directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    texts = [chr(0x4E00 + i) for i in range(200)]
    train_tokenizer(texts, "char", model_max_length=64).save_pretrained(folder)
    result = run_here("scratch-gpt", "generate", str(folder), "--prompt", texts[-1], check=False)
    assert result.returncode == 2
    assert "the model's vocabulary 99" in result.stderr


def test_code_runs_only_with_trust_remote_code_and_is_named_first(directory, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    edit_config(folder, model_type="theirs", auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.M"})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('')\nraise ValueError('evil ran')\n")
    with pytest.raises(ScratchError, match="no model can be opened"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ScratchError, match="evil ran"):
        load_model(folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    assert f"running code from {folder}: evil.Config, evil.M" in capsys.readouterr().err


def test_custom_generate_runs_only_with_trust_remote_code_and_is_named_first(directory, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    (folder / "custom_generate").mkdir()
    code = f"open({str(tmp_path / 'ran')!r}, 'w').write('')\ndef generate(model, **kwargs):\n    return None\n"
    (folder / "custom_generate/generate.py").write_text(code)
    load_model(folder)
    assert not (tmp_path / "ran").exists()
    assert "running code" not in capsys.readouterr().err
    load_model(folder, trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    assert "custom_generate/generate.py" in capsys.readouterr().err


CLASSES = ("os.system", "subprocess.Popen", "../evil.Fast", "evil--x.Fast", "builtins.eval")


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_in_a_tokenizer_config_is_not_imported(name, directory, tmp_path):
    """If it opens, it is a plain tokenizer, and nothing of that name is imported."""
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('')\n")
    path = folder / "tokenizer_config.json"
    fields = {"tokenizer_class": name, "tokenizer_file": "/etc/passwd", "vocab_file": "/etc/passwd"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    try:
        tokenizer = open_tokenizer(str(folder))
    except ScratchError:
        return
    assert tokenizer.encode("a b") == open_tokenizer(str(directory)).encode("a b")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("reference", ["sub.evil.Config", "other/repo--evil.Config", "../evil.Config", "os.system"])
def test_code_outside_of_the_directory_does_not_run(reference, directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    edit_config(folder, model_type="theirs", auto_map={"AutoConfig": reference})
    for place in (folder / "sub/evil.py", tmp_path / "evil.py", folder / "evil.py"):
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('')\n")
    with pytest.raises(ScratchError, match="no model can be opened"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_weights_and_pipelines_in_a_config_are_ignored(directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "w.bin")
    edit_config(folder, transformers_weights="../w.bin")
    with pytest.raises(ScratchError, match="no model can be opened"):
        load_model(folder)
    edit_config(folder, transformers_weights=None, custom_pipelines={"text-generation": {"impl": "evil.P", "pt": []}})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write('')\n")
    (folder / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "evil.P"}}')
    load_model(folder)
    open_tokenizer(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("settings", [{"prompt_lookup_num_tokens": []}, {"temperature": "warm"}, {"top_k": {}}])
def test_invalid_generation_settings_fail_in_one_line_and_do_not_stop_a_run(settings, directory, tmp_path):
    """A sample that can't be generated must not stop a run."""
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": True, **settings}))
    (tmp_path / "text.txt").write_text("a b c " * 99)
    options = ("--dataset", str(tmp_path / "text.txt"), "--output_dir", str(tmp_path / "run"), *TINY_LOOP)
    trained = run_here(PRETRAIN, "--init_from", str(folder), *options, "--max_steps", "1", check=False)
    assert "Traceback" not in trained.stderr
    assert load_model(tmp_path / "run").num_parameters() > 0
    if "prompt_lookup_num_tokens" in settings:
        result = run_here("scratch-gpt", "generate", str(folder), "--prompt", "a", check=False)
        assert result.returncode == 2
        assert "the model generates no text, see its generation_config.json" in result.stderr
        assert "(no sample: the model generates no text" in trained.stdout


def test_weights_that_are_not_finite_are_rejected(directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    for value in (float("nan"), float("inf")):
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"][3] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(ScratchError, match=r"model\.norm\.weight has numbers that are not finite"):
            load_model(folder)


def test_ids_that_a_post_processor_adds_are_within_the_vocabulary(directory, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(directory, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    special = {"<far>": {"id": "<far>", "ids": [4_000_000_000], "tokens": ["<far>"]}}
    single = [{"SpecialToken": {"id": "<far>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    result = run_here("scratch-gpt", "generate", str(folder), "--prompt", "a", check=False)
    assert result.returncode == 2
    assert "4000000001 tokens and the model's vocabulary 99" in result.stderr
