"""`scratch-gpt import`: checkpoints of transformers' own classes become model directories of ours."""

import json
import shutil

import pytest
import torch
from helpers.decoders import VARIANTS, native_decoder
from helpers.hub import hub_environment
from helpers.loopback_hub import Repository, running_hub
from helpers.models import lift_norms, randomise, tiny_model
from helpers.native import BERT, DECODER, native_with
from helpers.processes import run_command, run_here, run_python
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    T5Config,
)

from scratch_gpt import ScratchGPTConfig, export_native, import_native, train_tokenizer
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import load_model
from scratch_gpt.hub.native.importing import import_to_folder, import_to_memory, plan_import
from scratch_gpt.hub.push import write_native_twin

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
ORIGIN = {"class": "LlamaForCausalLM", "name_or_path": None, "config": {}}
IDS = torch.randint(3, 99, (2, 12), generator=torch.Generator().manual_seed(0))


def save_native(model, folder, **options):
    """Save a model with a character tokenizer."""
    model.save_pretrained(folder, **options)
    tokenizer = train_tokenizer(["abc"], "char", model_max_length=64)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def tiny_llama(**fields):
    return native_with("llama", **fields)


def logits_of(model, ids=IDS):
    with torch.no_grad():
        return model.eval()(ids).logits


def imported(folder, output_dir):
    """Run the command, and return what it printed and our model in float32."""
    said = run_here("scratch-gpt", "import", str(folder), str(output_dir))
    return " ".join((said.stdout + said.stderr).split()), AutoModelForCausalLM.from_pretrained(
        output_dir, dtype=torch.float32
    )


@pytest.mark.parametrize("family", VARIANTS)
def test_every_decoder_is_imported_from_files(family, tmp_path):
    """From a checkpoint in several files, into a folder and into memory."""
    native = native_decoder(family, next(iter(VARIANTS[family])))
    native.save_pretrained(tmp_path / "native", max_shard_size="20KB")
    assert len(list((tmp_path / "native").glob("*.safetensors"))) > 1
    attention = native.config._attn_implementation
    native = type(native).from_pretrained(tmp_path / "native", attn_implementation=attention)
    plan = plan_import(tmp_path / "native")
    (tmp_path / "ours").mkdir()
    import_to_folder(plan, tmp_path / "ours")
    expected = logits_of(native)
    for ours in (import_to_memory(plan), AutoModelForCausalLM.from_pretrained(tmp_path / "ours")):
        assert type(ours) is plan.model_class
        assert not ours.training
        torch.testing.assert_close(logits_of(ours), expected, atol=1e-4 * max(1, expected.abs().max().item()), rtol=0)


def test_dtype_tokenizer_template_and_generation_config_are_kept(tmp_path, monkeypatch):
    native = tiny_llama(tie_word_embeddings=True).to(torch.bfloat16)
    # Settings that `save_pretrained` refuses, as those of many models on the Hub
    (tmp_path / "native").mkdir()
    save_native(native, tmp_path / "native", max_shard_size="10KB")
    settings = {"eos_token_id": [2, 3], "temperature": 0.6, "do_sample": False, "max_new_tokens": 7}
    (tmp_path / "native" / "generation_config.json").write_text(json.dumps(settings))
    monkeypatch.setattr("scratch_gpt.hub.native.stored_weights.MIN_SHARD", 10_000)  # several files
    said, ours = imported(tmp_path / "native", tmp_path / "ours")
    assert said == f"ScratchGPTForCausalLM in {tmp_path / 'ours'}, bfloat16, from LlamaForCausalLM"
    assert len(list((tmp_path / "ours").glob("model-*.safetensors"))) > 1
    native = AutoModelForCausalLM.from_pretrained(tmp_path / "native", dtype=torch.float32)
    torch.testing.assert_close(logits_of(ours), logits_of(native), atol=1e-5, rtol=0)
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype="auto").dtype == torch.bfloat16
    for path in (tmp_path / "ours").glob("model-*.safetensors"):
        weights = load_file(path)
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
        assert "lm_head.weight" not in weights  # it is tied
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (tmp_path / "native" / file).read_bytes(), file
    assert ours.generation_config.eos_token_id == [2, 3]
    # In memory, without the settings that can't be saved
    again = import_to_memory(plan_import(tmp_path / "native"))
    again.save_pretrained(tmp_path / "again")
    assert (again.generation_config.max_new_tokens, again.generation_config.temperature) == (7, None)
    assert (again.dtype, again.lm_head.weight is again.model.embed_tokens.weight) == (torch.float32, True)
    torch.testing.assert_close(logits_of(again), logits_of(ours), atol=0, rtol=0)


def test_norms_that_bfloat16_would_round_are_stored_in_float32(tmp_path):
    """Gemma's norms are 1 + w, of which bfloat16 keeps two digits of w."""
    torch.manual_seed(0)
    native = GemmaForCausalLM(GemmaConfig(**DECODER, num_key_value_heads=2, head_dim=8, hidden_activation="gelu"))
    randomise(native, std=0.05).to(torch.bfloat16).save_pretrained(tmp_path / "native")
    (tmp_path / "ours").mkdir()
    import_to_folder(plan_import(tmp_path / "native"), tmp_path / "ours")
    stored = load_file(tmp_path / "ours" / "model.safetensors")
    assert {weight.dtype for name, weight in stored.items() if "norm" in name} == {torch.float32}
    assert {weight.dtype for name, weight in stored.items() if "norm" not in name} == {torch.bfloat16}
    assert torch.equal(
        load_model(tmp_path / "ours").model.layers[0].input_layernorm.weight,
        native.model.layers[0].input_layernorm.weight.float() + 1,
    )
    back = export_native(load_model(tmp_path / "ours")).to(torch.bfloat16)
    for name, weight in native.state_dict().items():
        if "norm" in name:
            assert torch.equal(back.state_dict()[name], weight), name
    # The same for what `push` uploads
    save_native(native, tmp_path / "native")
    run_here("scratch-gpt", "import", str(tmp_path / "native"), str(tmp_path / "command"))
    (tmp_path / "pushed").mkdir()
    write_native_twin(tmp_path / "command", tmp_path / "pushed")
    pushed = load_file(tmp_path / "pushed" / "model.safetensors")
    assert all(torch.equal(pushed[name], weight) for name, weight in native.state_dict().items() if "norm" in name)
    assert {weight.dtype for weight in pushed.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("config", "class_name", "reason"),
    [
        (T5Config(is_gated_act=True), "T5EncoderModel", "cannot import a T5EncoderModel: supported are "),
        (LlamaConfig(hidden_act="mish"), "LlamaForCausalLM", "this LlamaForCausalLM: its activation is 'mish'"),
        (LlamaConfig(vocab_size=0), "LlamaForCausalLM", "vocab_size is 0, want at least 1"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named_before_weights_are_read(config, class_name, reason, tmp_path):
    config.architectures = [class_name]
    config.save_pretrained(tmp_path / "native")  # there are no weights
    said = run_here("scratch-gpt", "import", str(tmp_path / "native"), str(tmp_path / "ours"), check=False)
    assert said.returncode == 2
    assert reason in said.stderr
    assert not (tmp_path / "ours").exists()
    if "supported are" in reason:
        assert "GPT2LMHeadModel" in said.stderr
        assert "LlamaForCausalLM" in said.stderr


def test_missing_weights_and_other_shapes_are_refused(tmp_path):
    save_native(tiny_llama(), tmp_path / "native")
    weights = load_file(tmp_path / "native" / "model.safetensors")
    output_dir = tmp_path / "new" / "ours"

    def refused() -> str:
        result = run_here("scratch-gpt", "import", str(tmp_path / "native"), str(output_dir), check=False)
        assert result.returncode == 2
        assert not output_dir.parent.exists()
        return result.stderr

    for changed, reason in (
        ({"model.norm.weight": None}, "its weights lack model.norm.weight"),
        ({"model.norm.weight": torch.ones(31)}, r"model.norm.weight has the shape (31,), its config asks for (32,)"),
        ({"model.norm.weight": torch.full((32,), torch.nan)}, "model.norm.weight has numbers that are not finite"),
    ):
        kept = {name: weight for name, weight in {**weights, **changed}.items() if weight is not None}
        save_file(kept, tmp_path / "native" / "model.safetensors", metadata={"format": "pt"})
        assert reason in refused()
    (tmp_path / "native" / "model.safetensors").unlink()
    assert "only safetensors are loaded" in refused()
    shutil.rmtree(tmp_path / "native")
    assert "error: no model can be opened from" in refused()


def test_stored_weights_that_the_class_does_not_have_are_named(tmp_path):
    native = tiny_llama()
    extra = {**native.state_dict(), "model.extra.weight": torch.ones(2)}
    native.save_pretrained(tmp_path / "native", state_dict=extra)
    said, _ = imported(tmp_path / "native", tmp_path / "ours")
    assert f"{tmp_path / 'native'} has no tokenizer: none was copied" in said
    assert "1 weights that LlamaForCausalLM does not have were ignored: model.extra.weight" in said


def test_models_without_a_head(tmp_path):
    """A tied embedding is the head; otherwise our trunk is imported, and a classifier gets a new head."""
    shape = {name: value for name, value in DECODER.items() if name != "intermediate_size"}
    natives = {
        "gpt2": (GPT2Model(GPT2Config(**shape)), "ScratchGPTForCausalLM"),
        "llama": (LlamaModel(LlamaConfig(**DECODER)), "ScratchGPTModel"),
        "bert": (BertModel(BertConfig(**BERT)), "ScratchEncoderModel"),
    }
    for name, (native, expected) in natives.items():
        native = lift_norms(randomise(native))
        native.save_pretrained(tmp_path / name)
        plan = plan_import(tmp_path / name)
        assert plan.model_class.__name__ == expected
        folder = tmp_path / f"{name}-ours"
        folder.mkdir()
        import_to_folder(plan, folder)
        with torch.no_grad():
            states = AutoModel.from_pretrained(folder).eval()(IDS).last_hidden_state
            torch.testing.assert_close(states, native(IDS).last_hidden_state, atol=1e-4, rtol=0)
        classifier = import_to_memory(plan_import(tmp_path / name, "classifier", id2label={0: "a", 1: "b", 2: "c"}))
        with torch.no_grad():
            states = classifier.base_model(IDS).last_hidden_state
            torch.testing.assert_close(states, native(IDS).last_hidden_state, atol=1e-4, rtol=0)
        assert logits_of(classifier).shape == (2, 3)
    assert plan_import(tmp_path / "gpt2", "causal").model_class.__name__ == "ScratchGPTForCausalLM"
    with pytest.raises(ScratchError, match=r"its weights lack lm_head.weight"):
        import_to_memory(plan_import(tmp_path / "llama", "causal"))
    with pytest.raises(ScratchError, match="is a LlamaModel, which is not a seq2seq model"):
        plan_import(tmp_path / "llama", "seq2seq")


def test_a_hub_id_is_kept_and_a_path_is_not(tmp_path):
    native = tiny_llama()
    save_native(native, tmp_path / "native", max_shard_size="20KB")
    with running_hub() as hub:
        environment = hub_environment(hub, tmp_path / "home")
        hub.repositories["tester/llama"] = Repository()
        files = {path.name: path.read_bytes() for path in (tmp_path / "native").iterdir()}
        hub.repositories["tester/llama"].commit("main", files, "Upload")
        run_command("import", "tester/llama", "ours", cwd=tmp_path, check=True, env=environment)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(logits_of(ours), logits_of(native), atol=1e-5, rtol=0)
    assert ours.config.imported_from["name_or_path"] == "tester/llama"
    assert ours.config.imported_from["class"] == "LlamaForCausalLM"
    files = [file.name for file in (tmp_path / "ours").iterdir()]
    assert "tokenizer.json" in files
    _, local = imported(tmp_path / "native", tmp_path / "local")
    assert local.config.imported_from["name_or_path"] is None
    assert str(tmp_path) not in (tmp_path / "local" / "config.json").read_text()


@pytest.mark.parametrize(
    "origin",
    ["LlamaForCausalLM", {}, {**ORIGIN, "class": 5}, {**ORIGIN, "config": []}, {**ORIGIN, "name_or_path": 3}],
)
def test_an_origin_of_a_wrong_type_is_one_line(origin, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "imported_from": origin}))
    with pytest.raises(ScratchError, match="imported_from"):
        load_model(tmp_path)


def test_an_origin_is_used_only_for_settings_of_its_class():
    """It is part of the config of a checkpoint, which may be untrusted."""
    ours = tiny_model("llama")
    settings = {
        "auto_map": {"AutoConfig": "evil/repository--x.X"},
        "to_dict": 5,
        "_name_or_path": "x",
        "pretraining_tp": 2,
    }
    ours.config.imported_from = {"class": "LlamaForCausalLM", "name_or_path": None, "config": settings}
    native = export_native(ours)
    assert native.config.pretraining_tp == 2
    assert "evil" not in json.dumps(native.config.to_dict())
    ours.config.imported_from["config"] = {"rms_norm_eps": "small"}
    with pytest.raises(
        ScratchError, match=r"imported_from is not a config of LlamaConfig, remove it from config\.json"
    ):
        export_native(ours)
    gemma = import_native(native_decoder("Gemma2", "plain"))
    gemma.config.imported_from["config"]["query_pre_attn_scalar"] = 0
    with pytest.raises(ScratchError, match=r"see imported_from in config\.json: ZeroDivisionError"):
        export_native(gemma)


def test_export_says_why_the_class_of_origin_no_longer_fits(tmp_path):
    native = GPT2LMHeadModel(
        GPT2Config(**{name: value for name, value in DECODER.items() if name != "intermediate_size"})
    )
    save_native(native, tmp_path / "native")
    _, ours = imported(tmp_path / "native", tmp_path / "ours")
    ours.config.norm_type = "layer_norm_without_bias"
    for place in (tmp_path / "ours",):
        type(ours)(ours.config).save_pretrained(place)
    said = run_here("scratch-gpt", "export", str(tmp_path / "ours"), str(tmp_path / "out"), check=False)
    assert (
        "it was imported from GPT2LMHeadModel, which no longer fits: norm_type is 'layer_norm_without_bias'"
        in said.stderr
    )
    assert said.returncode == 2


SIZES = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 20, "vocab_size": 32000}
MEASURE = """
import sys
from scratch_gpt.cli.app import main
sys.argv = ["scratch-gpt", "import", *sys.argv[1:]]
try:
    main()
finally:
    print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.parametrize(
    "family", [pytest.param("llama", marks=pytest.mark.slow), pytest.param("gpt2", marks=pytest.mark.release)]
)
def test_an_import_does_not_hold_the_weights_twice(family, tmp_path):
    """The peak memory, without that of importing a model of one small layer, is less than the size of the weights."""
    peaks, size = [], 0
    for layers, rows, name in ((1, 8, "empty"), (20, 32000, "large")):
        if family == "llama":
            config = LlamaConfig(**{**SIZES, "num_hidden_layers": layers, "vocab_size": rows}, num_attention_heads=16)
        else:
            config = GPT2Config(n_embd=1024, n_layer=layers, n_head=16, vocab_size=rows, bos_token_id=1, eos_token_id=2)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / name)
        size = sum(path.stat().st_size for path in (tmp_path / name).glob("*.safetensors"))
        del model
        said = run_python("-c", MEASURE, str(tmp_path / name), str(tmp_path / f"{name}-ours"), cwd=tmp_path, fresh=True)
        peaks.append(int(said.stdout.split()[-1]) * 1024)
    assert size > 500e6
    assert peaks[1] - peaks[0] < size
    assert AutoConfig.from_pretrained(tmp_path / "large-ours").dtype == torch.bfloat16
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "large-ours"), ScratchGPTConfig)
