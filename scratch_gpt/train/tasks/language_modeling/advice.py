"""Settings for a text, by its size: `scratch-gpt plan --dataset FILE`.

The settings are those of runs that were measured. On TinyShakespeare (1.1 MB), a model of 1.0 million parameters with
1,024 subwords needs 2.18 bits per byte after three epochs, a character model of 0.8 million 2.48 after 0.65 million
tokens, and one of 4.8 million 2.11 after 13 epochs, which take 37 minutes on one core (README, results). Between these,
and beyond them, the settings are extrapolated: the model grows with the text and is trained for fewer epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ....data.readers.sources import Source
from ....errors import ScratchError
from ....tokenization.training import BUILDERS, encode_batch, train_tokenizer

SAMPLE_CHARACTERS = 1 << 20  # of which a tokenizer is trained and tokens are counted
MOST_CHARACTERS = 1 << 28  # counted in tables and compressed files, whose size on disk says little
SMALLEST_CONTEXT, FEWEST_ROWS = 8, 8


@dataclass(frozen=True)
class Tier:
    """Settings for texts of up to a size.

    Attributes:
        utf8_bytes: largest size of the text.
        options: arguments of `scratch-gpt train language_modeling`.
        reasons: why these, one sentence each.
    """

    utf8_bytes: float
    options: dict[str, Any]
    reasons: tuple[str, ...]


def _options(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {"preset": "nanochat", **sizes, **more}


TIERS = (
    Tier(
        100e3,
        _options(64, 2, 2, tokenizer="char", context_length=64, batch_size=8, epochs=10, dropout=0.2, eval_every=50),
        (
            "tokenizer: characters, since so little text has too few examples of each subword",
            "model and context: small, since a larger model would memorise the text",
            "epochs: 10 with dropout and frequent evaluations, of which the best model is kept",
            "expect spelling and short phrases, not sense: for that, tune a pretrained model with --init_from",
        ),
    ),
    Tier(
        3e6,
        _options(
            128,
            4,
            2,
            tokenizer="bpe",
            vocab_size=1024,
            context_length=128,
            batch_size=16,
            epochs=3,
            dropout=0.1,
            eval_every=100,
        ),
        (
            "measured: these settings (tinyshakespeare_bpe.yaml) need 2.18 bits per byte of TinyShakespeare, 1.1 MB",
            "tokenizer: 1,024 subwords; a character model there had 2.48 after half as many tokens",
            "epochs: 3 with little dropout; with 4.8 million parameters, characters, 13 epochs and dropout 0.3 "
            "(tinyshakespeare_best.yaml) 2.11, for many times the computation",
        ),
    ),
    Tier(
        15e6,
        _options(256, 6, 4, tokenizer="bpe", vocab_size=2048, context_length=256, batch_size=8, epochs=2, dropout=0.1),
        (
            "extrapolated from TinyShakespeare: five times the text, five times the parameters",
            "tokenizer: 2,048 subwords, since more text has enough examples of each",
            "epochs: 2, since each token of a larger text is new more often",
        ),
    ),
    Tier(
        float("inf"),
        _options(384, 6, 6, tokenizer="bpe", vocab_size=4096, context_length=256, batch_size=8, epochs=1),
        (
            "extrapolated: the largest model that two cores train on tens of megabytes in hours",
            "tokenizer: 4,096 subwords, the default",
            "epochs: 1 without dropout; a second one helps almost as much as new text (Muennighoff et al. 2023, "
            "arXiv:2305.16264), if there is time",
        ),
    ),
)


@dataclass(frozen=True)
class TextSize:
    """The size of a text.

    Attributes:
        utf8_bytes: bytes of the whole text, or of as much of it as was counted.
        complete: whether the whole text was counted.
    """

    utf8_bytes: int
    complete: bool = True


def size_of(source: Source) -> TextSize:
    """Return the size of a text. Plain files are not read; of others, at most `MOST_CHARACTERS` are.

    Args:
        source: the text.
    """
    if not source.origin.built_in and (expected := source.expected_characters()) is not None:
        return TextSize(int(expected))  # the sizes of the files, in bytes
    total = characters = 0
    for piece in source.pieces():
        total += len(piece.text.encode("utf-8", "surrogatepass"))
        characters += len(piece.text)
        if characters > MOST_CHARACTERS:
            return TextSize(total, complete=False)
    return TextSize(total)


def advise(utf8_bytes: int) -> Tier:
    """Return the settings for a text of this size."""
    return next(tier for tier in TIERS if utf8_bytes <= tier.utf8_bytes)


def bytes_per_token(source: Source, tokenizer: Any, vocab_size: int | None) -> tuple[float, int]:
    """Tokenise the beginning of a text.

    Args:
        source: the text.
        tokenizer: kind of a new tokenizer, which is trained on the beginning of the text, or a tokenizer.
        vocab_size: size of a new vocabulary; None is the default of its kind.

    Returns:
        Bytes per token, and the size of the vocabulary.

    Raises:
        ScratchError: the text is blank.
    """
    texts = list(_beginning(source.documents()))
    if not any(text.strip() for text in texts):
        raise ScratchError(
            f"{source.name} has no text: it begins with {SAMPLE_CHARACTERS:,} blank characters, or is empty"
        )
    if isinstance(tokenizer, str) and tokenizer in BUILDERS:
        tokenizer = train_tokenizer(texts, tokenizer, vocab_size)  # type: ignore[arg-type]  # BUILDERS has the kinds
    tokens = sum(map(len, encode_batch(tokenizer, texts)))
    return sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / max(1, tokens), len(tokenizer)


def _beginning(texts: Iterable[str]) -> Iterator[str]:
    left = SAMPLE_CHARACTERS
    for text in texts:
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def fitting_context(context_length: int, train_tokens: int) -> int:
    """Return a context length of which a text has at least `FEWEST_ROWS` rows, halved as often as needed."""
    while context_length > SMALLEST_CONTEXT and context_length * FEWEST_ROWS > train_tokens:
        context_length //= 2
    return context_length
