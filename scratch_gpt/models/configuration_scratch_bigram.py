"""The config of the bigram model."""

import math
from dataclasses import field

from .compatibility import BaseConfig, strict

AUTO_MAP = {
    "AutoConfig": "configuration_scratch_bigram.ScratchBigramConfig",
    "AutoModelForCausalLM": "modeling_scratch_bigram.ScratchBigramForCausalLM",
}


@strict
class ScratchBigramConfig(BaseConfig):
    """Config of `ScratchBigramForCausalLM`.

    Args:
        vocab_size: number of tokens, at least the tokenizer's length.
        initializer_range: standard deviation of newly initialized weights.
        max_position_embeddings: length in tokens of the training sequences; the model itself has no positions.
    """

    model_type = "scratch_bigram"

    vocab_size: int = 256
    initializer_range: float = 0.02
    max_position_embeddings: int = 1024
    use_cache: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    auto_map: dict = field(default_factory=lambda: dict(AUTO_MAP))

    def validate_architecture(self):
        """Check the values of all fields.

        Raises:
            ValueError: if a value is invalid.
        """
        if self.vocab_size < 1:
            raise ValueError(f"vocab_size is {self.vocab_size}, want at least 1")
        if not 0 <= self.initializer_range < math.inf:
            raise ValueError(f"initializer_range is {self.initializer_range}, want 0 or more")


__all__ = ["AUTO_MAP", "ScratchBigramConfig"]
