"""Text in, translation out: the pipeline that transformers 5 no longer has, carried by every checkpoint.

pipeline("translation_de_to_en", NAME, trust_remote_code=True)   # anywhere
pipeline("seq2seq-translation", NAME)                            # where this package is imported
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoTokenizer
from transformers.pipelines.base import Pipeline
from transformers.utils import logging

TASK = "seq2seq-translation"  # what it is called where the package is imported
LENGTH_STEP = 32  # default lengths are multiples of this, so that most texts of a batch have the same one
LENGTHS = {"max_length", "max_new_tokens", "generation_config"}

logger = logging.get_logger(__name__)


class ScratchTranslationPipeline(Pipeline):
    """Translates a text, or a list of texts, with an encoder-decoder.

    Settings of `generate`, such as `num_beams`, may be given to the pipeline or to a call. By default a translation
    has at most `longest_translation` tokens. Translations do not depend on `batch_size`, except for rounding. A text
    of more tokens than the model has positions is truncated, with a warning.

    Returns for each text:
        `{"translation_text": str}` or, where `num_return_sequences` is above 1, a list of so many of them, best first.
        A text without any characters but white space has the translation "".
    """

    _load_tokenizer = True  # type: ignore[assignment]
    tokenizer: Any
    model: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.target_tokenizer = self.tokenizer
        if getattr(self.model.config, "target_tokenizer", False):
            name, version = self.model.name_or_path, getattr(self.model.config, "_commit_hash", None)
            where = {"subfolder": "target_tokenizer", **({"revision": version} if version else {})}
            # The tokenizers of these models are plain: no code is needed, even where the model brings its own.
            self.target_tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)

    def _sanitize_parameters(self, **generation: Any) -> tuple[dict, dict, dict]:
        return {}, generation, {}

    def preprocess(self, input_: Any, **parameters: Any) -> dict[str, Any]:
        """A text to `input_ids` and `attention_mask`, each (1, S). One without text has a mask of zeros."""
        if not isinstance(input_, str):
            raise TypeError(f"a text to translate is a string, not {type(input_).__name__}")
        if not input_.strip():
            return {"input_ids": torch.tensor([[self._pad_token_id()]]), "attention_mask": torch.tensor([[0]])}
        longest = self.model.config.max_position_embeddings
        encoded = self.tokenizer(input_, return_tensors="pt", verbose=False)
        if (length := encoded["input_ids"].shape[1]) > longest:
            logger.warning(f"A text of {length} tokens was truncated to the model's {longest} positions.")
            encoded = self.tokenizer(input_, return_tensors="pt", truncation=True, max_length=longest)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _forward(self, input_tensors: dict[str, Any], **generation: Any) -> Any:
        """`input_ids` and `attention_mask`, each (B, S), to `tokens` (B, R, T) of R translations for each text."""
        ids, mask = input_tensors["input_ids"], input_tensors["attention_mask"]
        lengths = mask.sum(dim=1).tolist()  # (B,)
        limits = {n: longest_translation(self.model, n) for n in lengths}
        if LENGTHS & set(generation):
            limits = dict.fromkeys(lengths, 0)  # the caller's, for all texts
        found: dict[int, torch.Tensor] = {}
        for limit in sorted({limits[n] for n in lengths if n}):
            rows = [row for row, n in enumerate(lengths) if n and limits[n] == limit]
            columns = mask[rows].any(dim=0)
            inputs = {"input_ids": ids[rows][:, columns], "attention_mask": mask[rows][:, columns]}
            length = {"max_length": limit, "max_new_tokens": None} if limit else self._within_positions(generation)
            written = self.model.generate(**inputs, **{**generation, **length})  # (rows · R, T)
            found |= dict(zip(rows, written.reshape(len(rows), -1, written.shape[1]), strict=True))
        longest = max((tokens.shape[1] for tokens in found.values()), default=1)
        pad = self._pad_token_id()
        empty = torch.full((self._num_sequences(generation), longest), pad, device=ids.device)
        each = (found.get(row, empty) for row in range(len(ids)))
        return {"tokens": torch.stack([F.pad(tokens, (0, longest - tokens.shape[1]), value=pad) for tokens in each])}

    def postprocess(self, model_outputs: Any, **parameters: Any) -> dict[str, str] | list[dict[str, str]]:
        """`tokens` (1, R, T) to what is returned for a text."""
        written = self.target_tokenizer.batch_decode(model_outputs["tokens"][0], skip_special_tokens=True)
        records = [{"translation_text": text.strip()} for text in written]
        return records[0] if len(records) == 1 else records

    def _within_positions(self, generation: dict[str, Any]) -> dict[str, int]:
        """The lengths that the caller asked for, cut to the model's positions."""
        positions = self.model.config.max_position_embeddings
        most = {"max_length": positions, "max_new_tokens": positions - 1}  # the start token is the first
        return {name: min(generation[name], most[name]) for name in most if generation.get(name) is not None}

    def _num_sequences(self, generation: dict[str, Any]) -> int:
        settings = generation.get("generation_config") or self.model.generation_config
        return generation.get("num_return_sequences") or settings.num_return_sequences or 1

    def _pad_token_id(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((token for token in known if token is not None), 0)


def longest_translation(model: Any, source_length: int) -> int:
    """How many tokens a translation of `source_length` tokens may have by default, the start token included: at least
    twice as many and 17, rounded up to a multiple of `LENGTH_STEP`, within the model's positions."""
    length = -(-(2 * source_length + 17) // LENGTH_STEP) * LENGTH_STEP
    return max(2, min(length, model.config.max_position_embeddings))


__all__ = ["TASK", "ScratchTranslationPipeline"]
