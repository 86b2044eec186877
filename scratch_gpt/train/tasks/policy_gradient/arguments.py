"""Arguments of policy-gradient methods, in addition to those of every training run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from ....errors import ScratchError
from ...arguments.default_rates import POLICY_GRADIENT, DefaultRates
from ...arguments.training import GENERAL_TEXT, MAX_BATCH_SIZE, DatasetArguments, TrainingArguments, argument
from ..policy_arguments import PolicyModelArguments


@dataclass
class PromptArguments(DatasetArguments):
    """Data arguments for policy-gradient methods."""

    dataset: str = argument(
        "stories",
        "Prompts: 'stories' (first sentences of built-in stories), a text file with one per line, a table or folder of "
        "tables with a column prompt, text, instruction, messages or conversations, or a Hub dataset.",
        private=True,
    )
    reward: str | None = argument(
        None,
        "Reward: 're:PATTERN' (1 if the regular expression matches anywhere in the completion, else 0), "
        "'MODULE:FUNCTION' or 'FILE.py:FUNCTION' (called with prompts and completions, returns a number for each), or "
        "a text classifier, 'MODEL' or 'MODEL#LABEL' (the probability of the label).",
        private=True,
        training_only=True,
    )
    prompt_column: str | None = argument(None, "Column with the prompt, or a nested field such as meta.question.")
    num_prompts: int = argument(4800, "Number of built-in prompts, at most 1 million.")
    max_prompts: int | None = argument(None, "Maximum number of prompts to read. Default: all.", at_least=1)
    validation_prompts: int = argument(
        200,
        "Number of prompts to evaluate on, from the validation split or, if there is none, held out.",
        at_least=1,
    )


@dataclass
class PolicyArguments(TrainingArguments):
    """Training arguments of policy-gradient methods."""

    default_rates: ClassVar[DefaultRates] = POLICY_GRADIENT
    auto_precision: ClassVar[Literal["auto", "fp32"]] = "fp32"

    output_dir: str = argument(
        "runs/ppo", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    algorithm: Literal["ppo", "reinforce", "grpo"] = argument(
        "ppo",
        "'ppo' (clipped ratio, advantages from a value head), 'grpo' (clipped ratio, advantages relative to the other "
        "completions of the prompt), or 'reinforce' (one update per sample, leave-one-out baseline).",
    )
    prompts_per_rollout: int = argument(256, "Number of prompts per rollout.", more_than=0)
    num_generations: int | None = argument(
        None, "Number of completions per prompt. Default: 1, or 8 for grpo.", more_than=0
    )
    num_ppo_epochs: int | None = argument(
        None, "Number of epochs over each rollout. Default: 4, or 1 for reinforce.", more_than=0
    )
    batch_size: int | None = argument(
        None,
        "Sequences per process, for generation, scoring and training. Default: at most 64. An optimizer step takes a "
        "quarter of the samples by default, and all of them for reinforce.",
        more_than=0,
        at_most=MAX_BATCH_SIZE,
        resumable=True,
    )
    max_new_tokens: int | None = argument(
        None, "Maximum number of tokens of a completion. Default: limited by the model's positions.", more_than=0
    )
    temperature: float = argument(
        1.0, "Sampling temperature; log-probabilities are computed at this temperature too.", more_than=0
    )
    gamma: float = argument(1.0, "Discount factor (ppo).", at_least=0, at_most=1)
    gae_lambda: float = argument(
        0.95, "Lambda of generalised advantage estimation (ppo); 1: Monte Carlo returns.", at_least=0, at_most=1
    )
    clip_range: float = argument(0.2, "Clip range of the probability ratio (ppo, grpo).", more_than=0, finite=False)
    value_clip_range: float = argument(
        0.2, "Clip range of the value function, in units of reward (ppo).", more_than=0, finite=False
    )
    value_coefficient: float = argument(0.1, "Value loss coefficient (ppo).", at_least=0)
    entropy_coefficient: float = argument(0.0, "Entropy bonus coefficient.", at_least=0)
    kl_coefficient: float = argument(
        0.02, "KL penalty coefficient: reward subtracted per nat of KL to the reference model.", at_least=0
    )
    max_kl: float = argument(
        50.0,
        "Stop if the KL to the reference model exceeds this value, in nats per completion.",
        more_than=0,
        finite=False,
    )
    optimizer: Literal["adamw", "muon"] | None = argument(
        None,
        "Optimizer: 'adamw' (default), or 'muon' for the matrices of the blocks with AdamW for all other parameters.",
    )
    learning_rate: float | None = argument(
        None,
        "Peak learning rate of AdamW. Default: 5e-4; 1e-6 to tune a model of over 10 million parameters.",
        more_than=0,
    )
    weight_decay: float = argument(0.0, "Weight decay of matrices; embeddings, norms and biases have none.", at_least=0)
    warmup_steps: int = argument(10, "Steps of linear warm-up of the learning rate.", at_least=0)
    precision: Literal["auto", "fp32", "bf16"] = argument(
        "auto",
        "Mixed precision: 'fp32', 'bf16', or 'auto': that of 'accelerate launch --mixed_precision', else fp32; bf16 is "
        "faster, but sampling and scoring are then rounded differently.",
    )
    general_text: str | None = argument(None, GENERAL_TEXT, private=True)
    eval_every: int = argument(
        20, "Steps between evaluations on the held-out prompts; 0: only at start and end.", at_least=0, resumable=True
    )
    save_every: int | None = argument(0, "Steps between checkpoints; 0: only at the end.", at_least=0, resumable=True)
    metric_for_best_model: str = argument("val_reward", "Metric that selects the published model.")

    def resolved_sizes(self) -> tuple[int, int, int]:
        """Completions per prompt, epochs per rollout and sequences per batch, of what `resolve_defaults` returned."""
        assert self.num_generations is not None
        assert self.num_ppo_epochs is not None
        assert self.batch_size is not None
        return self.num_generations, self.num_ppo_epochs, self.batch_size

    def resolve_defaults(self, processes: int) -> PolicyArguments:
        """Return a copy with the defaults that depend on the algorithm and on the number of processes.

        Raises:
            ScratchError: values are inconsistent; all of them are reported together.
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
            raise ScratchError(f"{product} is not divisible by {processes} processes")
        if batch_size is None:
            mine = samples // processes // accumulation
            rows = mine if once or mine % 4 else mine // 4
            batch_size = next(size for size in range(min(64, rows), 0, -1) if rows % size == 0)
            accumulation *= rows // batch_size
        rows = batch_size * processes * accumulation
        wrong = []
        if self.algorithm == "grpo" and generations < 2:
            wrong.append("grpo compares completions of the same prompt: num_generations is 1, want at least 2")
        if samples % rows:
            wrong.append(f"{product} is not a multiple of the {rows} sequences of a step")
        elif once and (epochs > 1 or samples > rows):
            wrong.append(
                "reinforce makes one on-policy update per rollout: want num_ppo_epochs 1, and all samples in one step "
                f"(batch_size times accumulation {rows}, samples {samples})"
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


ARGUMENTS = (PromptArguments, PolicyModelArguments, PolicyArguments)
