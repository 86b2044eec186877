"""`scratch-gpt plan`: estimate the cost of a training run."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def plan(
    context: typer.Context,
    config: Annotated[
        str | None, typer.Option(help="Configuration file, as for `scratch-gpt train language_modeling`.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Number of training tokens.")] = 1_300_000,
    vocab_size: Annotated[
        int | None, typer.Option("--vocab_size", min=1, help="Vocabulary size. Default: that of --config, or 4096.")
    ] = None,
) -> None:
    """Estimate parameters, FLOPs, memory and duration of a training run, on this machine and on some GPUs.

    Any option of `scratch-gpt train language_modeling` may follow, such as `--hidden_size 384`, or `--init_from` with
    a model to tune, of which only the config is read.

    Example:

    ```
    scratch-gpt plan --tokens 10000000 --hidden_size 256 --num_hidden_layers 6 --num_attention_heads 4
    ```
    """
    from rich.table import Table

    from ..errors import ScratchError
    from ..hardware import use_all_cores
    from ..terminal import SafeConsole
    from ..train.arguments.training import check_arguments, check_init_from
    from ..train.cost_estimate import GPUS, UTILISATION, make_plan
    from ..train.engine.parsing import parse_arguments
    from ..train.tasks.common import DEFAULT_CONTEXT_LENGTH
    from ..train.tasks.language_modeling.arguments import ARGUMENTS
    from ..train.tasks.language_modeling.build import build_config, initial_config

    argv = [*context.args, *(["--config", config] if config else [])]
    data, model_args, args = parse_arguments(ARGUMENTS, "", argv)
    check_arguments(data, model_args, args)
    check_init_from(data, model_args)
    use_all_cores(args.num_threads)
    length, origin = model_args.context_length or DEFAULT_CONTEXT_LENGTH, model_args.init_from
    with SafeConsole(stderr=True).status("measuring a few steps"):
        if origin is None:
            model_config = build_config(model_args, vocab_size or data.vocab_size or 4096, length, {})
        else:
            if vocab_size is not None:
                raise ScratchError("--init_from determines the vocabulary: remove --vocab_size")
            model_config, length = initial_config(model_args)
        planned = make_plan(model_config, args, length, tokens, is_tuned=origin is not None)

    title = f"{origin or model_args.preset}, batches of {args.batch_size} × {length} tokens"
    table = Table(title=title, show_header=False)
    table.add_row("parameters", f"{planned.parameters:,}")
    if planned.inactive_parameters:
        table.add_row("active parameters per token", f"{planned.active_parameters:,}")
    table.add_row("FLOPs per token", f"{planned.flops_per_token:,.0f}")
    for part in ("weights", "gradients", "optimizer", "activations", "workspace", "total"):
        table.add_row(f"memory: {part}", f"{getattr(planned.memory, part) / 1e6:,.1f} MB")
    achieved = planned.tokens_per_second * planned.flops_per_token
    table.add_row("here", f"{planned.tokens_per_second:,.0f} tokens/s ({achieved / 1e9:,.0f} GFLOP/s)")
    table.add_row("time here", _duration(planned.seconds))
    if origin is None:
        table.add_row("tokens per parameter", f"{planned.tokens_per_parameter:.1f}: {planned.remark()}")
    for name, gpu in GPUS.items():
        seconds = tokens * planned.flops_per_token / (gpu.flops * UTILISATION)
        fits = "fits" if planned.memory.total < 0.9 * gpu.memory else "does not fit"
        table.add_row(f"on one {name}", f"at least {_duration(seconds)} at {UTILISATION:.0%} of its peak; {fits}")
    SafeConsole().print(table)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
