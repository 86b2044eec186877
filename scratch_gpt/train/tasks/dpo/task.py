"""The task of direct preference optimization (Rafailov et al. 2023, arXiv:2305.18290)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ....data.batching.bucketing import Buckets
from ....data.readers.preferences import Preference
from ....errors import ScratchError
from ....evaluation.processes import sum_named_over_processes
from ....metrics import Metric
from ....rl import losses, rollouts
from ....rl.rollouts import Rollout
from ....tokenization.answers import answer_length, split_answer
from ....tokenization.chat import NO_TEMPLATE, assistant_text, encode_prompt
from ....tokenization.special_tokens import end_token_id
from ...checkpoints.snapshot import unwrapped
from ...engine.task import Batch, BucketTask

METRICS = (
    Metric(
        "val_accuracy",
        "accuracy of the ranking, against the reference model",
        format=".2%",
        higher_is_better=True,
        show="accuracy",
        plot=True,
    ),
    Metric("val_loss", "loss", "nats per pair"),
    Metric("val_margin", "mean margin of the implicit reward", higher_is_better=True, index=False),
)
ROWS = 32  # batch size of scoring with the reference model


class EncodedPairs:
    """Tokenised pairs: a chosen and a rejected completion, each with its prompt.

    Args:
        pairs: texts or messages.
        tokenizer: with `<eos>`, and a chat template for messages.
        max_length: maximum length of prompt and completion together, in tokens; longer pairs are skipped, and counted
            in `long`.
    """

    def __init__(self, pairs: list[Preference], tokenizer: PreTrainedTokenizerFast, max_length: int):
        both = [(self._encode(p, p.chosen, tokenizer), self._encode(p, p.rejected, tokenizer)) for p in pairs]
        kept = [pair for pair in both if max(len(r.prompt) + len(r.completion) for r in pair) <= max_length]
        self.num_too_long = len(both) - len(kept)
        self.chosen, self.rejected = [pair[0] for pair in kept], [pair[1] for pair in kept]
        sizes = [max(len(r.prompt) + len(r.completion) for r in pair) for pair in kept]
        self.lengths = np.asarray(sizes, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.chosen)

    @staticmethod
    def _encode(pair: Preference, side: Any, tokenizer: PreTrainedTokenizerFast) -> Rollout:
        if isinstance(side, str):
            prompt = encode_prompt(tokenizer, pair.prompt)
            completion = [*tokenizer(side, add_special_tokens=False)["input_ids"], end_token_id(tokenizer)]
            return Rollout(prompt, completion, side)
        if tokenizer.chat_template is None:
            raise ScratchError(NO_TEMPLATE)
        messages: Any = pair.prompt
        prompt, answer = split_answer(tokenizer, messages, side)
        return Rollout(prompt, answer[: answer_length(tokenizer, answer)], assistant_text(side[-1]))

    def score(self, model: PreTrainedModel, pad_token_id: int, progress: bool) -> torch.Tensor:
        """Log-probabilities of all completions under a model (2, pairs), in nats: chosen and rejected."""
        both = self.chosen + self.rejected
        found: list[float] = []
        for at in tqdm(range(0, len(both), ROWS), desc="reference", leave=False, disable=not progress or None):
            scored = rollouts.score(model, both[at : at + ROWS], pad_token_id, 1.0, ROWS)
            found += [sum(log_probs) for log_probs, _ in scored]
        return torch.tensor(found).view(2, -1)


class Preferences(BucketTask):
    """Preference pairs; the loss is that of direct preference optimization.

    Args:
        accelerator: processes and device.
        pairs: tokenised pairs, "train" and "validation".
        reference: the reference model; its log-probabilities are computed once, before training.
        pad_token_id: padding token.
        tokens_per_batch: rows times length of a batch of one process, chosen and rejected together.
        seed: seed of the order of the batches.
        beta: strength of the KL constraint to the reference model.
    """

    metrics: tuple[Metric, ...] = METRICS
    unit = "pair"
    evaluates_first = True

    def __init__(
        self,
        accelerator: Accelerator,
        pairs: dict[str, EncodedPairs],
        reference: PreTrainedModel,
        pad_token_id: int,
        tokens_per_batch: int,
        seed: int,
        beta: float,
    ):
        self.accelerator, self.pairs, self.pad_token_id, self.beta = accelerator, pairs, pad_token_id, beta
        main = accelerator.is_main_process
        self.reference = {name: part.score(reference, pad_token_id, main) for name, part in pairs.items()}
        rows = max(1, tokens_per_batch // 2)
        self.train = Buckets(pairs["train"].lengths, rows, seed)
        self.validation = Buckets(pairs["validation"].lengths, rows)
        self._sums: dict[str, float] = {}

    def make_batch(self, epoch: int, number: int) -> Batch:
        """Build the batch with this number in the plan of an epoch."""
        return self._batch("train", *self.train.plan(epoch)[number])

    def _batch(self, part: str, length: int, numbers: np.ndarray) -> Batch:
        """Rows (2B, T), the chosen completions first, and the reference's log-probabilities (2B,). The inputs are all
        of the `length` tokens but the last."""
        pairs = self.pairs[part]
        both = [pairs.chosen[i] for i in numbers] + [pairs.rejected[i] for i in numbers]
        rows = rollouts.pad_rollouts(both, self.pad_token_id, length - 1)
        return {**rows, "reference": self.reference[part][:, torch.from_numpy(numbers)].flatten()}

    def count(self, batch: Batch) -> int:
        """Number of pairs of the batch."""
        return len(batch["input_ids"]) // 2

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the DPO losses of the pairs; adds their metrics to those of training."""
        loss, margins = self._losses(model, batch)
        found = {"accuracy": (margins > 0).sum().item(), "margin": margins.sum().item(), "pairs": float(len(margins))}
        self._sums = {name: self._sums.get(name, 0.0) + value for name, value in found.items()}
        return loss

    def _losses(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The sum of losses, and the margin of the implicit reward of each pair (B,)."""
        logits = model(input_ids=batch["input_ids"], use_cache=False).logits
        log_probs = losses.token_log_probs(logits, batch["labels"]).sum(dim=1)  # (2B,)
        (chosen, rejected), (ref_chosen, ref_rejected) = log_probs.chunk(2), batch["reference"].chunk(2)
        margins = self.beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
        loss = losses.dpo_loss(chosen, rejected, ref_chosen, ref_rejected, self.beta)
        return loss.sum(), margins.detach()

    def training_metrics(self) -> dict[str, float]:
        """Accuracy of the ranking and mean margin since the last call, of all processes."""
        sums, self._sums = sum_named_over_processes(self.accelerator, self._sums), {}
        pairs = sums.pop("pairs", 0.0)
        return {name: value / pairs for name, value in sums.items()} if pairs else {}

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss, accuracy of the ranking relative to the reference model, and mean margin on the held-out pairs."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        own = unwrapped(self.accelerator, model)  # processes have different numbers of batches
        found: list[tuple[float, float]] = []  # whether each pair is ranked correctly, and its margin
        total = 0.0
        with torch.no_grad():
            for entry in self.validation.plan(0)[process::processes]:
                batch = {n: t.to(self.accelerator.device) for n, t in self._batch("validation", *entry).items()}
                loss, margins = self._losses(own, batch)
                total += loss.item()
                found += [(float(margin > 0), margin.item()) for margin in margins]
        if processes > 1:
            total, found = sum(gather_object([total])), gather_object(found)
        accuracy, margin = (sum(values) / len(found) for values in zip(*found, strict=True))
        return {"val_loss": total / len(found), "val_accuracy": accuracy, "val_margin": margin}

    def sample(self, model: torch.nn.Module) -> str | None:
        """There is no sample."""
        return None
