"""Low-rank adaptation (LoRA, Hu et al. 2021, arXiv:2106.09685) by PEFT: the weights are frozen, and a low-rank update
of some of them is trained.

    W' = W + (alpha / rank) · B · A,    A: (rank, in),  B: (out, rank), initialised to 0

The update is published merged into the weights, and as an adapter that PEFT loads.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from ....errors import ScratchError, not_installed
from ....hub.adapter import NAME, Adapter
from ....tokenization.chat import CHAT_TOKENS

LINEAR = (torch.nn.Linear, Conv1D)  # GPT-2 has Conv1D


def add_lora(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rank: int,
    alpha: float,
    targets: list[str],
    base: str = "",
    only: bool = False,
) -> Adapter:
    """Freeze a model and add adapters to its linear layers. Of the embeddings, only the rows of the chat tokens are
    trained, since pre-training has not seen them.

    Args:
        model: model to fine-tune, modified in place.
        tokenizer: with the chat tokens.
        rank: rank of the adapters.
        alpha: the adapters are scaled by alpha/rank.
        targets: last components of the names of the layers, such as "q_proj"; "all-linear" means all of the blocks.
        base: folder or Hub id of the model, for whoever loads the adapter.
        only: whether the adapter is published without the merged model.

    Raises:
        ScratchError: PEFT is not installed, a layer does not exist, or PEFT can't train the rows of the chat tokens.
    """
    if find_spec("peft") is None:
        raise ScratchError(f"LoRA needs PEFT: {not_installed('peft')}")
    from peft import LoraConfig, inject_adapter_in_model

    known = tokenizer.get_vocab()
    tokens = sorted(known[token] for token in CHAT_TOKENS if token in known)
    layers = {n.rpartition(".")[2]: m for n, m in model.base_model.named_modules() if isinstance(m, LINEAR)}
    chosen = sorted(layers) if targets == ["all-linear"] else targets
    if unknown := sorted(set(chosen) - layers.keys()):
        raise ScratchError(f"lora_targets names {', '.join(unknown)}, the model has {', '.join(sorted(layers))}")
    transposed = {isinstance(layers[name], Conv1D) for name in chosen}
    if len(transposed) > 1:
        raise ScratchError("lora_targets mixes Linear and Conv1D layers, which need adapters of their own: choose one")
    embedding, head = _embedding_names(model)
    is_tied = bool(model.config.tie_word_embeddings)
    if tokens and getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ScratchError(
            f"PEFT can't train the rows of the chat tokens in this model: it would leave out the bias of the head, "
            f"{head}. Tune all weights (without --lora_rank), or give a template without new tokens (--chat_template)"
        )
    tables = [name.rpartition(".")[2] for name in ([embedding] if is_tied else [embedding, head])]
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=chosen,
        trainable_token_indices=dict.fromkeys(tables, tokens) if tokens else None,
        fan_in_fan_out=transposed == {True},
        task_type="CAUSAL_LM",
        inference_mode=False,
    )
    inject_adapter_in_model(config, model, NAME)
    # As saved: for inference, and with a base that is found from any working directory.
    config.inference_mode = True
    config.base_model_name_or_path = str(Path(base).resolve()) if Path(base).is_dir() else base
    return Adapter(config, tokens, (f"{head}.weight", f"{embedding}.weight") if is_tied else None, only)


def _embedding_names(model: PreTrainedModel) -> tuple[str, str]:
    """The names of the modules of the token embedding and of the language-model head."""
    names = {id(module): name for name, module in model.named_modules()}
    return names[id(model.get_input_embeddings())], names[id(model.get_output_embeddings())]
