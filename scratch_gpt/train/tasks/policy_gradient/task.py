"""The task of policy-gradient methods (REINFORCE, PPO, GRPO): sample completions, score them, update the policy.

All processes have the same rollouts of a round, and each takes its rows of a step from them. A round is sampled with
the weights at its start, with a seed that is a function of (seed, round). A resumed run therefore continues with the
rollouts of the checkpoint, or samples the next ones as the uninterrupted run would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from statistics import fmean
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....data.readers.prompts import Prompt
from ....errors import TrainingError
from ....evaluation.processes import sum_named_over_processes
from ....evaluation.story_report import score_stories
from ....metrics import Metric, Panel
from ....rl import losses, rollouts
from ....rl.rewards import Reward, judge
from ....rl.rollouts import Rollout
from ....tokenization.chat import encode_prompt
from ...checkpoints.snapshot import unwrapped
from ...engine.sharding import weights_for_evaluation
from ...engine.task import Batch, DataState
from .arguments import PolicyArguments

METRICS = (
    Metric("val_reward", "mean reward", format=".3f", higher_is_better=True, show="reward"),
    Metric("val_kl", "KL to the reference model", "nats per completion", format=".2f", show="KL"),
    Metric("val_loss", "loss (KL penalty minus reward)", index=False),
    Metric(
        "val_distinct_2",
        "distinct bigrams, fraction",
        format=".3f",
        higher_is_better=True,
        show="distinct-2",
        index=False,
    ),
)
DETAILS = (
    Metric("val_reference_perplexity", "perplexity under the reference model"),
    Metric("val_length", "mean length", "tokens per completion"),
    Metric(
        "val_parsed",
        "sentences in the grammar of the stories, fraction",
        format=".1%",
        higher_is_better=True,
        show="parsed",
    ),
)
PANELS = (
    Panel("reward", "reward", "val_reward"),
    Panel("KL to the reference model, nats per completion", "kl", "val_kl"),
    Panel("entropy, nats per token", "entropy"),
    Panel("distinct bigrams, fraction", held_out="val_distinct_2"),
    Panel("clipped tokens, fraction", "clip_fraction"),
    Panel("tokens per completion", "length", "val_length"),
)
SCORES = {"old_log_probs": "log_probs", "reference_log_probs": "reference_log_probs", "old_values": "values"}


class PolicyGradient:
    """A policy that generates, a reward that scores, and a reference model that the policy should stay close to.

    Args:
        accelerator: processes and device.
        policy: model to train, not yet prepared by `accelerator`; with a value head for PPO.
        reference: model before training.
        tokenizer: tokenizer of both.
        reward: reward function of a completion.
        prompts: "train" and "validation".
        args: training arguments, with their defaults resolved.
        of_stories: whether to also parse completions with the grammar of the built-in stories.

    Raises:
        ScratchError: prompts and completions don't fit into the model's positions.
    """

    metrics: tuple[Metric, ...] = METRICS
    details: tuple[Metric, ...] = DETAILS
    panels: tuple[Panel, ...] = PANELS
    unit = "token"
    evaluates_first = True
    fixed_shape = False
    evaluates_whole = True

    def __init__(
        self,
        accelerator: Accelerator,
        policy: PreTrainedModel,
        reference: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        reward: Reward,
        prompts: dict[str, list[Prompt]],
        args: PolicyArguments,
        of_stories: bool = False,
    ):
        self.accelerator, self.policy, self.tokenizer, self.reward = accelerator, policy, tokenizer, reward
        self.reference = reference.to(accelerator.device).eval().requires_grad_(False)
        self.prompts, self.args, self.of_stories = prompts, args, of_stories
        self.ids = {n: [encode_prompt(tokenizer, p) for p in part] for n, part in prompts.items()}
        everything = [ids for part in self.ids.values() for ids in part]
        self.max_new_tokens = rollouts.max_completion_length(
            everything, policy.config.max_position_embeddings, args.max_new_tokens
        )
        self.pad_token_id = rollouts.pad_token_id_of(tokenizer)
        self.num_generations, self.num_ppo_epochs, self.batch_size = args.resolved_sizes()
        self.samples = args.prompts_per_rollout * self.num_generations
        self.rows_of_batch = self.batch_size * accelerator.num_processes
        self.round: list[Rollout] = []  # rollouts of the current round, until all of its steps are taken
        self.first: dict[str, float] = {}  # metrics of the first evaluation, before training
        self._sums: dict[str, float] = {}
        self._of_round: dict[str, float] = {}

    # Data: prompts and rollouts.

    def batches_left(self, state: DataState, epochs: float) -> int:
        """Number of batches per process from `state` to the end of `epochs`."""
        rounds = max(1, round(epochs * len(self.prompts["train"]) / self.args.prompts_per_rollout))
        left = (rounds - state.epoch) * self.num_ppo_epochs * self.samples - state.row
        return max(0, -(-left // self.rows_of_batch))

    def batches(self, state: DataState) -> Iterator[tuple[Batch, DataState]]:
        """Iterate over batches of rollouts. The `epoch` of a state counts rounds, and `row` the rows of the round that
        all processes have trained on."""
        number, row = state.epoch, state.row
        while True:
            if row == 0:
                self.round = self._sample_round(number)
            batch = self._batch(number, row)
            row += self.rows_of_batch
            if row >= self.num_ppo_epochs * self.samples:
                number, row, self.round = number + 1, 0, []
            yield batch, DataState(number, row)

    def _batch(self, number: int, row: int) -> Batch:
        """The batch that starts at row `row` of a round, whose samples have a different order in each epoch over it."""
        epoch, start = divmod(row, self.samples)
        order = np.random.default_rng((self.args.seed, number, epoch)).permutation(self.samples)
        begin = start + self.accelerator.process_index * self.batch_size
        mine = [self.round[i] for i in order[begin : begin + self.batch_size]]
        targets = {"advantages": "advantages", "returns": "returns"}
        return rollouts.pad_rollouts(mine, self.pad_token_id, **SCORES, **targets)

    def _sample_round(self, number: int) -> list[Rollout]:
        """Sample completions, score them, and compute the advantage of each token.

        Raises:
            TrainingError: the policy has diverged from the reference.
        """
        train, num_prompts = self.prompts["train"], self.args.prompts_per_rollout
        stream = (num_prompts * number + i for i in range(num_prompts))
        chosen = [self._shuffled(at // len(train))[at % len(train)] for at in stream]
        indices = [index for index in chosen for _ in range(self.num_generations)]
        with weights_for_evaluation(self.policy, whole=True):
            found = self._sample("train", indices, (self.args.seed, number))
        kl = fmean(rollout.kl for rollout in found)
        if not kl <= self.args.max_kl:
            raise TrainingError(
                f"the KL to the reference is {kl:.1f} nats per completion, more than max_kl {self.args.max_kl:g}: the "
                "policy has collapsed, and output_dir keeps the best one that was evaluated; lower the learning rate, "
                "or raise --kl_coefficient"
            )
        self._set_advantages(found)
        tokens = [len(rollout.completion) for rollout in found]
        self._of_round = {
            "reward": fmean(rollout.reward for rollout in found),
            "kl": kl,
            "length": fmean(tokens),
            "samples": self.samples * (number + 1),
        }
        return found

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.args.seed, epoch)).permutation(len(self.prompts["train"]))

    def _sample(self, part: str, indices: list[int], seed: tuple[int, int]) -> list[Rollout]:
        """Sample completions of prompts, with rewards and log-probabilities; divided among the processes."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        training = self.policy.training
        self.policy.eval()
        # A seed for each completion, so that the number of processes does not matter.
        seeds = np.random.SeedSequence(seed).generate_state(len(indices)).tolist()[process::processes]
        with torch.compiler.set_stance("force_eager"):
            mine = indices[process::processes]
            ids = [self.ids[part][index] for index in mine]
            found = rollouts.generate(
                self.policy, self.tokenizer, ids, self.max_new_tokens, self.args.temperature, self.batch_size, seeds
            )
            head = getattr(self.policy, "value_head", None)
            scoring = (self.pad_token_id, self.args.temperature, self.batch_size)
            own = rollouts.score(self.policy, found, *scoring, head)
            reference = rollouts.score(self.reference, found, *scoring)
        rewards = judge(self.reward, [self.prompts[part][i] for i in mine], [rollout.text for rollout in found])
        for rollout, reward, (log_probs, values), (others, _) in zip(found, rewards, own, reference, strict=True):
            rollout.reward, rollout.log_probs, rollout.reference_log_probs = reward, log_probs, others
            rollout.values = values or [0.0] * len(log_probs)
        self.policy.train(training)
        if processes == 1:
            return found
        gathered = gather_object([found])
        return [gathered[i % processes][i // processes] for i in range(len(indices))]

    def _set_advantages(self, found: list[Rollout]) -> None:
        """Compute advantages and returns of each token."""
        rows = rollouts.pad_rollouts(found, self.pad_token_id, **SCORES)
        mask = rows["labels"] != rollouts.IGNORED
        scores = torch.tensor([rollout.reward for rollout in found])
        penalty = self.args.kl_coefficient * (rows["old_log_probs"] - rows["reference_log_probs"])
        if self.args.algorithm == "ppo":
            rewards = -penalty
            last = mask.cumsum(dim=1).argmax(dim=1)
            rewards[torch.arange(len(found)), last] += scores
            advantages, returns = losses.generalized_advantages(
                rewards, rows["old_values"], mask, self.args.gamma, self.args.gae_lambda
            )
            advantages = losses.whiten(advantages, mask)
        else:
            if self.args.algorithm == "grpo":  # its KL penalty is a term of the loss
                relative = losses.group_advantages(scores, self.num_generations)
            else:
                relative = losses.leave_one_out(scores - penalty.masked_fill(~mask, 0.0).sum(dim=1))
            advantages = returns = relative[:, None].expand(mask.shape)
        for row, rollout in enumerate(found):
            rollout.advantages, rollout.returns = advantages[row][mask[row]].tolist(), returns[row][mask[row]].tolist()

    # Loss.

    def count(self, batch: Batch) -> int:
        """Number of completion tokens of the batch."""
        return int((batch["labels"] != rollouts.IGNORED).sum())

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the losses of the tokens of the completions; adds their metrics to those of training."""
        args, mask = self.args, batch["labels"] != rollouts.IGNORED
        with_values = args.algorithm == "ppo"
        outputs = model(input_ids=batch["input_ids"], output_hidden_states=with_values, use_cache=False)
        log_probs = losses.token_log_probs(outputs.logits, batch["labels"], args.temperature)
        with torch.set_grad_enabled(args.entropy_coefficient > 0):
            entropy = losses.token_entropy(outputs.logits, args.temperature)
        metrics = {"entropy": entropy}
        if args.algorithm == "reinforce":
            loss = losses.policy_gradient_loss(log_probs, batch["advantages"])
        else:
            loss, clipped = losses.clipped_loss(log_probs, batch["old_log_probs"], batch["advantages"], args.clip_range)
            metrics |= {"clip_fraction": clipped, "kl_of_step": losses.kl_estimate(batch["old_log_probs"], log_probs)}
        metrics["policy_loss"] = loss
        if with_values:
            own: Any = unwrapped(self.accelerator, model)
            values = own.value_head(outputs.hidden_states[-1])
            error = losses.value_loss(values, batch["old_values"], batch["returns"], args.value_clip_range)
            metrics["value_loss"] = error
            loss = loss + args.value_coefficient * error
        if args.algorithm == "grpo":
            loss = loss + self.args.kl_coefficient * losses.kl_estimate(log_probs, batch["reference_log_probs"])
        if args.entropy_coefficient:
            loss = loss - args.entropy_coefficient * entropy
        self._count(metrics, mask)
        return loss.masked_fill(~mask, 0.0).sum()

    def _count(self, metrics: dict[str, torch.Tensor], mask: torch.Tensor) -> None:
        for name, value in {**metrics, "tokens": mask}.items():
            total = value.detach().float().masked_fill(~mask, 0.0).sum().item()
            self._sums[name] = self._sums.get(name, 0.0) + total

    def training_metrics(self) -> dict[str, float]:
        """Means over the tokens of all processes since the last call, and metrics of the last round."""
        sums, self._sums = sum_named_over_processes(self.accelerator, self._sums), {}
        tokens = sums.pop("tokens", 0.0)
        means = {name: total / tokens for name, total in sums.items()} if tokens else {}
        return {**self._of_round, **means}

    # Evaluation.

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Metrics of one completion of each held-out prompt, sampled with a fixed seed. The loss is the KL penalty
        minus the reward."""
        found = self._sample("validation", list(range(len(self.prompts["validation"]))), (self.args.seed, 2**31))
        metrics = {f"val_{name}": value for name, value in rollouts.metrics_of(found).items()}
        metrics["val_loss"] = self.args.kl_coefficient * metrics["val_kl"] - metrics["val_reward"]
        if self.of_stories:
            metrics["val_parsed"] = score_stories([rollout.text for rollout in found], "").parsed
        self.first = self.first or dict(metrics)
        return metrics | {f"{name}_before": value for name, value in self.first.items()}

    def sample(self, model: torch.nn.Module) -> str | None:
        """A completion of the first held-out prompt."""
        found = self._sample("validation", [0], (self.args.seed, 2**31 + 1))[0]
        return f"… {found.text.strip()} (reward {found.reward:.3g})"

    def state_dict(self) -> dict[str, Any]:
        """The first evaluation's metrics, those of the round, and the rollouts of the current round."""
        kept = [asdict(rollout) for rollout in self.round]
        return {"before": self.first, "of_round": self._of_round, "round": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.first, self._of_round = state["before"], state["of_round"]
        self.round = [Rollout(**kept) for kept in state["round"]]
