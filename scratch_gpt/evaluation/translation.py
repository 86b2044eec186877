"""Translate texts, and score translations as the field does: BLEU and chrF by sacrebleu, with its signature."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from rich.table import Table
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast, pipeline

from ..errors import needs_extra
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
    """The translation of each text.

    Args:
        model: an encoder-decoder; its generation config says how to search, unless `generation` does.
        tokenizer: of the source and, unless there is another, of the target.
        texts: in any order; those of similar length are translated together. A text longer than the model's
            positions is cut, and one of white space only has the translation "".
        target_tokenizer: of the target, where it has one of its own.
        batch_size: texts at a time.
        progress: called with the number of texts finished since the last call.
        generation: settings of `generate`. By default a translation has at most as many tokens as
            `longest_translation` says, which depends on its own source only.

    Returns:
        One string for each text, in the order of the texts. It may hold line ends where the model generates them.
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
            written = (target_tokenizer or tokenizer).batch_decode(tokens, skip_special_tokens=True)
            for (number, _), text in zip(batch, written, strict=True):
                translations[number] = text.strip()
            progress(len(batch))
    return translations


def translation_scores(translations: list[str], references: list[str]) -> dict[str, float]:
    """Corpus scores, each from 0 to 100 but the last.

    Returns:
        "bleu" (13a tokens, cased; Post 2018, arXiv:1804.08771), "bleu_lowercase", "chrf" (Popović 2015), and "exact",
        the share of translations that equal their reference.
    """
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
        ScratchError: sacremoses is not installed.
    """
    with needs_extra("metrics"):
        from sacremoses import MosesTokenizer

    tokenizer = MosesTokenizer(lang=language)
    split = [
        [tokenizer.tokenize(t.lower(), return_str=True, escape=False) for t in texts]
        for texts in (translations, references)
    ]
    return sacrebleu.corpus_bleu(split[0], [split[1]], tokenize="none", force=True).score


def signatures() -> dict[str, str]:
    """What sacrebleu says of its settings, score by score."""
    from sacrebleu.metrics import BLEU, CHRF

    metrics: dict[str, Any] = {"bleu": BLEU(), "bleu_lowercase": BLEU(lowercase=True), "chrf": CHRF()}
    for metric in metrics.values():
        metric.corpus_score(["a"], [["a"]])  # a metric knows its signature once it has scored
    return {name: str(metric.get_signature()) for name, metric in metrics.items()}


def report_translations(folder: Path, texts: tuple[list[str], list[str]], trust_remote_code: bool) -> None:
    """Load `folder` through the Auto classes and the pipeline, translate held-out sentences as its generation config
    says, and print scores and the first few."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    # transformers' overloads know its own tasks only.
    write: Any = pipeline(TASK, model=model, tokenizer=tokenizer, device="cpu", trust_remote_code=trust_remote_code)  # type: ignore[call-overload]
    sources, references = texts
    translations = translate(model, tokenizer, sources, write.target_tokenizer)
    shown = [result["translation_text"] for result in write(sources[:SHOWN])]

    console = SafeConsole()
    table = Table("source", "translation", "reference", title=f"Reloaded from {folder}")
    for row in zip(sources, shown, references, strict=False):
        table.add_row(*row)
    console.print(table)
    scores = translation_scores(translations, references)
    table = Table("of the held-out sentences", f"{model.generation_config.num_beams} beams", title=None)
    table.add_row("BLEU", f"{scores['bleu']:.2f}")
    table.add_row("chrF", f"{scores['chrf']:.2f}")
    table.add_row("exactly as the reference", f"{scores['exact']:.1%}")
    console.print(table)
