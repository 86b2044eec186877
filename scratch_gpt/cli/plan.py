"""`scratch-gpt plan`: estimate the cost of a training run, and propose settings for a text."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import app
from .plan_cluster import ClusterOptions, cluster_table

DEFAULT_TOKENS = 1_300_000  # of the default run on the built-in stories
SHORT_RUN, LONG_RUN, SHORTER_RUN = 60, 15 * 60, 5 * 60  # seconds


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Option(help="Configuration file, as for `scratch-gpt train language_modeling`.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of training tokens. Default: those of --dataset, or of the default run, 1,300,000."
        ),
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option("--vocab_size", min=1, help="Vocabulary size. Default: that of --config, or 4096.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Estimate for this accelerator, from its data sheet, and measure nothing: a100-80gb, h100, rtx4090 …"
        ),
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="Number of accelerators, on all machines together. Default: 1.")
    ] = None,
    machines: Annotated[int | None, typer.Option(min=1, help="Number of machines. Default: 1.")] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Fraction of the peak FLOP/s that is reached: an assumption. Default: 0.35.")
    ] = None,
    network: Annotated[
        float | None, typer.Option(help="GB/s per device and direction between machines. Default: 50.")
    ] = None,
    disk: Annotated[float | None, typer.Option(help="GB/s at which a checkpoint is written. Default: 1.")] = None,
    price_per_hour: Annotated[
        float | None, typer.Option("--price_per_hour", help="Price of one accelerator per hour, in any currency.")
    ] = None,
) -> None:
    """Estimate parameters, FLOPs, memory and duration of a training run, on this machine and on some GPUs.

    With `--dataset`, propose a whole command for this text by its size, and say why. Any option of `scratch-gpt train
    language_modeling` may follow and replaces a part of the proposal, such as `--hidden_size 384`; or `--init_from`
    with a model to tune, of which only the config is read.

    With `--device`, estimate a run on named accelerators from their data sheets: memory of each, traffic, tokens per
    second, duration and cost, with `--shard` and `--replicas` as in training, and `--batch_size` per device.

    Examples:

    ```
    scratch-gpt plan --dataset my_text.txt
    scratch-gpt plan --tokens 10000000 --hidden_size 256 --num_hidden_layers 6 --num_attention_heads 4
    scratch-gpt plan --device h100 --devices 8 --shard --tokens 20000000000 --hidden_size 2048 --num_hidden_layers 18
    ```
    """
    from ..errors import ScratchError
    from ..hardware import use_all_cores
    from ..terminal import SafeConsole
    from ..train.arguments.training import check_arguments, check_init_from
    from ..train.cost_estimate.this_machine import make_plan
    from ..train.engine.parsing import parse_arguments
    from ..train.tasks.common import DEFAULT_CONTEXT_LENGTH
    from ..train.tasks.language_modeling.arguments import ARGUMENTS
    from ..train.tasks.language_modeling.build import build_config, initial_config

    cluster = ClusterOptions(device, devices, machines, mfu, network, disk, price_per_hour)
    cluster.check()
    argv = [*context.args, *(["--config", config] if config else [])]
    sizes = [] if vocab_size is None else ["--vocab_size", str(vocab_size)]
    parse = partial(parse_arguments, ARGUMENTS, "")
    data, model_args, args = parse(argv)
    console = SafeConsole()
    proposal = None
    with SafeConsole(stderr=True).status("reading the text"):
        if is_given("dataset", argv) or (config and data.dataset != ["stories"]):
            if vocab_size is not None and model_args.init_from is not None:
                raise ScratchError("--init_from determines the vocabulary: remove --vocab_size")
            proposal = propose([*argv, *sizes], parse)
            data, model_args, args = parse(proposal.arguments)
            vocab_size = proposal.vocab_size
    if proposal is not None and (little := proposal.too_little()):
        SafeConsole(stderr=True).print(f"warning: {little}", style="bold yellow")
    check_arguments(data, model_args, args)
    check_init_from(data, model_args)
    use_all_cores(args.num_threads)
    length, origin = model_args.context_length or DEFAULT_CONTEXT_LENGTH, model_args.init_from
    is_default = tokens is None and data.dataset == ["stories"]
    if origin is None:
        model_config = build_config(model_args, vocab_size or data.vocab_size or 4096, length, {})
    else:
        if vocab_size is not None and proposal is None:
            raise ScratchError("--init_from determines the vocabulary: remove --vocab_size")
        model_config, length = initial_config(model_args)
    step_tokens = args.batch_size * length * args.gradient_accumulation_steps
    if tokens is None and args.max_steps:
        tokens = args.max_steps * step_tokens
    elif tokens is None:
        tokens = proposal.tokens(args.epochs) if proposal else DEFAULT_TOKENS
    title = f"{origin or model_args.preset}, batches of {args.batch_size} × {length} tokens"
    if device is not None:
        console.print(cluster_table(cluster.plan(model_config, args, length, tokens, origin is not None), title))
        return
    SafeConsole(stderr=True).print("measuring the speed of this machine …")
    planned = make_plan(model_config, args, length, tokens, is_tuned=origin is not None)
    remark = None if origin else planned.remark("stories" if is_default else "fixed" if proposal else "any")
    console.print(table_of(planned, title, tokens, proposal, remark))
    replaced = ("epochs", "max_steps")
    command = proposal.command(*replaced) if proposal else command_line(without(replaced, argv))
    for line in [*(proposal.lines() if proposal else []), *shorter_run(planned, step_tokens, command)]:
        console.print(line, soft_wrap=True)


def shorter_run(planned: Any, step_tokens: int, command: str) -> list[str]:
    """Of a run that takes long, how to make it shorter, and how far its duration can be trusted; else nothing.

    Args:
        planned: a `Plan` of the run.
        step_tokens: number of tokens of an optimizer step.
        command: the training command, without `--epochs` and `--max_steps`.
    """
    if planned.seconds <= LONG_RUN:
        return []
    steps = max(1, round(SHORTER_RUN * planned.tokens_per_second / step_tokens))
    return [
        "",
        "A shorter run, of about 5 minutes here, for a worse model:",
        "",
        f"  {command} --max_steps {steps}",
        "",
        "The speed is that of this moment: other programs that run make it slower.",
    ]


def table_of(planned: Any, title: str, tokens: int, proposal: Any, remark: str | None) -> Any:
    """Build the table of the costs of a run.

    Args:
        planned: a `Plan`.
        title: of the table.
        tokens: number of training tokens.
        proposal: a `Proposal`, if there is a text.
        remark: remark on the tokens per parameter, or None.
    """
    import psutil
    from rich.table import Table

    from ..train.cost_estimate.accelerators import ACCELERATORS, COMMON, MFU

    table = Table(title=title, show_header=False)
    if proposal is not None:
        table.add_row("text", proposal.describe())
    table.add_row("tokens of the run", f"{tokens:,}")
    table.add_row("parameters", f"{planned.parameters:,}")
    if planned.inactive_parameters:
        table.add_row("active parameters per token", f"{planned.active_parameters:,}")
    table.add_row("FLOPs per token", f"{planned.flops_per_token:,.0f}")
    for part in ("weights", "gradients", "optimizer", "activations", "workspace", "total"):
        table.add_row(f"memory: {part}", f"{getattr(planned.memory, part) / 1e6:,.1f} MB")
    free = psutil.virtual_memory().available
    fits = "fits" if planned.memory.total < 0.9 * free else "does not fit"
    table.add_row("memory available here", f"{free / 1e6:,.0f} MB; {fits}")
    table.add_row("precision", planned.precision)
    achieved = planned.tokens_per_second * planned.flops_per_token
    table.add_row("here", f"{planned.tokens_per_second:,.0f} tokens/s ({achieved / 1e9:,.1f} GFLOP/s)")
    table.add_row("time here", _duration(planned.seconds))
    if remark is not None:
        table.add_row("tokens per parameter", f"{planned.tokens_per_parameter:.1f}: {remark}")
    shown_of: dict[str, list[str]] = {}  # GPUs of the same estimate share a line
    for gpu in (ACCELERATORS[name] for name in COMMON):
        seconds = tokens * planned.flops_per_token / (gpu.flops * MFU)
        fits = "fits" if planned.memory.total < 0.9 * gpu.memory else "does not fit"
        shown = f"at least {_duration(seconds)} at {MFU:.0%} of its peak"
        if seconds < SHORT_RUN:  # then the start and the launches of small kernels take most of the time
            shown = "too short a run to estimate from its FLOPs"
        shown_of.setdefault(f"{shown}; {fits}", []).append(gpu.title)
    for shown, names in shown_of.items():
        table.add_row(f"on one {', '.join(names)}", shown)
    return table


class Proposal:
    """Settings for a text.

    Args:
        source: the text.
        given: arguments that were given, which replace those of the proposal.
        data, model_args: the given arguments, parsed.
    """

    def __init__(self, source: Any, given: list[str], data: Any, model_args: Any):
        from ..train.tasks.language_modeling.advice import advise, bytes_per_token, fitting_context, size_of

        self.source, self.given = source, given
        self.size = size_of(source)
        has_settings = is_given("config", given) or is_given("init_from", given) or model_args.preset == "bigram"
        self.tier = None if has_settings or source.origin.built_in else advise(self.size.utf8_bytes)
        options = {} if self.tier is None else {n: v for n, v in self.tier.options.items() if not is_given(n, given)}
        if is_given("max_steps", given):
            options.pop("epochs", None)  # which it replaces
        if is_given("tokenizer", given):
            options.pop("vocab_size", None)  # the proposed one is for the proposed kind
        is_separate = data.validation_dataset or source.origin.validation_split
        self.fraction = 1.0 if is_separate else 1 - data.validation_fraction
        kind = options.get("tokenizer") or data.tokenizer or "bpe"
        tokenizer = kind if model_args.init_from is None or data.tokenizer else model_args.init_from
        trained = open_or_name(str(tokenizer), model_args.trust_remote_code)
        per_token, vocabulary = bytes_per_token(source, trained, options.get("vocab_size") or data.vocab_size)
        self.train_tokens = int(self.size.utf8_bytes / per_token * self.fraction)
        if "context_length" in options:
            options["context_length"] = fitting_context(options["context_length"], self.train_tokens)
        self.options = options
        self.vocab_size = None if model_args.init_from else vocabulary

    @property
    def arguments(self) -> list[str]:
        """All arguments of the training command."""
        return [*self.given, *flags_of(self.options)]

    def too_little(self) -> str | None:
        """A warning of a text that is too short to learn a language from, or None."""
        from ..data.readers.summary import little_text

        return None if self.source.origin.built_in else little_text(self.size.utf8_bytes, "byte")

    def tokens(self, epochs: float) -> int:
        """Number of tokens of a run of so many epochs."""
        return max(1, round(self.train_tokens * epochs))

    def describe(self) -> str:
        """The size of the text, and its number of training tokens."""
        size = f"{'' if self.size.complete else 'more than '}{_size(self.size.utf8_bytes)}"
        return f"{self.source.name}: {size}, about {self.train_tokens:,} tokens for training"

    def command(self, *omitted: str) -> str:
        """The training command, without some of the options."""
        arguments = [*without(omitted, self.given), *flags_of(self.options, omitted)]
        if not is_given("output_dir", arguments):
            name = Path(self.source.name).name.split(".")[0] or "mine"
            arguments = [*arguments, "--output_dir", f"runs/{name}"]
        return command_line(arguments)

    def lines(self) -> list[str]:
        """The command, and why it is proposed; nothing if the settings were given."""
        if self.tier is None:
            return []
        lines = ["", "Proposed for this text:", "", f"  {self.command()}", ""]
        lines += [f"- {reason}" for reason in self.tier.reasons]
        if replaced := sorted(n for n in self.tier.options if is_given(n, self.given)):
            lines.append(f"- as given, not as proposed: {', '.join(replaced)}")
        return lines


def propose(argv: list[str], parse: Any) -> Proposal:
    """Read the size of a text and propose settings for it.

    Args:
        argv: the given arguments.
        parse: parses arguments of language modelling.

    Raises:
        ScratchError: there are several texts.
    """
    from ..auto import register
    from ..errors import ScratchError
    from ..train.tasks.language_modeling.mixture import open_texts

    register()
    data, model_args, args = parse(argv)
    if len(data.dataset) > 1:
        raise ScratchError(
            f"plan proposes settings for one text, and there are {len(data.dataset)}: give one --dataset"
        )
    return Proposal(open_texts(data, args.seed)[0].source, argv, data, model_args)


def open_or_name(name: str, trust_remote_code: bool) -> Any:
    """Return the name of a kind of tokenizer, or open a tokenizer.

    Args:
        name: kind, folder or Hub id.
        trust_remote_code: whether to run code from there.
    """
    from ..hub.loading import open_tokenizer
    from ..tokenization.training import BUILDERS

    return name if name in BUILDERS else open_tokenizer(name, trust_remote_code=trust_remote_code)


def flags_of(options: dict[str, Any], omitted: tuple[str, ...] = ()) -> list[str]:
    """Options as arguments of a command, without those of the names `omitted`."""
    return [part for name, value in options.items() if name not in omitted for part in (f"--{name}", str(value))]


def without(names: tuple[str, ...], argv: list[str]) -> list[str]:
    """Arguments of a command without the options of these names, and without their values."""
    kept: list[str] = []
    skipped = False
    for each in argv:
        if each.startswith("--"):
            skipped = any(is_given(name, [each]) for name in names)
        if not skipped:
            kept.append(each)
    return kept


def is_given(name: str, argv: list[str]) -> bool:
    """Whether an option is among arguments, as `--name value` or `--name=value`, with - or _ in its name."""
    return any(each.startswith("--") and each[2:].split("=")[0].replace("-", "_") == name for each in argv)


def command_line(arguments: list[str]) -> str:
    """The training command with these arguments, quoted for a shell."""
    return f"scratch-gpt train language_modeling {shlex.join(arguments)}"


def _size(utf8_bytes: int) -> str:
    return f"{utf8_bytes / 1e6:,.1f} MB" if utf8_bytes >= 1e6 else f"{utf8_bytes / 1e3:,.1f} kB"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "under 1 s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
