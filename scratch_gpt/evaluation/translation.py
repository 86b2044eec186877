"""Translate texts, and score translations with sacrebleu: BLEU and chrF with their signatures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, pipeline

from ..errors import optional_imports
from ..models.pipeline_scratch_translation import TASK, longest_translation
from ..terminal import SafeConsole
from .positions import pad_rows

BATCH_SIZE = 64
SHOWN = 4


def translate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    target_tokenizer: PreTrainedTokenizerFast | None = None,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], Any] = lambda count: None,
    **generation: Any,
) -> list[str]:
    """Translate texts.

    Args:
        model: an encoder-decoder; its generation config sets the decoding strategy, unless `generation` does.
        tokenizer: tokenizer of the source and, without `target_tokenizer`, of the target.
        texts: in any order; batches contain texts of similar length. A text longer than the model's positions is
            truncated, and one that is empty or whitespace has the translation "".
        target_tokenizer: tokenizer of the target, if it has its own.
        batch_size: maximum number of texts per batch.
        progress: called with the number of texts finished since the last call.
        generation: settings of `generate`. By default the maximum length of a translation is `longest_translation`,
            which depends only on the length of its source.

    Returns:
        One translation per text, in the order of the texts. It may contain line ends if the model generates them.
    """
    longest = model.config.max_position_embeddings
    filled = [i for i, text in enumerate(texts) if text.strip()]
    encoded = tokenizer([texts[i] for i in filled], truncation=True, max_length=longest).input_ids if filled else []
    rows = sorted(zip(filled, encoded, strict=True), key=lambda row: len(row[1]))
    translations = [""] * len(texts)
    generate: Any = model.generate  # not declared on `PreTrainedModel`
    for limit, same in groupby(rows, key=lambda row: longest_translation(model, len(row[1]))):
        while batch := list(islice(same, batch_size)):
            inputs = pad_rows([ids for _, ids in batch], tokenizer, "right", model.device)
            length = {"max_length": limit, "max_new_tokens": None}
            with torch.no_grad():
                tokens = generate(**{**inputs, **length, **generation})
            decoded = (target_tokenizer or tokenizer).batch_decode(tokens, skip_special_tokens=True)
            for (index, _), text in zip(batch, decoded, strict=True):
                translations[index] = text.strip()
            progress(len(batch))
    return translations


def sacrebleu_module() -> Any:
    """The module sacrebleu, which only translation needs.

    Raises:
        ScratchError: it is not installed.
    """
    with optional_imports():
        import sacrebleu
    return sacrebleu


def translation_scores(translations: list[str], references: list[str]) -> dict[str, float]:
    """Compute corpus scores of translations.

    Returns:
        "bleu" (13a tokens, cased; Post 2018, arXiv:1804.08771), "bleu_lowercase" and "chrf" (Popović 2015), each from 0
        to 100, and "exact", the fraction of translations that equal their reference.

    Raises:
        ScratchError: sacrebleu is not installed.
    """
    sacrebleu = sacrebleu_module()
    return {
        "bleu": sacrebleu.corpus_bleu(translations, [references]).score,
        "bleu_lowercase": sacrebleu.corpus_bleu(translations, [references], lowercase=True).score,
        "chrf": sacrebleu.corpus_chrf(translations, [references]).score,
        "exact": sum(t == r for t, r in zip(translations, references, strict=True)) / max(1, len(references)),
    }


def moses_bleu(translations: list[str], references: list[str], language: str) -> float:
    """BLEU of lower-cased Moses tokens, for comparison with papers that report it.

    Args:
        translations: one per reference.
        references: the expected translations.
        language: code of the target language, which selects Moses' rules.

    Raises:
        ScratchError: sacrebleu or sacremoses is not installed.
    """
    with optional_imports():
        from sacremoses import MosesTokenizer

    tokenizer = MosesTokenizer(lang=language)
    split = [
        [tokenizer.tokenize(t.lower(), return_str=True, escape=False) for t in texts]
        for texts in (translations, references)
    ]
    return sacrebleu_module().corpus_bleu(split[0], [split[1]], tokenize="none", force=True).score


def signatures() -> dict[str, str]:
    """Return sacrebleu's signature of each score.

    Raises:
        ScratchError: sacrebleu is not installed.
    """
    scorers = sacrebleu_module().metrics
    metrics = {"bleu": scorers.BLEU(), "bleu_lowercase": scorers.BLEU(lowercase=True), "chrf": scorers.CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # a metric has a signature only after scoring
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def report_translations(folder: Path, texts: tuple[list[str], list[str]], trust_remote_code: bool) -> None:
    """Load `folder` with the Auto classes and the pipeline, and translate held-out sentences.

    Prints the scores and the first translations.

    Args:
        folder: a model directory.
        texts: held-out source sentences and their references.
        trust_remote_code: whether to run code from the directory.
    """
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    # transformers' overloads cover its own tasks only.
    translator: Any = pipeline(
        TASK, model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code
    )  # type: ignore[call-overload]
    sources, references = texts
    translations = translate(model, tokenizer, sources, translator.target_tokenizer)
    shown = [result["translation_text"] for result in translator(sources[:SHOWN])]

    console = SafeConsole()
    table = Table("source", "translation", "reference", title=f"Reloaded from {folder}")
    for row in zip(sources, shown, references, strict=False):
        table.add_row(*row)
    console.print(table)
    scores = translation_scores(translations, references)
    beams = model.generation_config.num_beams or 1  # an absent setting is 1, and 1 is not saved
    table = Table("held-out sentences", f"{beams} beam{'s' if beams > 1 else ''}", title=None)
    table.add_row("BLEU", f"{scores['bleu']:.2f}")
    table.add_row("chrF", f"{scores['chrf']:.2f}")
    table.add_row("equal to the reference", f"{scores['exact']:.1%}")
    console.print(table)
