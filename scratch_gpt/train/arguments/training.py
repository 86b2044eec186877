"""Arguments shared by all training runs. One field is one command-line argument, with one sentence of help.

The metadata of a field holds all other properties of the argument, so that no list of names is kept elsewhere: its
bounds, whether a resumed run can change it, whether it is private, and whether it can be combined with `--init_from`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal

from ...errors import ScratchError
from .default_rates import PRETRAINING, DefaultRates

GENERAL_TEXT = (
    "Text on which the loss is measured before and after tuning, to see what the model forgets: a text file, a table, "
    "a folder or a Hub dataset, of which the first 16,384 tokens are used; 'none' to omit it. Default: a built-in "
    "English sample."
)
MAX_BATCH_SIZE, MAX_TOKENS_PER_BATCH = 1 << 20, 1 << 26  # per process; more than fits on any machine


def argument(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    more_than: float | None = None,
    at_most: float | None = None,
    less_than: float | None = None,
    finite: bool = True,
    resumable: bool = False,
    private: bool = False,
    with_init_from: bool | None = None,
    training_only: bool = False,
) -> Any:
    """Return a dataclass field with the properties of a command-line argument.

    Args:
        default: default value; a list is copied.
        help: one sentence for `--help`.
        at_least, more_than, at_most, less_than: bounds of a number, for `check_arguments`.
        finite: whether infinity is refused.
        resumable: whether `--resume` accepts another value than the run was started with.
        private: whether the model card omits it, because it can be a path of this machine or does not concern the
            model.
        with_init_from: whether it can be combined with `--init_from`. Default: data arguments can, model arguments
            can't.
        training_only: whether a data argument concerns training and not reading, so that `scratch-gpt data` omits it.
    """
    bounds = {"at_least": at_least, "more_than": more_than, "at_most": at_most, "less_than": less_than}
    metadata = {
        "help": help,
        "finite": finite,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
        "resumable": resumable,
        "private": private,
        "with_init_from": with_init_from,
        "training_only": training_only,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def metadata_of(types: Iterable[Any]) -> dict[str, Mapping[str, Any]]:
    """The metadata of every argument, by name.

    Args:
        types: dataclasses of arguments, or instances of them.
    """
    return {f.name: f.metadata for each in types for f in fields(each)}


def names_with(flag: str, types: Iterable[Any]) -> set[str]:
    """The names of the arguments whose metadata has a flag, such as "resumable" or "private"."""
    return {name for name, metadata in metadata_of(types).items() if metadata.get(flag)}


def check_arguments(*parts: Any) -> None:
    """Check that all numbers are within their bounds.

    Args:
        parts: instances of dataclasses of arguments.

    Raises:
        ScratchError: a number is out of bounds; all such numbers are reported together.
    """
    wrong = []
    for part in parts:
        for f in fields(part):
            value, bounds = getattr(part, f.name), f.metadata.get("bounds")
            values = [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int | float)]
            if not bounds:
                continue
            if f.metadata["finite"] and not all(math.isfinite(v) for v in values):
                wrong.append(f"{f.name} is {value}, want a finite number")
            elif not all(_within(v, **bounds) for v in values):
                wrong.append(f"{f.name} is {value}, want {describe_bounds(**bounds)}")
    if wrong:
        raise ScratchError("; ".join(wrong))


def _within(
    value: float,
    at_least: float = -math.inf,
    more_than: float = -math.inf,
    at_most: float = math.inf,
    less_than: float = math.inf,
) -> bool:
    return at_least <= value <= at_most and more_than < value and (value < less_than or less_than == math.inf)


def describe_bounds(**bounds: float) -> str:
    """Bounds in words, such as "more than 0 and at most 1"."""
    return " and ".join(f"{name.replace('_', ' ')} {bound:,}" for name, bound in bounds.items())


def check_init_from(data: Any, model_args: Any) -> None:
    """Check that no argument is combined with `--init_from` that the checkpoint already determines.

    Args:
        data, model_args: data and model arguments of a family; nothing is checked if `init_from` is None.

    Raises:
        ScratchError: such arguments are given; all of them are reported together.
    """
    if model_args.init_from is None:
        return
    given = []
    for part, by_default in ((model_args, False), (data, True)):
        for f in fields(part):
            allowed = f.metadata.get("with_init_from")
            default = f.default if f.default_factory is MISSING else f.default_factory()
            if not (by_default if allowed is None else allowed) and getattr(part, f.name) != default:
                given.append(f.name)
    if given:
        names = ", ".join(f"--{name}" for name in given)
        raise ScratchError(f"--init_from determines the architecture and tokenizer: remove {names}")


@dataclass
class DatasetArguments:
    """Data arguments shared by all families."""

    _argument_group_name: ClassVar[str] = "data"  # heading in `--help`, read by HfArgumentParser

    dataset: str = argument("", "The data.", private=True)
    dataset_config: str | None = argument(None, "Configuration of a Hub dataset, where it has several.")
    dataset_split: str = argument("train", "Split of a folder or of a Hub dataset.")
    validation_dataset: str | None = argument(None, "Separate validation data; same values as --dataset.", private=True)
    validation_split: str | None = argument(
        None, "Validation split. Default: validation, valid, val or dev, if present; else data is held out."
    )
    split_seed: int = argument(
        0, "Seed of the train/validation split; independent of --seed.", at_least=0, less_than=1 << 32
    )
    delimiter: str | None = argument(None, "Delimiter of CSV and TSV files, such as ';' or 'tab'. Default: detected.")
    header: Literal["auto", "yes", "no"] = argument(
        "auto", "Whether the first row of CSV and TSV files names the columns; without it they are column_1, column_2."
    )
    quoting: Literal["auto", "csv", "backslash", "none"] = argument(
        "auto",
        "Quoting in CSV and TSV files: 'csv' (quotes are doubled in a quoted cell), 'backslash' (quotes are escaped "
        "with a backslash), or 'none' (quotes are ordinary characters, and each line is a row).",
    )
    max_bad_rows: float = argument(
        0.1,
        "Largest fraction of rows that may be skipped because they can't be used, such as rows without text.",
        at_least=0,
        at_most=1,
        resumable=True,
    )
    dataset_license: str | None = argument(
        None, "License of the data, for the model card, such as 'cc-by-4.0'.", resumable=True, training_only=True
    )


@dataclass
class TrainingArguments:
    """Training arguments shared by all families."""

    _argument_group_name: ClassVar[str] = "training"
    default_rates: ClassVar[DefaultRates] = PRETRAINING
    auto_precision: ClassVar[Literal["auto", "fp32"]] = "auto"  # what `--precision auto` means for a family

    output_dir: str = argument(
        "runs/model", "Output directory: model, checkpoints and metrics.", resumable=True, private=True
    )
    model_name: str | None = argument(
        None,
        "Name of the model, for its card, page and plots. Default: the last part of output_dir.",
        resumable=True,
        private=True,
    )
    resume: bool = argument(
        False, "Resume the run in output_dir from its latest checkpoint.", resumable=True, private=True
    )
    allow_changed_settings: bool = argument(
        False, "Let --resume continue with other settings than the run was started with.", resumable=True
    )
    max_steps: int | None = argument(None, "Number of optimizer steps. Default: given by --epochs.", more_than=0)
    epochs: float = argument(1.0, "Passes over the training text, if max_steps is not given.", more_than=0)
    gradient_accumulation_steps: int = argument(
        1, "Batches whose gradients are accumulated for each optimizer step.", more_than=0, resumable=True
    )
    optimizer: Literal["adamw", "muon"] | None = argument(
        None,
        "Optimizer: 'adamw', or 'muon' for the matrices of the blocks with AdamW for all other parameters. Default: "
        "muon; adamw to tune a model of over 10 million parameters.",
    )
    learning_rate: float | None = argument(
        None,
        "Peak learning rate of AdamW. Default: 1e-2 with Muon, 2e-3 without; 5e-5 to tune a model of over 10 million "
        "parameters.",
        more_than=0,
    )
    muon_learning_rate: float | None = argument(
        None,
        "Peak learning rate of Muon, scaled to match the RMS of AdamW's updates. Default: 2e-2; that of AdamW to tune "
        "a model of over 10 million parameters.",
        more_than=0,
    )
    weight_decay: float = argument(0.1, "Weight decay of matrices; embeddings, norms and biases have none.", at_least=0)
    adam_beta1: float = argument(0.9, "AdamW beta1: decay rate of the first moment.", at_least=0, less_than=1)
    adam_beta2: float = argument(0.95, "AdamW beta2: decay rate of the second moment.", at_least=0, less_than=1)
    schedule: Literal["cosine", "wsd", "constant", "inverse_sqrt"] = argument(
        "cosine",
        "Learning-rate schedule after the warm-up: 'cosine', 'wsd' (warmup-stable-decay), 'constant', or "
        "'inverse_sqrt' (inverse square root of the step, as in Vaswani et al. 2017).",
    )
    warmup_steps: int = argument(20, "Steps of linear warm-up of the learning rate.", at_least=0)
    decay_fraction: float = argument(
        0.4, "Fraction of the steps in which 'wsd' decays the learning rate.", more_than=0, at_most=1
    )
    min_learning_rate_ratio: float = argument(
        0.0, "Final learning rate as a fraction of the peak.", at_least=0, at_most=1
    )
    max_grad_norm: float = argument(1.0, "Clip the gradient norm to this value; 0 disables clipping.", at_least=0)
    precision: Literal["auto", "fp32", "bf16"] = argument(
        "auto",
        "Mixed precision: 'fp32', 'bf16', or 'auto': that of 'accelerate launch --mixed_precision', else bf16 where "
        "the hardware computes it faster.",
    )
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = argument(
        "auto",
        "Data type of the published weights; those that are trained, and saved in checkpoints, are float32. 'auto': "
        "that of the --init_from model, or float32 for a new one.",
        resumable=True,
    )
    compile: Literal["auto", "on", "off"] = argument(
        "auto", "Compile the blocks with torch.compile; 'auto': if the run is long enough and there is a C++ compiler."
    )
    gradient_checkpointing: bool = argument(
        False, "Recompute activations in the backward pass instead of storing them: less memory, slower."
    )
    log_every: int = argument(10, "Steps between rows of metrics.jsonl.", more_than=0, resumable=True)
    eval_every: int = argument(
        250,
        "Steps between evaluations on the whole validation split; 0: only at the end.",
        at_least=0,
        resumable=True,
    )
    save_every: int | None = argument(
        None, "Steps between checkpoints. Default: eval_every; 0: only at the end.", at_least=0, resumable=True
    )
    average_decay: float | None = argument(
        None,
        "Decay of an exponential moving average of the weights, such as 0.998; if given, the average is evaluated and "
        "published.",
        more_than=0,
        less_than=1,
    )
    metric_for_best_model: str = argument(
        "val_loss", "Metric that selects the published model, such as val_loss, or val_bleu for translation."
    )
    keep_last: int = argument(2, "Number of checkpoints to keep; older ones are deleted.", more_than=0, resumable=True)
    early_stopping_patience: int | None = argument(
        None, "Stop after this many evaluations without improvement.", resumable=True
    )
    seed: int = argument(
        0, "Seed of initialisation, data order, dropout and built-in data.", at_least=0, less_than=1 << 32
    )
    num_threads: int | None = argument(
        None,
        "CPU threads per process. Default: OMP_NUM_THREADS, else all cores, divided among the processes.",
        more_than=0,
        at_most=1 << 14,
        resumable=True,
        private=True,
    )
    shard: bool = argument(
        False,
        "Shard weights, gradients and optimizer states over the processes (FSDP2), for models that do not fit into one "
        "device.",
        resumable=True,
    )
    replicas: int = argument(
        1,
        "Copies of the model with --shard, each sharded over its part of the processes (hybrid sharding), such as one "
        "per machine.",
        more_than=0,
        at_most=1 << 14,
        resumable=True,
    )
    tracker: Literal["tensorboard", "wandb", "trackio"] | None = argument(
        None,
        "Also report to 'tensorboard', 'wandb' or 'trackio' (install the package of that name first).",
        resumable=True,
        private=True,
    )
    page: bool = argument(
        False,
        "Write see.html into output_dir at the end: a page that runs the published model in the browser, as "
        "'scratch-gpt see' does.",
        resumable=True,
        private=True,
    )
    film: bool = argument(
        False,
        "Keep float16 copies of the weights in output_dir/film, at steps spaced by powers of 1.5, which --page and "
        "'scratch-gpt see MODEL --film RUN' show.",
        resumable=True,
        private=True,
    )

    @property
    def precision_used(self) -> Literal["auto", "fp32", "bf16"]:
        """The precision of the run: 'fp32', 'bf16', or 'auto', which depends on the hardware."""
        return self.auto_precision if self.precision == "auto" else self.precision
