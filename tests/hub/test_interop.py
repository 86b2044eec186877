"""TRL's SFT, DPO and GRPO trainers and PEFT's LoRA on our GPT."""

import json

import pytest
import torch
from datasets import Dataset
from helpers.models import PRESET_STYLES, tiny_model
from helpers.processes import run_python
from transformers import AutoModelForCausalLM, AutoTokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.tokenization.chat import add_chat_template

LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj"], "task_type": "CAUSAL_LM"}
ASKED = [{"role": "user", "content": "ab?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model directory whose tokenizer has our chat template."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["abcdefgh? "], "char", model_max_length=64)
    add_chat_template(tokenizer)
    model = tiny_model("llama", vocab_size=len(tokenizer))
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def settings(tmp_path, **more):
    common = {
        "output_dir": str(tmp_path / "out"),
        "report_to": [],
        "use_cpu": True,
        "save_strategy": "no",
        "bf16": False,
    }
    return {**common, "learning_rate": 1e-2, "logging_steps": 1, "per_device_train_batch_size": 4, **more}


def losses_of(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_sft_trainer_scores_the_same_tokens_as_our_sft(folder, tmp_path):
    """With the generation tags of our template, TRL scores exactly the tokens that our SFT scores."""
    from trl import SFTConfig, SFTTrainer

    from scratch_gpt.tokenization.chat import encode_conversations

    talks = [[*ASKED, {"role": "assistant", "content": "cd"}], [*ASKED, {"role": "assistant", "content": "efgh"}]] * 8
    config = SFTConfig(**settings(tmp_path, max_steps=30), max_length=64, assistant_only_loss=True)
    rows = Dataset.from_list([{"messages": talk} for talk in talks])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = SFTTrainer(folder, config, train_dataset=rows, processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    ours = encode_conversations(tokenizer, talks[:2], 64)
    expected = {tuple(ids[scored].tolist()) for ids, scored in zip(ours.ids, ours.scored, strict=True)}
    assert {tuple(row[row != -100].tolist()) for row in batch["labels"]} == expected
    trainer.train()
    found = losses_of(trainer)
    assert found[-1] < 0.9 < found[0]  # the irreducible loss is log 2 over five or three tokens


def test_dpo_trainer_runs_with_a_folder_and_its_own_reference(folder, tmp_path):
    from trl import DPOConfig, DPOTrainer

    rows = [{"prompt": ASKED, "chosen": [{"role": "assistant", "content": "a"}]} for _ in range(16)]
    rows = [{**row, "rejected": [{"role": "assistant", "content": "bc"}]} for row in rows]
    config = DPOConfig(**settings(tmp_path, max_steps=30), max_length=64)
    trainer = DPOTrainer(
        folder,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    found = losses_of(trainer)
    assert found[0] == pytest.approx(0.6931, abs=1e-3)
    assert found[-1] < 0.3


def test_grpo_trainer_uses_our_rewards(folder, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    from scratch_gpt.rl.rewards import pattern_reward

    config = GRPOConfig(
        **settings(tmp_path, max_steps=40, per_device_train_batch_size=16),
        num_generations=8,
        max_completion_length=8,
        beta=0.0,
    )
    rows = Dataset.from_list([{"prompt": "ab"}, {"prompt": "c"}] * 16)
    trainer = GRPOTrainer(
        folder,
        pattern_reward("a"),
        args=config,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


@pytest.mark.parametrize(("preset", "fields"), PRESET_STYLES)
def test_lora_is_trained_saved_loaded_and_merged(preset, fields, tmp_path):
    """Only the adapter is trained; it loads as saved; merged, the model has our class and the same logits."""
    from peft import LoraConfig, PeftModel, get_peft_model

    model = tiny_model(preset, **fields)
    model.save_pretrained(tmp_path / "base")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    adapted = get_peft_model(model, LoraConfig(**LORA))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    ids = torch.randint(3, 99, (4, 16))
    start = adapted(input_ids=ids, labels=ids).loss.item()
    for _ in range(10):
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < start
    frozen = {name.replace(".base_layer", ""): p for name, p in adapted.base_model.model.named_parameters()}
    assert all(torch.equal(frozen[name], weight) for name, weight in before.items())
    adapted.eval().save_pretrained(tmp_path / "adapter")
    assert sorted(p.suffix for p in (tmp_path / "adapter").iterdir() if "adapter" in p.name) == [
        ".json",
        ".safetensors",
    ]
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
        torch.testing.assert_close(again.eval()(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
        merged = again.merge_and_unload()
        assert type(merged) is type(model)
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, atol=1e-4, rtol=1e-4)
        written = again.generate(input_ids=ids[:1, :4], max_new_tokens=8, do_sample=False)
        assert torch.equal(merged.generate(ids[:1, :4], max_new_tokens=8, do_sample=False), written)
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_peft_adapts_a_checkpoint_without_the_package(folder, tmp_path):
    """PEFT with the model code in a checkpoint, in a process without the package."""
    code = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
model = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
ids = torch.arange(5, 11)[None]
model(input_ids=ids, labels=ids).loss.backward()
print(sum(p.grad is not None for p in model.parameters()))
assert "scratch_gpt" not in sys.modules
"""
    result = run_python("-I", "-c", code, folder, cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert (
        json.loads(result.stdout.splitlines()[-1]) == 2 * 2 * 7
    )  # two matrices for each of seven linear layers in two blocks


def test_an_adapted_head_is_part_of_the_loss_without_logits():
    """Adapters of the head are not in its weight, from which the chunked loss would be computed."""
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(tiny_model("llama"), LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False))
    ids = torch.randint(3, 99, (2, 16))
    expected = adapted(input_ids=ids, labels=ids).loss
    found = adapted(input_ids=ids, labels=ids, skip_logits=True).loss
    torch.testing.assert_close(found, expected)
    with adapted.disable_adapter():
        assert abs(adapted(input_ids=ids, labels=ids).loss - expected) > 0.01
