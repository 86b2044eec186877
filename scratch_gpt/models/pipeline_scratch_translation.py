"""Text in, translation out: the pipeline that transformers 5 no longer has, carried by every checkpoint.

pipeline("translation_de_to_en", NAME, trust_remote_code=True)   # anywhere
pipeline("seq2seq-translation", NAME)                            # where this package is imported
"""

from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.pipelines.base import Pipeline

TASK = "seq2seq-translation"  # what it is called where the package is imported


class ScratchTranslationPipeline(Pipeline):
    """Translates a text, or a list of texts, with an encoder-decoder.

    Settings of `generate`, such as `num_beams`, may be given to the pipeline or to a call. By default a translation
    has at most twice as many tokens as its source, and 16.

    Returns for each text:
        `{"translation_text": str}`.
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
            self.target_tokenizer = AutoTokenizer.from_pretrained(name, **where)

    def _sanitize_parameters(self, **generation: Any) -> tuple[dict, dict, dict]:
        return {}, generation, {}

    def preprocess(self, input_: Any, **parameters: Any) -> dict[str, Any]:
        if not isinstance(input_, str):
            raise TypeError(f"a text to translate is a string, not {type(input_).__name__}")
        longest = self.model.config.max_position_embeddings
        encoded = self.tokenizer(input_, return_tensors="pt", truncation=True, max_length=longest)
        return {name: encoded[name] for name in ("input_ids", "attention_mask")}

    def _forward(self, input_tensors: dict[str, Any], **generation: Any) -> Any:
        if not {"max_length", "max_new_tokens", "generation_config"} & set(generation):
            generation["max_length"] = longest_translation(self.model, input_tensors["input_ids"])
            generation["max_new_tokens"] = None
        return {"tokens": self.model.generate(**input_tensors, **generation)}

    def postprocess(self, model_outputs: Any, **parameters: Any) -> dict[str, str]:
        text = self.target_tokenizer.decode(model_outputs["tokens"][0], skip_special_tokens=True)
        return {"translation_text": text.strip()}


def longest_translation(model: Any, input_ids: torch.Tensor) -> int:
    """How many tokens a translation of sources (B, S) may have, the start token included."""
    return max(2, min(2 * input_ids.shape[1] + 17, model.config.max_position_embeddings))


__all__ = ["TASK", "ScratchTranslationPipeline"]
