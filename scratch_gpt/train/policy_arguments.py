"""What learning from rewards can be told, beside what every training run can."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ..errors import ScratchError
from .arguments.training import DatasetArguments, TrainingArguments, argument


@dataclass
class PromptArguments(DatasetArguments):
    """Data arguments for reinforcement learning."""

    dataset: str = argument(
        "stories",
        "Prompts: 'stories' (first sentences of built-in stories), a text file with one per line, a table or folder of "
        "tables with a column prompt, text, instruction, messages or conversations, or a Hub dataset.",
    )
    reward: str | None = argument(
        None,
        "Reward: 're:PATTERN' (1 if the regular expression matches anywhere in the completion, else 0), "
        "'MODULE:FUNCTION' or 'FILE.py:FUNCTION' (called with prompts and completions, returns a number for each), or "
        "a text classifier, 'MODEL' or 'MODEL#LABEL' (the probability of the label).",
    )
    prompt_column: str | None = argument(None, "Column with the prompt, or a nested field such as meta.question.")
    num_prompts: int = argument(4800, "Number of built-in prompts, at most 1 million.")
    max_prompts: int | None = argument(None, "Maximum number of prompts to read. Default: all.")
    validation_prompts: int = argument(
        200, "Number of prompts to evaluate on, from the validation split or, if there is none, held out."
    )


@dataclass
class PolicyModelArguments:
    """What to tune."""

    init_from: str | None = argument(None, "The model to tune (folder or Hub id); as it is, it is also the reference.")
    trust_remote_code: bool = argument(
        False, "Run the code that a checkpoint brings (--init_from, or a classifier that rewards). Read it first."
    )
    dropout: float = argument(0.0, "Dropout while learning; with any, what is learned is not quite what is scored.")


@dataclass
class PolicyArguments(TrainingArguments):
    """How to tune it."""

    output_dir: str = argument("runs/ppo", "Folder for the model, its checkpoints and the record of the run.")
    algorithm: Literal["ppo", "reinforce", "grpo"] = argument(
        "ppo",
        "'ppo' (clipped ratio, advantages from a value head), 'grpo' (clipped ratio, advantages relative to the other "
        "completions of a prompt), or 'reinforce' (each sample learned from once, baseline from the other samples).",
    )
    prompts_per_rollout: int = argument(256, "Prompts that are written on before anything is learned from them.")
    num_generations: int | None = argument(None, "Completions of each prompt. Default: 1, or 8 for grpo.")
    num_ppo_epochs: int | None = argument(
        None, "Times that each sample is learned from. Default: 4, or 1 for reinforce."
    )
    batch_size: int | None = argument(
        None,
        "Rows that a process takes at a time, to write, to score and to learn. Default: at most 64. A step takes a "
        "quarter of the samples by default, and all of them for reinforce.",
    )
    max_new_tokens: int | None = argument(None, "Longest completion. Default: what the model's positions leave.")
    temperature: float = argument(1.0, "Of sampling; what is learned is the distribution at this temperature.")
    gamma: float = argument(1.0, "Weight of a reward one token later (ppo).")
    gae_lambda: float = argument(
        0.95, "How far advantages look ahead instead of trusting the value head (ppo); 1: to the end."
    )
    clip_range: float = argument(0.2, "How far the probability of a token may move at once, as a share (ppo, grpo).")
    value_clip_range: float = argument(0.2, "How far a value may move at once, in units of reward (ppo).")
    value_coefficient: float = argument(0.1, "Weight of the value head's loss (ppo).")
    entropy_coefficient: float = argument(0.0, "Reward for entropy, in units of loss a nat.")
    kl_coefficient: float = argument(0.02, "KL penalty coefficient: reward subtracted per nat of KL to the reference.")
    kl_target: float | None = argument(
        None, "Adapt the KL coefficient towards this KL, in nats per completion. Default: keep it fixed."
    )
    kl_horizon: int = argument(2000, "Samples over which an adapted KL coefficient changes by at most a fifth.")
    max_kl: float = argument(50.0, "Stop where the KL to the reference is beyond so many nats a completion.")
    optimizer: Literal["adamw", "muon"] = argument("adamw", "'adamw', or 'muon' for matrices with AdamW for the rest.")
    learning_rate: float | None = argument(5e-4, "Peak learning rate of AdamW.")
    weight_decay: float = argument(0.0, "Weight decay of matrices; embeddings, norms and biases have none.")
    schedule: Literal["cosine", "wsd", "constant", "inverse_sqrt"] = argument(
        "cosine", "How the learning rate falls after the warm-up."
    )
    warmup_steps: int = argument(10, "Steps in which the learning rate rises from 0.")
    precision: Literal["auto", "fp32", "bf16"] = argument(
        "fp32", "bf16 is faster, but then sampling and scoring round differently."
    )
    eval_every: int = argument(20, "Steps between evaluations on the held-out prompts; 0: only at the ends.")
    save_every: int | None = argument(0, "Steps between checkpoints; 0: only at the end.")
    metric_for_best_model: str = argument("val_reward", "The figure that picks the published model.")

    def settled(self) -> tuple[int, int, int]:
        """Samples a prompt, passes and rows of a batch, once they are decided."""
        assert self.num_generations is not None
        assert self.num_ppo_epochs is not None
        assert self.batch_size is not None
        return self.num_generations, self.num_ppo_epochs, self.batch_size

    def settled_for(self, processes: int) -> PolicyArguments:
        """The same with what depends on the algorithm filled in.

        Raises:
            ScratchError: numbers that don't go together, all of them at once.
        """
        once = self.algorithm == "reinforce"
        generations = self.num_generations or (8 if self.algorithm == "grpo" else 1)
        epochs = self.num_ppo_epochs or (1 if once else 4)
        batch_size, accumulation = self.batch_size, self.gradient_accumulation_steps
        samples = self.prompts_per_rollout * generations
        product = (
            f"{samples} samples (prompts_per_rollout {self.prompts_per_rollout} times num_generations {generations})"
        )
        if samples % processes:
            raise ScratchError(f"{product} can't be shared out among {processes} processes: want a multiple")
        if batch_size is None:
            mine = samples // processes // accumulation
            rows = mine if once or mine % 4 else mine // 4
            batch_size = next(size for size in range(min(64, rows), 0, -1) if rows % size == 0)
            accumulation *= rows // batch_size
        rows = batch_size * processes * accumulation
        wrong = []
        if self.algorithm == "grpo" and generations < 2:
            wrong.append("grpo compares completions of one prompt: num_generations is 1, want at least 2")
        if samples % rows:
            wrong.append(f"{product} are no multiple of a step's {rows} rows")
        elif once and (epochs > 1 or samples > rows):
            wrong.append(
                "reinforce learns once from what the present model wrote: want num_ppo_epochs 1, and all samples in "
                f"one step (batch_size times accumulation {rows}, samples {samples})"
            )
        if wrong:
            raise ScratchError("; ".join(wrong))
        return replace(
            self,
            num_generations=generations,
            num_ppo_epochs=epochs,
            batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
        )


def check_policy(args: PolicyArguments) -> None:
    """Raise ScratchError for numbers that no run can work with, all of them at once."""
    above = ("prompts_per_rollout", "num_generations", "num_ppo_epochs", "max_new_tokens", "temperature", "kl_target")
    numbers = {name: getattr(args, name) for name in (*above, "kl_horizon", "max_kl", "clip_range", "value_clip_range")}
    wrong = [f"{n} is {v}, want more than 0" for n, v in numbers.items() if v is not None and not v > 0]
    shares = {name: getattr(args, name) for name in ("gamma", "gae_lambda")}
    wrong += [f"{n} is {v}, want 0 to 1" for n, v in shares.items() if not 0 <= v <= 1]
    weights = {name: getattr(args, name) for name in ("value_coefficient", "entropy_coefficient", "kl_coefficient")}
    wrong += [f"{n} is {v}, want 0 or more" for n, v in weights.items() if not v >= 0]
    if wrong:
        raise ScratchError("; ".join(wrong))
