"""Import of checkpoints in classes of transformers: into a model directory of ours, or into memory.

What can't be expressed is refused from the config alone, before a weight is read or downloaded. Weights are converted
layer by layer, so that they are in memory once at most.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import GENERATION_CONFIG_NAME, SAFE_WEIGHTS_NAME, cached_file, logging

from ...errors import ScratchError
from ...models.configuration_scratch_encoder import ScratchEncoderConfig
from ...models.configuration_scratch_gpt import ScratchGPTConfig
from ...models.configuration_scratch_seq2seq import ScratchSeq2SeqConfig
from ...models.modeling_scratch_encoder import ScratchEncoderForSequenceClassification, ScratchEncoderModel
from ...models.modeling_scratch_gpt import ScratchGPTForSequenceClassification, ScratchGPTModel
from ...models.modeling_scratch_seq2seq import ScratchSeq2SeqModel
from ..directory_checks import check_size
from ..loading import DTYPES, check_report, open_config
from ..model_directory import AUTO_CLASSES, Kind, kind_of_class, kind_of_model
from .convert import converted_groups, layers_of, supported_classes
from .registry import TWINS
from .stored_weights import ShardWriter, stored_weights
from .twin import Twin, Weights

CLASSIFIERS: dict[Any, Any] = {
    ScratchGPTConfig: ScratchGPTForSequenceClassification,
    ScratchEncoderConfig: ScratchEncoderForSequenceClassification,
}
TRUNKS: dict[Any, Any] = {
    ScratchGPTConfig: ScratchGPTModel,
    ScratchEncoderConfig: ScratchEncoderModel,
    ScratchSeq2SeqConfig: ScratchSeq2SeqModel,
}
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


class NotImportableError(ScratchError):
    """A model of transformers that has no equivalent of this package.

    Args:
        reason: the class or setting that is not supported.
        supported: the classes that are, in words; "" if the class is not the reason.
    """

    def __init__(self, reason: str, supported: str = ""):
        super().__init__(f"{reason}: {supported}" if supported else reason)
        self.reason = reason


@dataclass(frozen=True)
class ImportPlan:
    """How a checkpoint in a class of transformers becomes a model of ours.

    Attributes:
        name: folder or Hub id of the checkpoint.
        class_name: class of transformers that it was saved from.
        twin: the conversion.
        native_config: its config.
        config: our config.
        model_class: our class.
        kind: kind of the model that it was saved from.
        new_head: whether our model has another head, which is newly initialized.
    """

    name: str
    class_name: str
    twin: Twin
    native_config: Any
    config: Any
    model_class: Any
    kind: Kind
    new_head: bool


def is_native_config(config: Any) -> bool:
    """Whether a config is one of transformers itself."""
    return type(config).__module__.startswith("transformers.")


def plan_import(name: str | Path, kind: Kind | None = None, **settings: Any) -> ImportPlan:
    """Find out from the config of a checkpoint how it is imported.

    Args:
        name: folder or Hub id.
        kind: kind of model to import; None uses that of the checkpoint. A language model or a model without a head can
            be imported as a classifier, with a new head.
        settings: fields of our config to override, such as dropouts.

    Raises:
        NotImportableError: its class or one of its settings is not supported; the message names it.
        ScratchError: the config can't be opened, or the checkpoint is of another kind.
    """
    native_config = open_config(name)
    try:
        return _plan(str(name), native_config, kind, settings)
    except ScratchError:
        raise
    except StrictDataclassError as error:
        reason = str(error).split("ValueError: ")[-1]
        raise NotImportableError(f"cannot import {str(name)!r}: {' '.join(reason.split())}") from error
    except Exception as error:  # a config that was tampered with can make any of them
        raise ScratchError(f"cannot import {str(name)!r}: {type(error).__name__}: {error}") from error


def _plan(name: str, native_config: Any, kind: Kind | None, settings: dict[str, Any]) -> ImportPlan:
    twin, class_name, is_trunk = _twin_of_config(native_config, kind)
    if reasons := twin.import_incompatibilities(native_config):
        raise NotImportableError(f"cannot import this {class_name}: {'; '.join(reasons)}")
    config = twin.config_from_native(native_config)
    if not Path(name).exists():
        config.imported_from["name_or_path"] = name
    has_type = isinstance(native_config.dtype, torch.dtype)
    if has_type and native_config.dtype not in DTYPES.values():
        raise NotImportableError(f"its dtype is {native_config.dtype}, want one of {', '.join(DTYPES)}")
    for field, value in settings.items():
        if not hasattr(config, field):
            raise ScratchError(f"{name} becomes a {config.model_type} model, which has no setting {field}: remove it")
        setattr(config, field, value)
    config.validate_architecture()
    own = kind_of_class(twin.our_model_class)
    found = kind_of_model(native_config)
    if kind == "classifier" and own != "classifier" and found != "seq2seq":
        return ImportPlan(name, class_name, twin, native_config, config, CLASSIFIERS[type(config)], found, True)
    if kind not in (None, own):
        raise ScratchError(f"{name} is a {class_name}, which is not a {kind} model")
    model_class = twin.our_model_class
    if is_trunk and kind is None and not (own in ("causal", "seq2seq") and config.tie_word_embeddings):
        model_class = TRUNKS[type(config)]
    new_head = is_trunk and kind == "classifier"
    return ImportPlan(name, class_name, twin, native_config, config, model_class, found, new_head)


def _twin_of_config(config: Any, kind: Kind | None) -> tuple[Twin, str, bool]:
    """The twin for a config of transformers, the class that the config names, and whether that has no head.

    Raises:
        NotImportableError: there is none for the class.
    """
    twins = [twin for twin in TWINS if type(config) is twin.config_class]
    named = (config.architectures or [None])[0]
    class_name = str(named or (twins[0].model_class.__name__ if twins else type(config).__name__))
    exact = [twin for twin in twins if twin.model_class.__name__ == class_name]
    if exact:
        return min(exact, key=lambda twin: len(twin.import_incompatibilities(config))), class_name, False
    if twins and class_name == f"{type(config).__name__.removesuffix('Config')}Model":
        return min(twins, key=lambda twin: kind_of_class(twin.our_model_class) != kind), class_name, True
    raise NotImportableError(f"cannot import a {class_name}", supported_classes(kind))


def import_to_memory(plan: ImportPlan) -> PreTrainedModel:
    """Import a checkpoint as a model in float32 on the CPU, in evaluation mode.

    Raises:
        ScratchError: the weights can't be read, or do not match the config.
    """
    with _errors_of(plan):
        native = _open_native(plan, torch.float32)
        weights: Weights = {}
        for group in _progress(plan, native, torch.float32):
            weights |= group
        with _quiet():
            model, report = plan.model_class.from_pretrained(
                None,
                trust_remote_code=False,
                config=plan.config,
                state_dict=weights,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        check_report(report, plan.new_head)
        if model.can_generate():
            model.generation_config = _generation_config(plan.name) or native.generation_config
    return model


def import_to_folder(plan: ImportPlan, folder: Path) -> NativeWeights:
    """Import a checkpoint into an empty folder: weights in the data type of the checkpoint, config, model code and
    generation config. The weights are written as they are converted, and never in memory together.

    Returns:
        What was read; its weights have been removed from it.

    Raises:
        ScratchError: the weights can't be read, or do not match the config.
    """
    with _errors_of(plan):
        native = _open_native(plan, None)
        dtype = native.dtype
        with torch.device("meta"), no_init_weights():
            skeleton = plan.model_class(plan.config).to(dtype)
        skeleton.tie_weights()
        if skeleton.can_generate():
            skeleton.generation_config = native.generation_config
        with _quiet():
            skeleton.save_pretrained(folder, state_dict={})  # config, code and generation config
        (folder / SAFE_WEIGHTS_NAME).unlink(missing_ok=True)
        if generation := _optional_file(plan.name, GENERATION_CONFIG_NAME):
            (folder / GENERATION_CONFIG_NAME).write_bytes(generation.read_bytes())
        expected = {name: weight.shape for name, weight in skeleton.named_parameters()}  # tied ones once
        tied = set(skeleton.state_dict()) - set(expected)
        writer = ShardWriter(folder, native.num_bytes)
        is_trunk = plan.model_class is not plan.twin.our_model_class
        for group in _progress(plan, native, dtype):
            for name, weight in group.items():
                if is_trunk:  # without the weights of a head
                    if not name.startswith("model."):
                        continue
                    name = name.removeprefix("model.")
                if name in tied:
                    continue
                shape = expected.pop(name, None)
                if shape != weight.shape:
                    wanted = "the config asks for none" if shape is None else f"its config asks for {tuple(shape)}"
                    raise ScratchError(f"{name} has the shape {tuple(weight.shape)}, {wanted}")
                writer.add(name, weight)
        if expected:
            raise ScratchError(f"its weights lack {', '.join(sorted(expected)[:4])}")
        writer.finish()
    return native


@dataclass
class NativeWeights:
    """The weights of a model of transformers, mapped into memory: they take up none before they are read.

    Attributes:
        weights: its state dict.
        dtype: data type of the checkpoint.
        generation_config: its default, or None.
        num_bytes: size of the weights.
        ignored: names of stored weights that the class does not have.
    """

    weights: Weights
    dtype: torch.dtype
    generation_config: GenerationConfig | None
    num_bytes: int
    ignored: list[str]


def _open_native(plan: ImportPlan, dtype: torch.dtype | None) -> NativeWeights:
    """Load a checkpoint in its class of transformers, which renames and joins the stored weights.

    Args:
        plan: the import.
        dtype: data type that the weights will be converted to; None for that of the checkpoint.

    Raises:
        ScratchError: the weights can't be read, or do not match the config.
    """
    config = plan.native_config
    check_size(AUTO_CLASSES[plan.kind], config, Path(plan.name), False)
    stored: Any = stored_weights(plan.name)
    native_class: Any = plan.twin.model_class
    types = {weight.dtype for weight in stored.values() if weight.dtype.is_floating_point}
    if strange := types - set(DTYPES.values()):
        raise ScratchError(f"its weights are {sorted(map(str, strange))[0]}, want one of {', '.join(DTYPES)}")
    kept = config.dtype if isinstance(config.dtype, torch.dtype) else _widest(types)
    opened = kept if dtype is None else _widest(types)  # as they are stored: nothing is rounded on the way
    with _quiet():
        model, report = native_class.from_pretrained(
            None,
            trust_remote_code=False,
            config=config,
            state_dict=stored,  # read as the slices of a safetensors file are
            dtype=opened,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    is_exact = native_class.__name__ == plan.class_name
    check_report(report, not is_exact)
    weights = {name: weight for name, weight in model.state_dict().items() if name not in report["missing_keys"]}
    return NativeWeights(
        weights,
        kept,
        model.generation_config if model.can_generate() else None,
        sum(weight.num_bytes for weight in stored.values()),
        sorted(report["unexpected_keys"]),
    )


def _widest(types: set[torch.dtype]) -> torch.dtype:
    return max(types, key=lambda dtype: dtype.itemsize, default=torch.float32)


def _progress(plan: ImportPlan, native: NativeWeights, dtype: torch.dtype) -> Iterator[Weights]:
    """Convert the weights layer by layer, with a progress bar."""
    total = len(layers_of(native.weights))
    groups = converted_groups(plan.twin, native.weights, plan.config, dtype)
    yield from tqdm(groups, total=total, desc=f"importing {plan.class_name}", unit=" layers", leave=False, disable=None)


@contextmanager
def _errors_of(plan: ImportPlan) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # weights that do not match the config can make any of them
        kind = "" if isinstance(error, ScratchError) else f"{type(error).__name__}: "
        raise ScratchError(f"cannot import {plan.name!r}: {kind}{error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside the block, transformers prints no progress bar and no table of loaded weights, which are checked here."""
    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()


def _optional_file(name: str, file: str) -> Path | None:
    found = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(found)


def _generation_config(name: str) -> GenerationConfig | None:
    """The generation config of a checkpoint, if it has one. Settings of sampling without `do_sample`, which have no
    effect and which transformers does not save, are omitted."""
    if _optional_file(name, GENERATION_CONFIG_NAME) is None:
        return None
    config = GenerationConfig.from_pretrained(name, trust_remote_code=False)
    if not config.do_sample:
        for field in SAMPLING:
            if hasattr(config, field):
                setattr(config, field, None)
    return config
