"""The task of classification: predict the label of a text."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from ....data.batching.bucketing import LabelledBatches, drop_words
from ....data.batching.encoding import LabelledTokens
from ....errors import ScratchError
from ....evaluation.classification import classification_scores
from ....metrics import Metric
from ....tokenization.training import starts_word
from ...checkpoints.snapshot import unwrapped
from ...engine.task import Batch, BucketTask

METRICS = (
    Metric("val_accuracy", "accuracy", format=".2%", higher_is_better=True, show="accuracy", plot=True),
    Metric("val_f1", "macro F1", higher_is_better=True, show="F1"),
    Metric("val_loss", "loss", "nats per text"),
)


class Classification(BucketTask):
    """Text classification; the loss is the cross-entropy of the label.

    Args:
        accelerator: processes and device.
        train, validation: tokenised texts with labels.
        label_names: names of the labels, in the order of the model's labels.
        tokenizer: tokenizer of the texts.
        tokens_per_batch: rows times length of a batch of one process.
        seed: seed of the order of the batches and of word dropout.
        balance: weight the loss of each training text by the inverse frequency of its label.
        label_smoothing: label smoothing of the training loss.
        word_dropout: fraction of the words of training texts replaced by `<mask>`, sampled in every epoch.

    Raises:
        ScratchError: word dropout is requested, and the tokenizer has no mask token.
    """

    metrics: tuple[Metric, ...] = METRICS
    unit = "text"

    def __init__(
        self,
        accelerator: Accelerator,
        train: LabelledTokens,
        validation: LabelledTokens,
        label_names: list[str],
        tokenizer: PreTrainedTokenizerFast,
        tokens_per_batch: int,
        seed: int,
        balance: bool = False,
        label_smoothing: float = 0.0,
        word_dropout: float = 0.0,
    ):
        if word_dropout and tokenizer.mask_token_id is None:
            raise ScratchError(f"word_dropout is {word_dropout}, but the tokenizer has no mask token: set it to 0")
        self.accelerator, self.label_names, self.label_smoothing = accelerator, label_names, label_smoothing
        self.seed, self.word_dropout, self.mask_token_id = seed, word_dropout, tokenizer.mask_token_id
        self.special_ids, self.starts_word = list(tokenizer.all_special_ids), None
        if word_dropout:
            self.starts_word = starts_word(tokenizer)
        self.train: LabelledBatches = LabelledBatches(train, tokens_per_batch, tokenizer.pad_token_id, seed)
        self.validation = LabelledBatches(validation, tokens_per_batch, tokenizer.pad_token_id)
        counts = np.bincount(train.labels, minlength=len(label_names)).clip(min=1)
        weights = counts.sum() / (len(counts) * counts) if balance else np.ones(len(counts))
        self.weights = torch.tensor(
            weights, dtype=torch.float32, device=accelerator.device
        )  # their mean over the texts is 1

    def make_batch(self, epoch: int, number: int) -> Batch:
        """Build the batch with this number in the plan of an epoch, with word dropout."""
        batch = self.train.batch(*self.train.plan(epoch)[number])
        if self.word_dropout:
            generator = np.random.default_rng((self.seed, epoch, number))
            ids, mask = batch["input_ids"], int(self.mask_token_id)
            batch["input_ids"] = drop_words(ids, self.word_dropout, mask, self.special_ids, generator, self.starts_word)
        return batch

    def loss(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Sum of the losses of the texts, with class weights and label smoothing."""
        logits = logits_of(model, batch)
        smoothing = self.label_smoothing
        losses = F.cross_entropy(logits, batch["labels"], reduction="none", label_smoothing=smoothing)
        return (losses * self.weights[batch["labels"]]).sum()

    def evaluate(self, model: torch.nn.Module) -> dict[str, float]:
        """Loss (unweighted), accuracy and macro F1 on the validation texts."""
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        own = unwrapped(self.accelerator, model)  # processes have different numbers of batches
        labels_and_predictions: list[tuple[int, int]] = []
        total = 0.0
        with torch.no_grad():
            for entry in self.validation.plan(0)[process::processes]:
                batch = {n: t.to(self.accelerator.device) for n, t in self.validation.batch(*entry).items()}
                logits = logits_of(own, batch)
                total += F.cross_entropy(logits, batch["labels"], reduction="sum").item()
                labels_and_predictions += zip(batch["labels"].tolist(), logits.argmax(-1).tolist(), strict=True)
        if processes > 1:
            total = sum(gather_object([total]))
            labels_and_predictions = gather_object(labels_and_predictions)
        labels, predictions = zip(*labels_and_predictions, strict=True)
        loss = total / len(labels)
        scores = classification_scores(labels, predictions, len(self.label_names))
        return {"val_loss": loss, **{f"val_{name}": value for name, value in scores.items()}}

    def sample(self, model: torch.nn.Module) -> str | None:
        """There is no sample."""
        return None


def logits_of(model: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Logits of the labels (B, K), in float32."""
    return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.float()
