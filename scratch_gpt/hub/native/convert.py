"""Native twins: the same weights in transformers' own classes, with the same logits.

`import_native` converts a model of transformers to ours, and `export_native` converts back. An exported model needs no
remote code. Settings that the other class does not support are rejected with the reason; dropouts that it has no field
for are omitted, since they apply in training only.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from ...errors import ScratchError
from ...untrusted import read_json
from .registry import TWINS
from .twin import Twin, Weights


class NoNativeClassError(ScratchError):
    """transformers has no class that can express a model."""


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
    if reasons := twin.import_incompatibilities(model.config):
        raise ScratchError(f"cannot import this {type(model).__name__}: {'; '.join(reasons)}")
    config = twin.config_from_native(model.config)
    weights = twin.weights_from_native(dict(model.state_dict()), config)
    return _with_weights(twin.our_model_class(config), weights, model)


def export_native(model: PreTrainedModel) -> PreTrainedModel:
    """Convert one of our models to the class of transformers that supports its settings: a decoder to GPT-2, Llama or
    NanoChat, an encoder-decoder to Marian, an encoder to BERT.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits are equal up to rounding.

    Raises:
        NoNativeClassError: no class supports the model; the reasons are those of the twin with the fewest.
    """
    config: Any = model.config
    twin = native_twin(model)
    weights = twin.weights_to_native(dict(model.state_dict()), config)
    return _with_weights(twin.model_class(twin.config_to_native(config)), weights, model)


def find_twin(model: PreTrainedModel) -> tuple[Twin | None, list[str]]:
    """Find the twin of one of our models.

    Returns:
        The twin that supports most of its settings, if there is one for its class, and the reasons why the model has no
        native class; none if the twin supports it.
    """
    if is_native(model):
        return None, [f"{type(model).__name__} is a class of transformers itself"]
    twins = [twin for twin in TWINS if twin.our_model_class.__name__ == type(model).__name__]
    if not twins:
        return None, [f"there is none for a {type(model).__name__}"]
    origin = (getattr(model.config, "imported_from", None) or {}).get("class")
    candidates = [(twin.export_incompatibilities(model.config), twin) for twin in twins]
    # The class that the weights came from, among those that support the model
    reasons, twin = min(
        candidates, key=lambda pair: (bool(pair[0]), pair[1].model_class.__name__ != origin, len(pair[0]))
    )
    return twin, reasons


def native_twin(model: PreTrainedModel) -> Twin:
    """The twin that supports one of our models.

    Raises:
        NoNativeClassError: there is none; the message has the reasons.
    """
    twin, reasons = find_twin(model)
    if twin is None or reasons:
        raise NoNativeClassError(f"no class of transformers can express this model: {'; '.join(reasons)}")
    return twin


def is_native(model: PreTrainedModel) -> bool:
    """Whether a model is in a class of transformers itself."""
    return type(model).__module__.startswith("transformers.")


def native_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Facts for a model card: the native class of one of our models, and the oldest release of transformers that opens
    it; or why there is none; or its class, if that is one of transformers."""
    if is_native(model):
        return {"own_class": type(model).__name__}
    twin, reasons = find_twin(model)
    if twin is None or reasons:
        return {"no_native_class": "; ".join(reasons)}
    return {"native_class": {"class": twin.model_class.__name__, "since": f"{twin.since}{twin.note}"}}


def save_native(model: PreTrainedModel, folder: Path) -> None:
    """Save a model to a folder. Beside the config fields of transformers 5 (`rope_parameters`, `dtype`), its
    `config.json` has those that transformers 4 and other tools read: `rope_theta`, `rope_scaling`, `torch_dtype`."""
    model.save_pretrained(folder)
    path = folder / CONFIG_NAME
    config = read_json(path)
    if rope := config.get("rope_parameters"):
        scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
        config["rope_theta"] = rope["rope_theta"]
        config["rope_scaling"] = None if scaling == {"rope_type": "default"} else scaling
    config["torch_dtype"] = config["dtype"]
    path.write_text(f"{json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False)}\n", encoding="utf-8")


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
