"""Whether a language model is good for its text: its bits per byte beside those of simple methods, and whether it
memorises the text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table
from transformers import PreTrainedTokenizerBase

from ..data.batching.token_shards import Shard
from ..errors import ScratchError
from ..metrics import Metric
from ..tokenization.special_tokens import first_token_id
from .baselines import VALIDATION_BYTES, Baseline, bytes_per_token, measure_baselines
from .memorisation import Memorisation, measure_memorisation
from .positions import generate, new_tokens_within

SAMPLES, NEW_TOKENS = 8, 256
BITS = "bits per byte"
# Numbers of a report, which are saved with the best evaluation of a run.
METRICS = (
    Metric("baseline_untrained", "the same model, untrained", BITS, index=False),
    Metric("baseline_unigram", "unigram table of the tokens", BITS, index=False),
    Metric("baseline_bigram", "bigram table of the tokens", BITS, index=False),
    Metric("baseline_gzip", "gzip", BITS, index=False),
    Metric("baseline_xz", "xz", BITS, index=False),
    Metric("memorisation_train_loss", "loss on a piece of the training text", "nats per token", index=False),
    Metric("memorisation_val_loss", "loss on as much validation text", "nats per token", index=False),
    Metric("memorisation_copied", "longest passage of samples in the training text", "characters", ",", index=False),
    Metric("memorisation_usual", "longest such passage of as much held-out text", "characters", ",", index=False),
)


@dataclass(frozen=True)
class TextReport:
    """A language model beside simple methods.

    Attributes:
        bits_per_byte: of the model, on the whole validation text.
        baselines: of the simple methods.
        cut: note on a validation text that only the model was scored on as a whole, or "".
        entropy: of the text in bits per byte, if it is known.
        memorisation: how well the model knows its training text, if that is known.
    """

    bits_per_byte: float
    baselines: list[Baseline]
    cut: str = ""
    entropy: float | None = None
    memorisation: Memorisation | None = None

    def numbers(self) -> dict[str, float]:
        """Return what was measured, by the names of `METRICS`."""
        found = {f"baseline_{each.name}": each.bits_per_byte for each in self.baselines}
        numbers = {name: value for name, value in found.items() if value is not None}
        if (known := self.memorisation) is not None:
            numbers["memorisation_train_loss"] = known.train_loss
            numbers["memorisation_val_loss"] = known.validation_loss
            if known.samples:
                numbers |= {"memorisation_copied": len(known.copied), "memorisation_usual": known.usual}
        return numbers

    def reading(self) -> str:
        """A sentence that compares the model with the best baseline."""
        measured = [(each.bits_per_byte, each) for each in self.baselines if each.bits_per_byte is not None]
        if not measured:
            return f"The model needs {self.bits_per_byte:.3f} bits per byte; no baseline could be measured."
        best, method = min(measured, key=lambda pair: pair[0])
        name = f"the {method.title}" if "table" in method.title else method.title
        if best <= 0:
            return (
                f"For {name} the validation text is a repetition of the training text: no model can be measured on it."
            )
        ratio = self.bits_per_byte / best
        if ratio < 1:
            return f"The model needs {1 - ratio:.0%} fewer bits than {name}, the best of the others."
        more = f"{ratio - 1:.0%} more bits than" if ratio < 2 else f"{ratio:.1f} times as many bits as"
        return (
            f"The model needs {more} {name}: it has learned too little of the text so far. Train it longer, or see "
            "'scratch-gpt plan --dataset FILE'."
        )

    def print(self, console: Any) -> None:
        """Print the table, the reading of it, and whether the model memorises its text.

        Args:
            console: a `SafeConsole`.
        """
        title = f"Bits per byte of the validation text{self.cut} (lower is better)"
        table = Table("method", "bits/byte", "measured with", title=title, title_justify="left")
        for each in self.baselines:
            shown = "" if each.bits_per_byte is None else f"{each.bits_per_byte:.3f}"
            table.add_row(each.title, shown, each.note)
        table.add_row("this model", f"{self.bits_per_byte:.3f}", "every token of the validation text", style="bold")
        if self.entropy is not None:
            table.add_row("entropy of the text", f"{self.entropy:.3f}", "known of generated text: the lower bound")
        console.print(table)
        console.print(self.reading())
        if self.memorisation is not None:
            for line in self.memorisation.lines():
                console.print(f"memorisation: {line}")


def report_on_text(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    shards: dict[str, Shard],
    row_length: int,
    bits_per_byte: float,
    samples: list[str],
    entropy: float | None = None,
) -> TextReport:
    """Compare a language model with simple methods on a text.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: of the model.
        shards: "validation" and, if the training text is known, "train".
        row_length: length of a row in tokens.
        bits_per_byte: of the model, on the validation text.
        samples: texts that the model generated.
        entropy: of the validation text in nats per token, if it is known.
    """
    validation = shards["validation"]
    baselines = measure_baselines(model, tokenizer, shards, row_length)
    known = measure_memorisation(model, tokenizer, shards, row_length, samples) if "train" in shards else None
    size = validation.utf8_bytes
    note = (
        f", whose first {VALIDATION_BYTES:,} of {size:,} bytes all other methods read"
        if size > VALIDATION_BYTES
        else ""
    )
    bits = None if entropy is None else entropy / math.log(2) * bytes_per_token(validation)
    return TextReport(bits_per_byte, baselines, note, bits, known)


def sample_texts(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Generate a few texts from the token that starts a text; none if the model generates no text.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: of the model.
    """
    start = torch.full((SAMPLES, 1), first_token_id(tokenizer), device=model.device)
    length = new_tokens_within(model, 1, NEW_TOKENS)
    if length < 1:
        return []
    options = {"input_ids": start, "attention_mask": torch.ones_like(start), "max_new_tokens": length}
    with torch.random.fork_rng():  # the random state of the caller is restored
        torch.manual_seed(0)
        try:
            tokens = generate(model, **options, do_sample=True)
        except ScratchError:  # the comparison of losses does not need samples, and says that there are none
            return []
    return [str(text) for text in tokenizer.batch_decode(tokens[:, 1:], skip_special_tokens=True)]
