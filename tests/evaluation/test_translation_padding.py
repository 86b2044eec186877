"""The padding token of the translation pipeline, if its tokenizer has none."""

import pytest
from helpers.models import tiny_seq2seq

from scratch_gpt import train_tokenizer
from scratch_gpt.models.pipeline_scratch_translation import ScratchTranslationPipeline


@pytest.mark.parametrize(("missing", "expected"), [((), "<pad>"), (("pad",), "<eos>"), (("pad", "eos"), None)])
def test_padding_is_the_end_of_a_text_or_else_the_first_token(missing, expected):
    tokenizer = train_tokenizer(["a b c"], "char", template="seq2seq", model_max_length=64)
    wanted = 0 if expected is None else tokenizer.convert_tokens_to_ids(expected)
    for name in missing:
        setattr(tokenizer, f"{name}_token", None)
    model = tiny_seq2seq("vaswani2017", source_lang="de", target_lang="en")
    pipeline = ScratchTranslationPipeline(model=model, tokenizer=tokenizer)
    assert pipeline.preprocess("  ")["input_ids"].tolist() == [[wanted]]
