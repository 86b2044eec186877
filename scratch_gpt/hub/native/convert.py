"""Native twins: the same weights in transformers' own classes, with the same logits.

`import_native` converts a model of transformers to ours, and `export_native` converts back. An exported model needs no
remote code. Settings that the other class does not support are rejected with the reason; dropouts that it has no field
for are omitted, since they apply in training only.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from ...errors import ScratchError
from ...untrusted import read_json
from ..model_directory import Kind, kind_of_class
from .registry import TWINS
from .twin import Twin, Weights, origin_class


class NoNativeClassError(ScratchError):
    """transformers has no class that can express a model."""


def import_native(model: PreTrainedModel) -> PreTrainedModel:
    """Convert a model of a class of transformers that has a twin, such as `LlamaForCausalLM`, to our class.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits are equal up to rounding.

    Raises:
        ScratchError: the model is of another class, or has a setting that our model does not support.
    """
    twin = next((twin for twin in TWINS if isinstance(model, twin.model_class)), None)
    if twin is None:
        raise ScratchError(f"cannot import a {type(model).__name__}: {supported_classes()}")
    if reasons := twin.import_incompatibilities(model.config):
        raise ScratchError(f"cannot import this {type(model).__name__}: {'; '.join(reasons)}")
    config = twin.config_from_native(model.config)
    weights: Weights = {}
    for group in converted_groups(twin, dict(model.state_dict()), config, model.dtype):
        weights |= {name: weight.to(model.dtype) for name, weight in group.items()}
    return _with_weights(twin.our_model_class(config), weights, model)


def supported_classes(kind: Kind | None = None) -> str:
    """The classes of transformers that can be imported, in words.

    Args:
        kind: kind of model to import them as; None for any. A classifier can be made of any but a translator.
    """
    own = {twin: kind_of_class(twin.our_model_class) for twin in TWINS}
    fits = {twin: kind in (None, found) or (kind == "classifier" and found != "seq2seq") for twin, found in own.items()}
    return f"supported are {', '.join(sorted({twin.model_class.__name__ for twin in TWINS if fits[twin]}))}"


LAYER = re.compile(r"(?:.*?\.)?\d+\.")


def layers_of(weights: Weights) -> dict[str, list[str]]:
    """The names of the weights of each layer, by their beginning, such as "model.layers.3."; "" for those outside of
    the layers, which are the first."""
    layers: dict[str, list[str]] = {"": []}
    for name in weights:
        found = LAYER.match(name)
        layers.setdefault(found.group() if found else "", []).append(name)
    return layers


def converted_groups(twin: Twin, weights: Weights, config: Any, dtype: torch.dtype) -> Iterator[Weights]:
    """Convert a state dict of transformers to ours, layer by layer; weights are removed from it as they are converted.

    Folds are computed in float32 where the result is, and for vectors: a norm of which bfloat16 would change what was
    folded into it stays in float32.

    Args:
        twin: the conversion.
        weights: the state dict, which is emptied.
        config: our config.
        dtype: data type of the result.

    Yields:
        Copies of the weights of a layer.

    Raises:
        ScratchError: a weight is not finite.
    """
    for names in layers_of(weights).values():
        group = {}
        for name in names:
            weight = weights.pop(name).detach().cpu()
            group[name] = weight.float() if dtype == torch.float32 or weight.ndim < 2 else weight
        group = twin.weights_from_native(group, config)
        for name in list(group):
            group[name] = _in_dtype(name, group[name], dtype)
        yield group


def _in_dtype(name: str, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy of a weight in a data type; a vector that it can't represent is in float32."""
    if weight.numel() and not torch.isfinite(torch.stack(torch.aminmax(weight))).all():
        raise ScratchError(f"{name} has numbers that are not finite")
    rounded = weight.to(dtype, copy=True).contiguous()
    is_exact = weight.ndim != 1 or torch.equal(rounded.float(), weight.float())
    return rounded if is_exact else weight.float()


def export_native(model: PreTrainedModel, twin: Twin | None = None) -> PreTrainedModel:
    """Convert one of our models to a class of transformers that supports its settings.

    Args:
        model: the model.
        twin: the conversion to a class that supports it; by default `native_twin` finds one.

    Returns:
        A new model on the CPU in the dtype of `model`, in evaluation mode; logits are equal up to rounding.

    Raises:
        NoNativeClassError: no class supports the model; the reasons are those of the twin with the fewest.
    """
    config: Any = model.config
    twin = twin or native_twin(model)
    with _errors_of_origin():
        native_config = twin.config_to_native(config)
        weights = twin.weights_to_native(dict(model.state_dict()), config)
    return _with_weights(twin.model_class(native_config), weights, model)


@contextmanager
def _errors_of_origin() -> Iterator[None]:
    """Context in which settings of `imported_from` that its class accepts, but that can't be computed with, give a
    ScratchError."""
    try:
        yield
    except ScratchError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ScratchError(f"the config can't be converted, see imported_from in config.json: {reason}") from error


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
    candidates = [(twin.export_incompatibilities(model.config), twin) for twin in twins]
    # The class that the weights came from, among those that support the model
    reasons, twin = min(candidates, key=lambda pair: (bool(pair[0]), not pair[1].is_origin(model.config), len(pair[0])))
    return twin, reasons


def folded_vectors(model: PreTrainedModel) -> frozenset[str]:
    """The names of the vectors of an imported model that a setting of its class was folded into, such as norm weights
    of Gemma, to which 1 was added. They are stored in float32: 16 bits lack the digits that the class stores without
    the 1."""
    name = origin_class(model.config)
    twin = next((twin for twin in TWINS if twin.model_class.__name__ == name), None)
    with _errors_of_origin():
        patterns = [] if twin is None else [fold.pattern for fold in twin.folds(model.config)]
    vectors = [name for name, weight in model.named_parameters() if weight.ndim == 1]
    return frozenset(name for name in vectors if any(re.search(pattern, name) for pattern in patterns))


def other_class_than_origin(model: PreTrainedModel) -> str | None:
    """Why a model that was imported is exported to another class than it came from, in words; None if it is not."""
    name = origin_class(model.config)
    origin = next((twin for twin in TWINS if twin.model_class.__name__ == name), None)
    if origin is None or origin.our_model_class.__name__ != type(model).__name__:
        return None
    reasons = origin.export_incompatibilities(model.config)
    return f"it was imported from {name}, which no longer fits: {'; '.join(reasons)}" if reasons else None


def native_twin(model: PreTrainedModel) -> Twin:
    """The twin that supports one of our models.

    Raises:
        NoNativeClassError: there is none; the message has the reasons.
    """
    twin, reasons = find_twin(model)
    if is_native(model):
        raise NoNativeClassError(
            f"the model is a {type(model).__name__} of transformers already: there is nothing to do"
        )
    if twin is None or reasons:
        origin = other_class_than_origin(model)
        raise NoNativeClassError(f"no class of transformers can express this model: {origin or '; '.join(reasons)}")
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
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # not one for each layer type
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
