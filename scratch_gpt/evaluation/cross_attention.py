"""Where a translator looked: cross-attention between words, as numbers and as a picture."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast


def word_attention(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
    text: str,
    translation: str,
) -> tuple[list[str], list[str], torch.Tensor]:
    """Source words (S), target words (T) and how much of the attention for each target word went to each source word
    (T, S): summed over the tokens of a source word, averaged over those of a target word, all heads and all layers.
    The last word of each is the end of the sentence."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others keep no weights
    source = tokenizer(text, return_tensors="pt", truncation=True, max_length=model.config.max_position_embeddings)
    target = target_tokenizer(translation, return_tensors="pt")
    with torch.no_grad():
        out = model(
            input_ids=source.input_ids.to(model.device),
            labels=target.input_ids.to(model.device),
            output_attentions=True,
        )
    model.set_attn_implementation(before)
    tokens = torch.stack(out.cross_attentions).float().mean((0, 2))[0].cpu()  # (target tokens, source tokens)
    source_words, source_of = _words(source, tokenizer)
    target_words, target_of = _words(target, target_tokenizer)
    by_source = torch.zeros(len(tokens), len(source_words)).index_add_(1, source_of, tokens)
    matrix = torch.zeros(len(target_words), len(source_words)).index_add_(0, target_of, by_source)
    return source_words, target_words, matrix / torch.bincount(target_of)[:, None]


def _words(encoded, tokenizer: PreTrainedTokenizerFast) -> tuple[list[str], torch.Tensor]:
    """The words of an encoded sentence, and to which of them each token belongs."""
    ids, words = encoded.input_ids[0].tolist(), encoded.word_ids(0)
    numbers: list[int] = []
    texts: list[list[int]] = []
    for position, word in enumerate(words):
        if position == 0 or word is None or word != words[position - 1]:
            texts.append([])
        texts[-1].append(ids[position])
        numbers.append(len(texts) - 1)
    return [str(tokenizer.decode(text)).strip() for text in texts], torch.tensor(numbers)


def plot_attention(source_words: list[str], target_words: list[str], matrix: torch.Tensor, path: Path) -> None:
    """Draw the attention of `word_attention`: a row for each target word, a column for each source word."""
    from matplotlib.figure import Figure

    size = 1.5 + 0.45 * len(source_words), 1.5 + 0.4 * len(target_words)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source_words)), source_words, rotation=55, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(target_words)), target_words)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="share of the attention", shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
