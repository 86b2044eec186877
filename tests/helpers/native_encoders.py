"""Small encoders of transformers' own classes, and inputs to compare them with ours."""

import torch
import transformers
from transformers import (
    BertConfig,
    CamembertConfig,
    DistilBertConfig,
    ModernBertConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from helpers.models import randomise

HEADS = {"trunk": "Model", "masked_lm": "ForMaskedLM", "classifier": "ForSequenceClassification"}
SHAPE = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_labels": 3}
BERT = {**SHAPE, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 0}
ROBERTA = {**BERT, "max_position_embeddings": 66, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
ROBERTA |= {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
DISTILBERT = {"vocab_size": 99, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "num_labels": 3}
DISTILBERT |= {"max_position_embeddings": 64, "pad_token_id": 0}
MODERNBERT = {**BERT, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}
FAMILIES = {
    "Bert": (BertConfig, BERT),
    "Roberta": (RobertaConfig, ROBERTA),
    "XLMRoberta": (XLMRobertaConfig, ROBERTA),
    "Camembert": (CamembertConfig, ROBERTA),
    "DistilBert": (DistilBertConfig, DISTILBERT),
    "ModernBert": (ModernBertConfig, MODERNBERT),
}


def native_encoder(family: str, head: str, **fields):
    """A tiny encoder of transformers in evaluation mode, with random weights, those of norms around 1."""
    config_class, shape = FAMILIES[family]
    if "id2label" in fields:
        shape = {name: value for name, value in shape.items() if name != "num_labels"}
    return random_weights(getattr(transformers, family + HEADS[head])(config_class(**{**shape, **fields})))


def random_weights(model, std: float = 0.2):
    """Draw random weights, those of norms around 1; return the model in evaluation mode."""
    randomise(model, seed=3, std=std)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1)
    model.tie_weights()
    return model.eval()


def rows_of(config, lengths=(24, 13, 5), seed: int = 0) -> list[torch.Tensor]:
    """Rows of random ids (T,) of these lengths, without padding."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(6, config.vocab_size, (length,), generator=generator) for length in lengths]


def types_of(rows: list[torch.Tensor], config) -> list[torch.Tensor]:
    """Token types of the rows: the last third has the last type."""
    last = max(getattr(config, "type_vocab_size", 0), 1) - 1
    return [torch.where(torch.arange(len(row)) < len(row) * 2 // 3, 0, last) for row in rows]


def padded(rows: list[torch.Tensor], fill: int, left: bool) -> torch.Tensor:
    """Pad rows to a batch (B, T)."""
    longest = max(len(row) for row in rows)
    pads = [torch.full((longest - len(row),), fill) for row in rows]
    return torch.stack([torch.cat((pad, row) if left else (row, pad)) for row, pad in zip(rows, pads, strict=True)])


@torch.no_grad()
def outputs_of(model, rows: list[torch.Tensor], left: bool | None = None) -> list[dict[str, torch.Tensor]]:
    """What a model computes for each row: logits (T, V) or (K,); of a trunk, hidden states (T, C) and, if it has a
    pooler, the pooled vector (C,).

    Args:
        model: an encoder, ours or one of transformers.
        rows: ids of each row.
        left: pad on the left, or on the right; None gives each row alone, without a mask.
    """
    types = types_of(rows, model.config)
    if left is None:
        batches = [(row[None], None, kind[None]) for row, kind in zip(rows, types, strict=True)]
    else:
        mask = padded([torch.ones_like(row) for row in rows], 0, left)
        batches = [(padded(rows, model.config.pad_token_id, left), mask, padded(types, 0, left))]
    found: list[dict[str, torch.Tensor]] = []
    for ids, mask, kinds in batches:
        more = {"token_type_ids": kinds} if getattr(model.config, "type_vocab_size", 0) else {}
        outputs = model(ids, attention_mask=mask, **more)
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        for i in range(len(ids)):
            names = [name for name in ("logits", "last_hidden_state", "pooler_output") if outputs.get(name) is not None]
            found.append({n: outputs[n][i][real[i]] if outputs[n].ndim == 3 else outputs[n][i] for n in names})
    return found


def largest_difference(found: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]]) -> float:
    """The largest difference of the outputs of two models, relative to the largest expected value if that is over 1.
    All outputs that are expected must be there."""
    return max(
        ((mine[name] - value).abs().max() / value.abs().max().clamp(min=1)).item()
        for mine, theirs in zip(found, expected, strict=True)
        for name, value in theirs.items()
    )
