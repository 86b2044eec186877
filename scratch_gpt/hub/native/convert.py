"""Native twins: the same weights in transformers' own classes, with the same logits.

`import_native` turns a model of transformers into ours, `export_native` goes back. An exported model needs no remote
code. What the other side can't express is refused with the reason; dropouts it has no field for are left out, since
they act in training only.
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
    """Our model with the weights of a `GPT2LMHeadModel`, `LlamaForCausalLM`, `NanoChatForCausalLM`, `MarianMTModel`,
    `BertForMaskedLM` or `BertForSequenceClassification`.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits agree within rounding.

    Raises:
        ScratchError: another class, or a setting that our model can't express.
    """
    twin = next((twin for twin in TWINS if isinstance(model, twin.model_class)), None)
    if twin is None:
        known = ", ".join(twin.model_class.__name__ for twin in TWINS)
        raise ScratchError(f"cannot import a {type(model).__name__}: known are {known}")
    _refuse(f"cannot import this {type(model).__name__}", twin.import_incompatibilities(model.config))
    config = twin.config_from_native(model.config)
    weights = twin.weights_from_native(dict(model.state_dict()), config)
    return _filled(twin.our_model_class(config), weights, model)


def export_native(model: PreTrainedModel) -> PreTrainedModel:
    """The plain transformers model with the weights of ours: GPT-2, Llama or NanoChat, for an encoder-decoder Marian,
    for an encoder BERT, whichever can express it.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits agree within rounding.

    Raises:
        ScratchError: no twin can express the model; the reasons are those of the nearest.
    """
    config: Any = model.config
    twins = [twin for twin in TWINS if twin.our_model_class.__name__ == type(model).__name__]
    if not twins:
        known = ", ".join(sorted({twin.our_model_class.__name__ for twin in TWINS}))
        raise ScratchError(f"cannot export a {type(model).__name__}: only {known} have twins")
    reasons, twin = min(
        ((twin.export_incompatibilities(config), twin) for twin in twins), key=lambda pair: len(pair[0])
    )
    _refuse("no model of transformers can express this one", reasons)
    weights = twin.weights_to_native(dict(model.state_dict()), config)
    return _filled(twin.model_class(twin.config_to_native(config)), weights, model)


def _refuse(what: str, reasons: list[str]) -> None:
    if reasons:
        raise ScratchError(f"{what}: {'; '.join(reasons)}")


def _computed(model: Any) -> set[str]:
    """Weights that a class of transformers computes and does not learn."""
    return set(getattr(model, "_keys_to_ignore_on_save", None) or ())


def _filled(target: Any, weights: Weights, source: PreTrainedModel) -> Any:
    """`target` with copies of `weights`, and with the dtype and generation settings of `source`."""
    for parameter in target.parameters():  # not `target.to`, which would round the rotary frequencies too
        parameter.data = parameter.data.to(source.dtype)
    state = {name: weight.detach().cpu() for name, weight in weights.items()}
    fixed = {name: weight for name, weight in target.state_dict().items() if name in _computed(target)}
    target.load_state_dict({**fixed, **state}, strict=True)
    target.tie_weights()
    if source.can_generate():
        target.generation_config = copy.deepcopy(source.generation_config)
    return target.eval()
