"""Native twins: the same weights in transformers' own classes, with the same logits.

`import_native` converts a model of transformers to ours, and `export_native` converts back. An exported model needs no
remote code. Settings that the other class does not support are rejected with the reason; dropouts that it has no field
for are omitted, since they apply in training only.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedModel

from ...errors import ScratchError
from .bert import BertClassifierTwin, BertMaskedLMTwin
from .gpt import GPT2Twin, LlamaTwin, NanoChatTwin
from .marian import MarianTwin
from .twin import Twin, Weights

TWINS: tuple[Twin, ...] = (
    *(GPT2Twin(), LlamaTwin(), NanoChatTwin()),
    MarianTwin(),
    *(BertMaskedLMTwin(), BertClassifierTwin()),
)


def import_native(model: PreTrainedModel) -> PreTrainedModel:
    """Convert a `GPT2LMHeadModel`, `LlamaForCausalLM`, `NanoChatForCausalLM`, `MarianMTModel`, `BertForMaskedLM` or
    `BertForSequenceClassification` to our class.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits are equal up to rounding.

    Raises:
        ScratchError: the model is of another class, or has a setting that our model does not support.
    """
    twin = next((twin for twin in TWINS if isinstance(model, twin.model_class)), None)
    if twin is None:
        known = ", ".join(twin.model_class.__name__ for twin in TWINS)
        raise ScratchError(f"cannot import a {type(model).__name__}: supported are {known}")
    _reject(f"cannot import this {type(model).__name__}", twin.import_incompatibilities(model.config))
    config = twin.config_from_native(model.config)
    weights = twin.weights_from_native(dict(model.state_dict()), config)
    return _with_weights(twin.our_model_class(config), weights, model)


def export_native(model: PreTrainedModel) -> PreTrainedModel:
    """Convert one of our models to the class of transformers that supports its settings: a decoder to GPT-2, Llama or
    NanoChat, an encoder-decoder to Marian, an encoder to BERT.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits are equal up to rounding.

    Raises:
        ScratchError: no class supports the model; the reasons are those of the twin with the fewest.
    """
    config: Any = model.config
    twins = [twin for twin in TWINS if twin.our_model_class.__name__ == type(model).__name__]
    if not twins:
        known = ", ".join(sorted({twin.our_model_class.__name__ for twin in TWINS}))
        raise ScratchError(f"cannot export a {type(model).__name__}: only {known} have twins")
    candidates = [(twin.export_incompatibilities(config), twin) for twin in twins]
    reasons, twin = min(candidates, key=lambda pair: len(pair[0]))
    _reject("no model of transformers can express this one", reasons)
    weights = twin.weights_to_native(dict(model.state_dict()), config)
    return _with_weights(twin.model_class(twin.config_to_native(config)), weights, model)


def _reject(what: str, reasons: list[str]) -> None:
    if reasons:
        raise ScratchError(f"{what}: {'; '.join(reasons)}")


def _computed(model: Any) -> set[str]:
    """Names of weights that a class of transformers computes instead of learning."""
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def _with_weights(target: Any, weights: Weights, source: PreTrainedModel) -> Any:
    """Load copies of `weights` into `target`, and set the dtype and generation config of `source`."""
    for parameter in target.parameters():  # not `target.to`, which would also round the rotary frequencies
        parameter.data = parameter.data.to(source.dtype)
    state = {name: weight.detach().cpu() for name, weight in weights.items()}
    fixed = {name: weight for name, weight in target.state_dict().items() if name in _computed(target)}
    target.load_state_dict({**fixed, **state}, strict=True)
    target.tie_weights()
    if source.can_generate():
        target.generation_config = copy.deepcopy(source.generation_config)
    return target.eval()
