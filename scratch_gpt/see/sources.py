"""Excerpts of the models' source for the page: the lines that compute a number, and the paper that the formula is from.

The lines are found in the source by the names of functions and the beginnings of statements. A name that is not found
is an error, so that a renamed function can't leave a wrong excerpt behind.
"""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parents[1]


class Paper(NamedTuple):
    """A paper: authors, year and title, and its number on arXiv."""

    title: str
    arxiv: str

    @property
    def url(self) -> str:
        """Its address."""
        return f"https://arxiv.org/abs/{self.arxiv}"


class Place(NamedTuple):
    """Lines of a source file.

    Attributes:
        file: a file of `folder`.
        definition: a function, or a method as `Class.method`.
        paper: where the formula is from.
        first: beginning of the first statement of the excerpt; None: the whole definition.
        last: beginning of its last statement; None: the first one.
        folder: of the package.
    """

    file: str
    definition: str
    paper: Paper | None = None
    first: str | None = None
    last: str | None = None
    folder: str = "models"


TRANSFORMER = Paper("Vaswani et al. 2017, Attention is all you need", "1706.03762")
T5 = Paper("Raffel et al. 2019, Exploring the limits of transfer learning", "1910.10683")
ROTARY = Paper("Su et al. 2021, RoFormer: rotary position embedding", "2104.09864")
GEMMA_2 = Paper("Gemma team 2024, Gemma 2", "2408.00118")
LAYER_NORM = Paper("Ba, Kiros and Hinton 2016, Layer normalization", "1607.06450")
RMS_NORM = Paper("Zhang and Sennrich 2019, Root mean square layer normalization", "1910.07467")
GLU = Paper("Shazeer 2020, GLU variants improve Transformer", "2002.05202")
EXPERTS = Paper("Shazeer et al. 2017, The sparsely-gated mixture-of-experts layer", "1701.06538")
SWITCH = Paper("Fedus et al. 2021, Switch Transformers", "2101.03961")
FASTTEXT = Paper("Joulin et al. 2016, Bag of tricks for efficient text classification", "1607.01759")
BERT = Paper("Devlin et al. 2018, BERT", "1810.04805")
GROUPED = Paper("Ainslie et al. 2023, GQA", "2305.13245")
DISTILLATION = Paper("Hinton et al. 2015, Distilling the knowledge in a neural network", "1503.02531")
LENGTH_PENALTY = Paper("Wu et al. 2016, Google's neural machine translation system", "1609.08144")
ERASURE = Paper("Li et al. 2016, Understanding neural networks through representation erasure", "1612.08220")
NUCLEUS = Paper("Holtzman et al. 2019, The curious case of neural text degeneration", "1904.09751")

GPT, ENCODER, STACKS = "modeling_scratch_gpt.py", "modeling_scratch_encoder.py", "seq2seq_stacks.py"
PLACES = {
    "embedding": Place(
        GPT, "ScratchGPTModel.forward", TRANSFORMER, "hidden_states = inputs_embeds", "hidden_states = self.dropout"
    ),
    "learned_positions": Place("positions.py", "build_positions", TRANSFORMER),
    "sinusoidal_positions": Place("positions.py", "SinusoidalPositions.forward", TRANSFORMER),
    "rotary": Place("positions.py", "apply_rotary", ROTARY),
    "relative_positions": Place("relative_positions.py", "RelativePositionBias.bias", T5),
    "ngram_embedding": Place("ngram_embedding.py", "NgramEmbedding.bucket_ids", FASTTEXT),
    "token_weights": Place("token_weights.py", "TokenWeights.for_tokens"),
    "block": Place("block.py", "TransformerBlock.forward", TRANSFORMER),
    "attention": Place("attention.py", "eager_attention_forward", TRANSFORMER, "scores = query @", "return (weights"),
    "grouped_heads": Place("attention.py", "eager_attention_forward", GROUPED, "groups =", "if groups > 1"),
    "softcapping": Place("attention.py", "eager_attention_forward", GEMMA_2, "if softcap is not None"),
    "cross_attention": Place("block.py", "TransformerBlock.forward", TRANSFORMER, "if self.cross_attn is not None"),
    "layer_norm": Place("normalization.py", "LayerNorm.formula", LAYER_NORM),
    "rms_norm": Place("normalization.py", "RMSNorm.formula", RMS_NORM),
    "feed_forward": Place("feed_forward.py", "FeedForward.forward", GLU),
    "router": Place("experts.py", "Router.forward", SWITCH),
    "experts": Place("experts.py", "Experts.forward", EXPERTS),
    "head": Place(GPT, "ScratchGPTForCausalLM.forward", TRANSFORMER, "logits = self.lm_head", "if cap is not None"),
    "loss": Place("linear_cross_entropy.py", "token_loss"),
    "sampling": Place(
        "fast_generation.py",
        "FastGenerationMixin._sample",
        NUCLEUS,
        "scores = logits_processor",
        "if generation_config.do_sample",
    ),
    "encoder": Place(STACKS, "ScratchSeq2SeqEncoder.forward", TRANSFORMER),
    "decoder": Place(STACKS, "ScratchSeq2SeqDecoder.forward", TRANSFORMER, "hidden_states, rotary", "for layer in"),
    "beam_search": Place("model_directory.py", "set_translation_defaults", LENGTH_PENALTY, folder="hub"),
    "divergence": Place(
        "task.py", "distillation_loss", DISTILLATION, "log_probs =", "divergence =", "train/tasks/distillation"
    ),
    "erasure": Place(ENCODER, "ScratchEncoderModel.pool", ERASURE),
    "pooling": Place(ENCODER, "ScratchEncoderModel.pool", BERT),
    "masked_head": Place(ENCODER, "MaskedLMTransform.forward", BERT),
    "bigram": Place("modeling_scratch_bigram.py", "ScratchBigramForCausalLM.forward"),
}


def excerpts() -> dict[str, dict[str, Any]]:
    """Return the excerpts of all concepts: `file` of the package, `first_line`, `code`, and `paper` (`title`, `url`) or
    None.

    Raises:
        LookupError: a definition or statement is not in its file any more.
    """
    return {concept: excerpt(place) for concept, place in PLACES.items()}


def excerpt(place: Place) -> dict[str, Any]:
    """Return the excerpt of one place (see `excerpts`).

    Raises:
        LookupError: its definition or one of its statements is not in the file, or there are several.
    """
    source = (PACKAGE / place.folder / place.file).read_text(encoding="utf-8")
    lines = source.splitlines()
    found = find_definition(ast.parse(source), place)
    first = last = found
    if place.first is not None:
        first = last = find_statement(found, place.first, lines, place)
    if place.last is not None:
        last = find_statement(found, place.last, lines, place)
    code = "\n".join(lines[first.lineno - 1 : last.end_lineno])
    paper = None if place.paper is None else {"title": place.paper.title, "url": place.paper.url}
    return {
        "file": f"{place.folder}/{place.file}",
        "first_line": first.lineno,
        "code": textwrap.dedent(code),
        "paper": paper,
    }


def find_definition(module: ast.Module, place: Place) -> ast.stmt:
    """The function or method of a place.

    Raises:
        LookupError: the file has no such definition.
    """
    found: Any = module
    for name in place.definition.split("."):
        named = [node for node in found.body if getattr(node, "name", None) == name]
        if not named:
            raise LookupError(f"{place.file} has no {place.definition}")
        found = named[0]
    return found


def find_statement(definition: ast.stmt, beginning: str, lines: list[str], place: Place) -> ast.stmt:
    """The only statement inside a definition, at any depth, whose first line begins with a text.

    Args:
        definition: the function or method.
        beginning: beginning of the statement.
        lines: lines of the file.
        place: for the error.

    Raises:
        LookupError: there is no such statement, or there are several.
    """
    statements = [node for node in ast.walk(definition) if isinstance(node, ast.stmt)]
    found = [node for node in statements if lines[node.lineno - 1].strip().startswith(beginning)]
    if len(found) != 1:
        raise LookupError(f"{place.file}: {place.definition} has {len(found)} statements {beginning!r}, want one")
    return found[0]
