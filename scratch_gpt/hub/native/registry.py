"""All native twins. Where several classes of transformers can express a model, the first one is used, unless the
weights were imported from another one of them."""

from __future__ import annotations

from . import bart, bert, distilbert, experts, gemma, gpt, gpt_like, llama, marian, modernbert, t5
from .twin import Twin

TWINS: tuple[Twin, ...] = (
    *(*gpt.TWINS, *llama.TWINS, *gemma.TWINS, *gpt_like.TWINS, *experts.TWINS),
    *(*marian.TWINS, *bart.TWINS, *t5.TWINS),
    *(*bert.TWINS, *distilbert.TWINS, *modernbert.TWINS),
)
