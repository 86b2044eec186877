"""`scratch-gpt info`: show the parameters of a model, the results of its run, and the files that others need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Model, Trust, app, open_model


@app.command()
def info(
    model: Model,
    copy_to: Annotated[
        Path | None,
        typer.Option(
            "--copy_to",
            help="Copy the files that someone else needs to load the model into this new folder, without checkpoints "
            "and the record of the run.",
        ),
    ] = None,
    trust_remote_code: Trust = False,
) -> None:
    """Show the parameters of a model: name, shape, number and fraction of the total. Of a run, also show its best
    evaluation, and which files someone else needs to load its model.

    Examples:

    ```
    scratch-gpt info runs/gpt
    scratch-gpt info runs/gpt --copy_to gpt_for_a_friend
    ```
    """
    from ..errors import ScratchError
    from ..hub.new_folder import check_empty
    from ..hub.shared_files import copy_shared_files, describe_files, is_adapter_only
    from ..terminal import SafeConsole

    folder, console = Path(model), SafeConsole()
    if copy_to is not None:
        check_empty(copy_to)
    if is_adapter_only(folder):
        console.print(f"{folder} has no model, only an adapter, which PEFT loads on its base model")
    else:
        opened, _ = open_model(model, trust_remote_code)
        console.print(table_of(opened))
    if folder.is_dir():
        try:
            if (results := results_of(folder)) is not None:
                console.print(results)
        except (ScratchError, ArithmeticError) as error:  # of the record of the run, which the model does not need
            console.print(f"no results of the run: {error}", soft_wrap=True)
        for line in describe_files(folder):
            console.print(line, soft_wrap=True)
    if copy_to is not None:
        count = copy_shared_files(folder, copy_to)
        console.print(f"copied {count} files to {copy_to}", soft_wrap=True)


def table_of(model: Any) -> Any:
    """Build the table of the parameters of a model."""
    from rich.table import Table

    total = model.num_parameters()
    title = f"{type(model).__name__}, {total:,} parameters"
    table = Table("tensor", "shape", "parameters", "fraction", title=title)
    for name, parameter in model.named_parameters():
        shape = " × ".join(map(str, parameter.shape))
        table.add_row(name, shape, f"{parameter.numel():,}", f"{parameter.numel() / total:.1%}")
    tied = sorted(getattr(model, "all_tied_weights_keys", None) or {})
    if tied:
        table.caption = f"tied to the embedding: {', '.join(tied)}"
    return table


def results_of(folder: Path) -> Any:
    """Build the table of the best evaluation of a run; None if the folder has no evaluations of a known family.

    Args:
        folder: directory of a run, which is untrusted.
    """
    from rich.table import Table

    from ..metrics import find_metric
    from ..train.engine.run_directory import METRICS, RECORD, best_evaluation, read_metrics, read_run
    from ..train.tasks import recipe_of

    if not (folder / RECORD).is_file() or not (folder / METRICS).is_file():
        return None
    record = read_run(folder)
    card = recipe_of(record.facts.get("task")).card
    metric = find_metric(card.metrics, str(record.arguments.get("metric_for_best_model")))
    best = None if metric is None else best_evaluation(read_metrics(folder), metric)
    if best is None:
        return None
    table = Table("metric", "value", title=f"Best evaluation, step {best['step']:,}")
    for each in (*card.metrics, *card.details):
        if each.name in best:
            table.add_row(each.label, f"{best[each.name]:{each.format}}")
        if (before := f"{each.name}_before") in best:
            table.add_row(f"{each.label}, before tuning", f"{best[before]:{each.format}}")
    return table
