"""`scratch-gpt see`: what it writes, its size, and its errors in one line."""

import json
import shutil
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from helpers.models import randomise, tiny_model
from helpers.pages import Shown, payload_in, shown, tokenizer_of
from helpers.processes import PROJECT, refusals, run_here, run_python

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM, export_native
from scratch_gpt.hub.loading import Tokenizers
from scratch_gpt.hub.model_directory import save_tokenizers
from scratch_gpt.see.page import page_html, script_json, web_modules
from scratch_gpt.see.payload import payload_of
from scratch_gpt.see.support import MAX_PARAMETERS
from scratch_gpt.tokenization.chat import add_chat_template


def save(found, folder):
    found.model.save_pretrained(folder)
    save_tokenizers(found.tokenizers.source, found.tokenizers.target, folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    save(shown("causal"), folder / "gpt")
    save(shown("two_vocabularies"), folder / "translator")
    save(shown("classifier"), folder / "classifier")
    other = shown("causal")
    with torch.no_grad():
        other.model.lm_head.weight.mul_(0.5)
    save(other, folder / "tuned")
    tokenizer = deepcopy(other.tokenizers.source)  # others share it
    add_chat_template(tokenizer)  # as SFT does
    other.model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    save(Shown(other.model, Tokenizers(tokenizer, tokenizer)), folder / "chat")
    save(shown("ngram"), folder / "characters")
    (folder / "empty").mkdir()
    config_only = folder / "config_only"
    config_only.mkdir()
    shutil.copy(folder / "gpt" / "config.json", config_only)
    native = export_native(tiny_model("llama", vocab_size=500, max_position_embeddings=128))
    native.save_pretrained(folder / "native")
    tokenizer_of("bpe", "causal", 500).save_pretrained(folder / "native")
    large = ScratchGPTConfig.from_preset("llama", vocab_size=500, hidden_size=768, num_hidden_layers=6)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in ScratchGPTForCausalLM(large).parameters())
    assert count > MAX_PARAMETERS
    ScratchGPTForCausalLM(large).half().save_pretrained(folder / "large")
    tokenizer_of("bpe", "causal", 500).save_pretrained(folder / "large")
    (folder / "a_folder.html").mkdir()
    return folder


def see(*arguments: str, cwd, check: bool = True):
    return run_here("scratch-gpt", "see", *arguments, cwd=cwd, check=check)


@pytest.mark.parametrize("name", ["gpt", "translator", "classifier", "native"])
def test_a_page_contains_the_model(name, world):
    result = see(name, "--output", f"{name}.html", "--text", "Ein <b>Text</b>", cwd=world)
    path = world / f"{name}.html"
    assert result.stdout == f"{name}.html, {path.stat().st_size / 1e6:.1f} MB: open it in a browser\n"
    payload = payload_in(path)
    assert payload["text"] == "Ein <b>Text</b>"
    assert payload["models"][0]["name"] == name
    assert payload["excerpts"]["attention"]["file"] == "models/attention.py"
    assert {tensor["dtype"] for tensor in payload["models"][0]["tensors"].values()} == {"float16"}


def test_two_models_and_float32(world):
    see("tuned", "--against", "gpt", "--dtype", "float32", "--output", "two.html", cwd=world)
    payload = payload_in(world / "two.html")
    assert [model["name"] for model in payload["models"]] == ["tuned", "gpt"]
    assert payload["models"][1]["tensors"]["lm_head.weight"]["dtype"] == "float32"
    assert payload["text"] == "One day, Anna"


@pytest.mark.parametrize(("name", "against"), [("chat", "gpt"), ("gpt", "chat")])
def test_a_model_can_be_compared_with_one_before_tokens_of_conversations_were_added(name, against, world):
    see(name, "--against", against, "--output", "chat.html", cwd=world)
    sizes = {model["name"]: model["config"]["vocab_size"] for model in payload_in(world / "chat.html")["models"]}
    assert sizes["chat"] == sizes["gpt"] + 6


FAILS = [
    ("none", "no model can be opened from 'none'"),
    ("empty", "the folder has no config.json"),
    ("config_only", "no model can be opened from 'config_only'"),
    ("large", f"and a page has at most {MAX_PARAMETERS:,}"),
    ("gpt --against characters", "--against characters has another tokenizer than gpt: want the same"),
    ("gpt --against classifier", "--against classifier is a classifier model and gpt a causal model"),
    ("gpt --output page.txt", "--output page.txt does not end in .html"),
    ("gpt --output none/page.html", "no such folder: none"),
    ("gpt --output a_folder.html", "a_folder.html is a folder"),
    ("gpt --dtype bfloat16", "Invalid value for '--dtype'"),
    ("", "Missing argument 'MODEL'"),
]


def test_bad_input_is_an_error_in_one_line_and_writes_nothing(world):
    before = sorted(world.iterdir())
    outcomes = refusals("scratch-gpt", [["see", *arguments.split()] for arguments, _ in FAILS], cwd=world)
    for (arguments, message), (code, errors) in zip(FAILS, outcomes, strict=True):
        assert code == 2, (arguments, errors)
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (arguments, errors)
        assert message in lines[0], arguments
    assert sorted(world.iterdir()) == before


def test_a_page_that_fails_leaves_the_old_one(world):
    (world / "kept.html").write_text("old")
    assert see("large", "--output", "kept.html", cwd=world, check=False).returncode == 2
    assert (world / "kept.html").read_text() == "old"
    see("gpt", "--output", "kept.html", cwd=world)
    assert payload_in(world / "kept.html")["models"][0]["kind"] == "causal"


@pytest.mark.slow
def test_help_imports_nothing_large(tmp_path):
    script = (
        "import sys; sys.argv = ['scratch-gpt', 'see', '--help']\n"
        "from scratch_gpt_cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    assert run_python("-c", script, cwd=tmp_path, fresh=True).stdout.strip().splitlines()[-1] == "[]"


def test_the_page_of_the_readmes_first_model_is_small():
    """The size of `scratch-gpt train language_modeling` with its defaults: at most 1.5 times the float16 weights and
    300 kB."""
    shape = {"hidden_size": 128, "intermediate_size": 352, "num_attention_heads": 2, "num_hidden_layers": 4}
    tokenizer = tokenizer_of("bpe", "causal")
    config = ScratchGPTConfig.from_preset("llama", vocab_size=len(tokenizer), max_position_embeddings=256, **shape)
    model = randomise(ScratchGPTForCausalLM(config))
    payload = payload_of(model, Tokenizers(tokenizer, tokenizer), "runs/gpt")
    size = len(page_html([payload], "One day, Anna").encode())
    assert len(payload.weights) == pytest.approx(2 * model.num_parameters(), rel=0.01)
    assert size <= 1.5 * len(payload.weights) + 300_000


@pytest.mark.slow
def test_the_wheel_contains_the_page(tmp_path):
    """A page from an installed wheel is the one from the source."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(PROJECT),
    ]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "installed", "zip")
    web = tmp_path / "installed" / "scratch_gpt" / "see" / "web"
    assert web_modules(web) == web_modules()
    source = PROJECT / "scratch_gpt" / "see" / "web"
    for path in source.rglob("*.*"):
        assert (web / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_modules_are_short_and_documented():
    for name, code in web_modules().items():
        lines = code.splitlines()
        assert len(lines) <= 400, name
        assert max(map(len, lines)) <= 110, name
        assert code.startswith("/**"), f"{name} has no comment that says what it is"
        assert "innerHTML" not in code, name


def test_json_of_a_script_has_nothing_that_ends_it():
    text = "</script><!--\u2028\u2029\u0000\ud800"
    written = script_json({text: [text, 1.5, None]})
    assert not set("<\u2028\u2029\u0000\ud800") & set(written)
    assert json.loads(written) == {text: [text, 1.5, None]}


def test_settings_of_generation_that_the_page_ignores_are_named(world, tmp_path):
    shutil.copytree(world / "gpt", tmp_path / "gpt")
    path = tmp_path / "gpt" / "generation_config.json"
    settings = {"do_sample": True, "temperature": 0.7, "min_p": 0.05, "typical_p": 0.9, "epsilon_cutoff": 0.0}
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    line = "the page ignores min_p, typical_p in the generation config of gpt: it samples by its own controls"
    assert line in see("gpt", cwd=tmp_path).stdout
    assert payload_in(tmp_path / "see.html")["models"][0]["generation"]["ignored"] == ["min_p", "typical_p"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "min_p": 0.0, "typical_p": 1.0}))
    assert "ignores" not in see("gpt", cwd=tmp_path).stdout
