"""Cross-attention of an encoder-decoder between words, as numbers and as a plot."""

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
    """Compute the cross-attention weights between the words of a text and its translation.

    Weights are summed over the tokens of a source word and averaged over the tokens of a target word, heads and layers.

    Args:
        model: an encoder-decoder.
        tokenizer: tokenizer of the source.
        target_tokenizer: tokenizer of the target.
        text: the source.
        translation: its translation.

    Returns:
        Source words (S), target words (T) and attention weights (T, S), each row of which sums to 1. The last word of
        each sentence is its end token.
    """
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the others do not return weights
    source = tokenizer(text, return_tensors="pt", truncation=True, max_length=model.config.max_position_embeddings)
    target = target_tokenizer(translation, return_tensors="pt")
    with torch.no_grad():
        out = model(
            input_ids=source.input_ids.to(model.device),
            labels=target.input_ids.to(model.device),
            output_attentions=True,
        )
    model.set_attn_implementation(implementation)
    tokens = torch.stack(out.cross_attentions).float().mean((0, 2))[0].cpu()  # (target tokens, source tokens)
    source_words, source_of = _words(source, tokenizer)
    target_words, target_of = _words(target, target_tokenizer)
    by_source = torch.zeros(len(tokens), len(source_words)).index_add_(1, source_of, tokens)
    matrix = torch.zeros(len(target_words), len(source_words)).index_add_(0, target_of, by_source)
    return source_words, target_words, matrix / torch.bincount(target_of)[:, None]


def _words(encoded, tokenizer: PreTrainedTokenizerFast) -> tuple[list[str], torch.Tensor]:
    """The words of an encoded sentence, and the index of the word of each token."""
    ids, words = encoded.input_ids[0].tolist(), encoded.word_ids(0)
    indices: list[int] = []
    texts: list[list[int]] = []
    for position, word in enumerate(words):
        if position == 0 or word is None or word != words[position - 1]:
            texts.append([])
        texts[-1].append(ids[position])
        indices.append(len(texts) - 1)
    return [str(tokenizer.decode(text)).strip() for text in texts], torch.tensor(indices)


def plot_attention(source_words: list[str], target_words: list[str], matrix: torch.Tensor, path: Path) -> None:
    """Plot the attention weights of `word_attention` to an image file.

    Args:
        source_words: labels of the columns (S).
        target_words: labels of the rows (T).
        matrix: attention weights (T, S).
        path: the image file; its folder is created.
    """
    from matplotlib.figure import Figure

    size = 1.5 + 0.45 * len(source_words), 1.5 + 0.4 * len(target_words)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(matrix.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(source_words)), source_words, rotation=55, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(target_words)), target_words)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="attention weight", shrink=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
