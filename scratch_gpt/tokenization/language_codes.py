"""Language codes: tokens such as `de_DE`, with which the tokenizers of multilingual translators (mBART) mark the
language of a text. Which side of the text they are on is the tokenizer's: `de_DE text </s>` for mBART-50, `text </s>
de_DE` for mBART."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..errors import ScratchError
from .special_tokens import surrounding_tokens


def has_language_codes(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer marks texts with their language."""
    return hasattr(tokenizer, "set_tgt_lang_special_tokens")


def language_code(tokenizer: PreTrainedTokenizerFast, language: str) -> str:
    """Return the code of a language: `de_DE` for "de" or "de_DE".

    Raises:
        ScratchError: the tokenizer has no code for the language.
    """
    known = sorted(token for token in tokenizer.all_special_tokens if token[2:3] == "_" and len(token) == 5)
    found = [code for code in known if language in (code, code[:2])]
    if not found:
        raise ScratchError(f"the tokenizer has no code for the language {language!r}: choose one of {', '.join(known)}")
    return found[0]


def set_language_codes(tokenizer: PreTrainedTokenizerFast, source_lang: str, target_lang: str) -> None:
    """Let the tokenizer mark sources and targets with the codes of these languages, also after it is saved.

    Raises:
        ScratchError: the tokenizer has no code for one of them.
    """
    tokenizer_with_codes: Any = tokenizer
    codes = {"src_lang": language_code(tokenizer, source_lang), "tgt_lang": language_code(tokenizer, target_lang)}
    for name, code in codes.items():
        setattr(tokenizer_with_codes, name, code)
    tokenizer.init_kwargs.update(codes)


@contextmanager
def target_mode(tokenizer: PreTrainedTokenizerFast) -> Iterator[None]:
    """Inside the block, the tokenizer adds the special tokens of a target. Without language codes, they are the same as
    those of a source."""
    if not has_language_codes(tokenizer):
        yield
        return
    tokenizer_with_codes: Any = tokenizer
    tokenizer_with_codes.set_tgt_lang_special_tokens(tokenizer_with_codes.tgt_lang or tokenizer_with_codes.src_lang)
    try:
        yield
    finally:
        tokenizer_with_codes.set_src_lang_special_tokens(tokenizer_with_codes.src_lang)


def start_with_language(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Let translations start as the targets of the tokenizer do, with the code of the target language.

    The decoder's inputs are the targets with the last token moved to the start (Liu et al. 2020, arXiv:2001.08210,
    section 2.2). So generation starts from the code if that is the last token (mBART); if the code is before the text
    (mBART-50), it is also the first token that is generated.
    """
    config: Any = model.generation_config
    with target_mode(tokenizer):
        before, after = surrounding_tokens(tokenizer)
    model.config.decoder_start_token_id = config.decoder_start_token_id = after[-1]
    config.forced_bos_token_id = before[0] if before else None
