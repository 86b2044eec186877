"""The translation pipeline, which transformers 5 no longer has; it is saved with every checkpoint.

pipeline("translation_de_to_en", NAME, trust_remote_code=True)   # anywhere
pipeline("seq2seq-translation", NAME)                            # where this package is imported
"""

from typing import Any

import torch
from torch.nn import functional as F
from transformers import AutoTokenizer
from transformers.pipelines.base import Pipeline
from transformers.utils import logging

TASK = "seq2seq-translation"  # the name of the pipeline if this package is imported
LENGTH_STEP = 32  # default lengths are multiples of this, so that most texts of a batch have the same length
LENGTHS = {"max_length", "max_new_tokens", "generation_config"}

logger = logging.get_logger(__name__)


class ScratchTranslationPipeline(Pipeline):
    """Translates a text, or a list of texts, with an encoder-decoder.

    Options of `generate`, such as `num_beams`, can be passed to the pipeline or to a call. By default a translation has
    at most `longest_translation` tokens. Translations do not depend on `batch_size`, except for rounding. A text of
    more tokens than the model has positions is truncated, with a warning.

    Returns for each text:
        `{"translation_text": str}` or, if `num_return_sequences` is above 1, a list of that many, best first. The
        translation of an empty text, or of one of white space only, is "".
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
            # These tokenizers need no custom code, even if the model does.
            self.target_tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **where)

    def _sanitize_parameters(self, **generation: Any) -> tuple[dict, dict, dict]:
        return {}, generation, {}

    def preprocess(self, input_: Any, **parameters: Any) -> dict[str, Any]:
        """Tokenize a text to `input_ids` and `attention_mask`, each (1, S); the mask of an empty text is 0.

        Raises:
            TypeError: if the input is not a string.
        """
        if not isinstance(input_, str):
            raise TypeError(f"the text to translate must be a string, not {type(input_).__name__}")
        if not input_.strip():
            return {"input_ids": torch.tensor([[self._pad_token_id()]]), "attention_mask": torch.tensor([[0]])}
        positions = self.model.config.max_position_embeddings
        encoded = self.tokenizer(input_, return_tensors="pt", verbose=False)
        if (length := encoded["input_ids"].shape[1]) > positions:
            logger.warning(f"A text of {length} tokens was truncated to the model's {positions} positions.")
            encoded = self.tokenizer(input_, return_tensors="pt", truncation=True, max_length=positions)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _forward(self, input_tensors: dict[str, Any], **generation: Any) -> Any:
        """Generate R translations per text: `input_ids` and `attention_mask`, each (B, S), to `tokens` (B, R, T)."""
        ids, mask = input_tensors["input_ids"], input_tensors["attention_mask"]
        lengths = mask.sum(dim=1).tolist()  # (B,)
        limits = {n: longest_translation(self.model, n) for n in lengths}
        if LENGTHS & set(generation):
            limits = dict.fromkeys(lengths, 0)  # the caller's limit, for all texts
        translations: dict[int, torch.Tensor] = {}
        for limit in sorted({limits[n] for n in lengths if n}):
            rows = [row for row, n in enumerate(lengths) if n and limits[n] == limit]
            columns = mask[rows].any(dim=0)
            inputs = {"input_ids": ids[rows][:, columns], "attention_mask": mask[rows][:, columns]}
            length = {"max_length": limit, "max_new_tokens": None} if limit else self._within_positions(generation)
            generated = self.model.generate(**inputs, **{**generation, **length})  # (rows * R, T)
            translations |= dict(zip(rows, generated.reshape(len(rows), -1, generated.shape[1]), strict=True))
        longest = max((tokens.shape[1] for tokens in translations.values()), default=1)
        pad = self._pad_token_id()
        empty = torch.full((self._num_sequences(generation), longest), pad, device=ids.device)
        in_order = (translations.get(row, empty) for row in range(len(ids)))
        padded = [F.pad(tokens, (0, longest - tokens.shape[1]), value=pad) for tokens in in_order]
        return {"tokens": torch.stack(padded)}

    def postprocess(self, model_outputs: Any, **parameters: Any) -> dict[str, str] | list[dict[str, str]]:
        """Decode `tokens` (1, R, T) to the result for a text."""
        texts = self.target_tokenizer.batch_decode(model_outputs["tokens"][0], skip_special_tokens=True)
        records = [{"translation_text": text.strip()} for text in texts]
        return records[0] if len(records) == 1 else records

    def _within_positions(self, generation: dict[str, Any]) -> dict[str, int]:
        """The requested lengths, limited to the model's positions."""
        positions = self.model.config.max_position_embeddings
        limits = {"max_length": positions, "max_new_tokens": positions - 1}  # the start token takes one position
        return {name: min(generation[name], limits[name]) for name in limits if generation.get(name) is not None}

    def _num_sequences(self, generation: dict[str, Any]) -> int:
        settings = generation.get("generation_config") or self.model.generation_config
        return generation.get("num_return_sequences") or settings.num_return_sequences or 1

    def _pad_token_id(self) -> int:
        candidates = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((token for token in candidates if token is not None), 0)


def longest_translation(model: Any, source_length: int) -> int:
    """Default maximum length in tokens of the translation of a source of `source_length` tokens, including the start
    token: 2 * source_length + 17, rounded up to a multiple of `LENGTH_STEP`, limited to the model's positions."""
    length = -(-(2 * source_length + 17) // LENGTH_STEP) * LENGTH_STEP
    return max(2, min(length, model.config.max_position_embeddings))


__all__ = ["TASK", "ScratchTranslationPipeline"]
