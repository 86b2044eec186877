"""`--device` and `--dtype`: where a model runs and in which precision, from the command line to the weights."""

import pytest
import torch
from helpers.models import save_tiny, tiny_encoder, tiny_model, tiny_seq2seq
from helpers.processes import run_here
from transformers import AutoModelForCausalLM, PreTrainedModel

from scratch_gpt import ScratchEncoderForMaskedLM, ScratchEncoderForSequenceClassification, train_tokenizer
from scratch_gpt.cli.app import open_model
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.loading import choose_device, choose_dtype, load_model
from scratch_gpt.rl.rewards import open_reward

TEXT = "a b c " * 40


def save(folder, model, template="causal"):
    """Save a model with a tokenizer of characters; return its directory."""
    model.save_pretrained(folder)
    train_tokenizer([TEXT], "char", template=template, model_max_length=64).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A directory with one small model of each kind and two datasets."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "text.txt").write_text("a b c\nb c\n")
    (folder / "table.tsv").write_text("text\tlabel\na b\t0\nb c\t1\n")
    save_tiny(folder / "gpt")
    translator = tiny_seq2seq("modern")
    translator.config.set_languages("de", "en", False)
    save(folder / "seq2seq", translator, "seq2seq")
    save(folder / "classifier", tiny_encoder(ScratchEncoderForSequenceClassification, "bert"), "encoder")
    save(folder / "masked", tiny_encoder(ScratchEncoderForMaskedLM, "bert"), "encoder")
    return folder


def test_auto_device_is_the_accelerator_or_the_cpu():
    found = torch.accelerator.current_accelerator(check_available=True)
    assert choose_device("auto") == (found or torch.device("cpu"))
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "xpu:99", "meta", "gpu", "cuda:x", ""])
def test_missing_device_is_refused_and_available_ones_are_listed(name):
    with pytest.raises(ScratchError, match="cpu") as refusal:
        choose_device(name)
    assert repr(name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch has CUDA")
def test_build_without_cuda_is_reported(models):
    result = run_here("scratch-gpt", "generate", "gpt", "--device", "cuda", cwd=models, check=False)
    assert result.returncode == 2
    assert "device 'cuda' is not available: PyTorch" in result.stderr
    assert "is built without CUDA; available: cpu" in result.stderr


def test_auto_dtype_is_float32_on_cpu_and_that_of_the_checkpoint_elsewhere():
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("auto", torch.device("cuda")) == "auto"
    assert choose_dtype("float16", torch.device("cpu")) == torch.float16
    with pytest.raises(ScratchError, match="unknown dtype 'fp8': want one of auto, float32, bfloat16, float16, int8"):
        choose_dtype("fp8", torch.device("cpu"))


def test_weights_have_the_requested_dtype(tmp_path):
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    train_tokenizer(["a b c"], "char", model_max_length=64).save_pretrained(tmp_path)
    dtypes = {"auto": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    for name, dtype in dtypes.items():
        model, _ = open_model(str(tmp_path), device="cpu", dtype=name)
        assert {p.dtype for p in model.parameters()} == {dtype}, name
        assert not model.training
    assert load_model(tmp_path, dtype="auto").dtype == torch.bfloat16  # as with --dtype auto on an accelerator
    assert load_model(tmp_path).dtype == torch.float32  # as at the start of training


COMMANDS = {
    "generate": "generate gpt --prompt a --max_new_tokens 4",
    "evaluate": "evaluate gpt --dataset text.txt --context_length 4",
    "translate": "translate seq2seq a --num_beams 1",
    "classify": "classify classifier a",
    "fill": "fill masked a<mask>",
    "judge": "judge gpt --reward classifier --reference gpt --dataset text.txt --max_new_tokens 4",
    "pairs": "pairs gpt --reward classifier --dataset text.txt --max_new_tokens 40 --output pairs.jsonl --samples 32",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs_its_models_in_the_requested_dtype(command, models, monkeypatch):
    """This includes the classifier of the reward and the reference model."""
    seen, evaluation_mode = {}, PreTrainedModel.eval

    def record_dtype(self):
        def hook(module, args):
            seen[id(module)] = module.dtype

        self.register_forward_pre_hook(hook)
        return evaluation_mode(self)

    monkeypatch.setattr(PreTrainedModel, "eval", record_dtype)
    run_here("scratch-gpt", *COMMANDS[command].split(), "--device", "cpu", "--dtype", "bfloat16", cwd=models)
    assert set(seen.values()) == {torch.bfloat16}
    assert len(seen) == {"judge": 3, "pairs": 2, "evaluate": 2}.get(command, 1)  # also the untrained model


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_refuses_an_unknown_device_and_dtype(command, models):
    for option, value in (("--device", "cuda:99"), ("--dtype", "float8")):
        result = run_here("scratch-gpt", *COMMANDS[command].split(), option, value, cwd=models, check=False)
        assert result.returncode == 2
        assert f"'{value}'" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_reward_runs_on_the_given_device(models):
    reward = open_reward(str(models / "classifier"), device="cpu", dtype=torch.bfloat16)
    exact = open_reward(str(models / "classifier"))
    bfloat16_reward, float32_reward = (function(prompts=["a"], completions=["b c"])[0] for function in (reward, exact))
    assert bfloat16_reward == pytest.approx(float32_reward, abs=0.05)
    assert bfloat16_reward != float32_reward


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
def test_accelerator_is_used_if_there_is_one(models):
    model, _ = open_model(str(models / "gpt"), device="auto", dtype="auto")
    assert model.device.type == torch.accelerator.current_accelerator().type
    assert model.dtype == AutoModelForCausalLM.from_pretrained(models / "gpt", trust_remote_code=False).dtype
    for command in COMMANDS.values():
        run_here("scratch-gpt", *command.split(), cwd=models)


def test_language_metrics_need_no_float64_on_the_device():
    """MPS has no float64; sums over processes are exact Python numbers."""
    import inspect

    from scratch_gpt.evaluation import language_modeling

    assert "float64" not in inspect.getsource(language_modeling).replace("has float64", "")
