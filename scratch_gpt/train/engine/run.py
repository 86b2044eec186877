"""A complete training run: record its arguments, train, and write a model directory."""

from __future__ import annotations

import gc
import os
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.state import AcceleratorState, GradientState

from ...atomic_files import write_text
from ...errors import ScratchError, TrainingError
from ...evaluation.general_text import METRIC, GeneralText, describe_change
from ...hub.base_model import base_model_facts, stored_dtype
from ...hub.card import render_card
from ...hub.loading import DTYPES
from ...hub.model_directory import ModelDirectory
from ...hub.native.convert import folded_vectors, native_facts
from ...hub.native.importing import is_native_config
from ...hub.shared_files import describe_files
from ...metrics import find_metric
from ...redaction import redact
from ...terminal import SafeConsole
from ...untrusted import read_yaml
from ..arguments.default_rates import with_default_rates
from ..arguments.training import check_arguments, check_init_from, names_with
from ..checkpoints.checkpoint import newest_checkpoint
from ..optim.optimizers import build_optimizers
from .heartbeat import heartbeats
from .launcher_settings import describe_launcher_settings
from .page import describe_old_page, write_run_page
from .recipe import Job, Recipe
from .run_directory import RECORD, add_to_best_evaluation, read_metrics, read_run, write_run
from .sharding import is_sharded, shard
from .startup import PROCESS_GROUP_TIMEOUT, check_output_dir, make_output_dir, start_processes
from .trainer import Trainer

CARD = "README.md"
# By default, wandb records the command line and the URL of the git remote, with any secrets in them.
TRACKERS = {"wandb": {"settings": {"x_disable_meta": True, "disable_git": True}}}


def train_recipe(recipe: Recipe, data: Any, model_args: Any, args: Any) -> Path:
    """Train a model and report on the result; every process must call it.

    Args:
        recipe: the task.
        data, model_args, args: instances of its argument classes.

    Returns:
        The directory of the run, with the best model.

    Raises:
        ScratchError: bad input; a subclass: the run failed or was interrupted.
    """
    # All errors of the input are raised before anything is written.
    check_settings(data, model_args, args)
    if not torch.distributed.is_initialized():  # an earlier run of this process may have had another precision
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    resume_from = newest_checkpoint(Path(args.output_dir), start_processes()) if args.resume else None
    if int(os.environ.get("RANK", 0)) == 0:
        for line in describe_launcher_settings(args):
            print(line)
    job = resolve_defaults(recipe.prepare(data, model_args, args, resume_from), model_args)
    arguments = {name: value for part in (data, model_args, job.args) for name, value in asdict(part).items()}
    folder, best_step, finished = run(job, recipe, arguments, resume_from)
    if job.accelerator.is_main_process:
        say = partial(SafeConsole().print, soft_wrap=True)
        if job.args.page:
            write_run_page(folder, model_name(job.args), job.args.film, say)
        elif old_page := describe_old_page(folder):
            say(old_page)
        try:
            numbers = job.report(folder)
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TrainingError(f"{folder} is complete, but its model can't be demonstrated: {reason}") from error
        if numbers:
            _save_numbers(folder, numbers, job, recipe)
        if job.general_text is not None:
            _report_general_text(folder, job.general_text, best_step)
        for line in (*describe_files(folder), *finished):
            say(line)
    return folder


def _save_numbers(folder: Path, numbers: dict[str, float | str], job: Job, recipe: Recipe) -> None:
    """Save numbers with the best evaluation of a run, and write its card again, which shows them."""
    metric = find_metric(job.task.metrics, job.args.metric_for_best_model)
    assert metric is not None  # `run` has checked it
    add_to_best_evaluation(folder, metric, numbers)
    write_text(folder / CARD, render_run_card(folder, recipe))


def render_run_card(folder: Path, recipe: Recipe) -> str:
    """Render the model card of a run from its files.

    Args:
        folder: directory of the run.
        recipe: its task.
    """
    private = names_with("private", recipe.arguments)
    return render_card(read_yaml(folder / RECORD), read_metrics(folder), recipe.card, private)


def resolve_defaults(job: Job, model_args: Any) -> Job:
    """Return a job with the defaults that depend on its model, and say what they are.

    Args:
        job: a prepared job.
        model_args: model arguments of its family.

    Raises:
        ScratchError: the optimizer can't train adapters, or a page can't show the run's film.
    """
    parameters = job.facts.get("parameters", job.model.num_parameters())
    lora = getattr(model_args, "lora_rank", None) is not None
    args, chosen = with_default_rates(job.args, parameters, model_args.init_from is not None, lora)
    args = replace(args, precision="bf16" if job.accelerator.mixed_precision == "bf16" else "fp32")
    if chosen is not None and job.accelerator.is_main_process:
        print(chosen)
    job = replace(job, args=args)
    check_film(job)
    return job if args.save_dtype != "auto" else _with_save_dtype(job, model_args)


def check_film(job: Job) -> None:
    """Check that a page can show the film that the run is to keep.

    Raises:
        ScratchError: the run publishes no whole model, or one in a class of transformers.
    """
    if not job.args.film:
        return
    if job.adapter is not None and job.adapter.only:
        raise ScratchError("--film keeps whole models, and --adapter_only publishes none that a page shows: omit one")
    if is_native_config(job.model.config):
        name = type(job.model).__name__
        raise ScratchError(f"--film is for models of this package, and this run trains a {name}: omit --film")


def _with_save_dtype(job: Job, model_args: Any) -> Job:
    """Resolve the data type of the published weights: that of the checkpoint that the run starts from."""
    stored, name = torch.float32, "float32"
    if model_args.init_from is not None:
        stored = stored_dtype(model_args.init_from, model_args.trust_remote_code)
        name = str(stored).removeprefix("torch.")
    if name not in DTYPES:
        name = "float32"
    if job.accelerator.is_main_process and stored != torch.float32:
        print(f"trained with float32 weights, published in {name}: {model_args.init_from} is stored in {stored}")
    return replace(job, args=replace(job.args, save_dtype=name))  # type: ignore[arg-type]


def check_settings(data: Any, model_args: Any, args: Any) -> None:
    """Check what can be checked before processes are started and data is read; arguments as of `train_recipe`.

    Raises:
        ScratchError: numbers out of their bounds, an output directory that is in use, or arguments that `--init_from`
            determines.
    """
    check_arguments(data, model_args, args)
    check_output_dir(args)
    check_init_from(data, model_args)


def run(
    job: Job, recipe: Recipe, arguments: dict[str, Any], resume_from: Path | None = None
) -> tuple[Path, int, tuple[str, ...]]:
    """Train a prepared job; every process must call it.

    Args:
        job: model, task and training arguments.
        recipe: the task.
        arguments: all arguments of the run by name, for its record.
        resume_from: checkpoint whose weights the model already has.

    Returns:
        The directory of the run, with the best model; the step of that model; and, if the run was finished before, a
        line that says so.

    Raises:
        ScratchError: `metric_for_best_model` is not a metric of the task, or the directory can't be created.
    """
    accelerator, model, args = job.accelerator, job.model, job.args
    if args.metric_for_best_model not in [metric.name for metric in job.task.metrics]:
        known = ", ".join(metric.name for metric in job.task.metrics)
        raise ScratchError(f"metric_for_best_model is {args.metric_for_best_model!r}, want one of {known}")
    folder = Path(args.output_dir)
    if accelerator.is_main_process:
        facts = {"task": recipe.family, "title": model_name(args), "parameters": model.num_parameters()}
        facts |= {**native_facts(model), **job.facts}
        facts |= {"dtype": args.save_dtype, **_base_model(folder, model.config, arguments)}
        write_run(make_output_dir(args), arguments, facts, accelerator.num_processes, accelerator.device)
    accelerator.wait_for_everyone()
    if args.tracker:
        accelerator.init_trackers("scratch_gpt", config=tracker_config(arguments), init_kwargs=TRACKERS)
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    # A compiled step rounds differently: whether one is in the cache must not decide what a run samples.
    cast(Any, model).decoding_compilation = "off"
    try:
        trainer = make_trainer(job, recipe, folder, resume_from)
        finished = describe_resumed(trainer) if resume_from is not None else ()
        gc.freeze()  # the garbage collections of plots and saves then skip what exists now
        with heartbeats(PROCESS_GROUP_TIMEOUT):
            best_step = trainer.run().best_step
    finally:
        gc.unfreeze()
        accelerator.end_training()
    return folder, best_step, finished


def describe_resumed(trainer: Trainer) -> tuple[str, ...]:
    """Print where a resumed run continues; return the line if the run is finished already, else nothing."""
    step, is_finished = trainer.state.step, trainer.is_finished()
    line = f"already finished at step {step:,}: nothing to train" if is_finished else f"resumed at step {step:,}"
    if trainer.accelerator.is_main_process:
        SafeConsole().print(line)
    return (line,) if is_finished else ()


def tracker_config(arguments: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """The arguments of a run as trackers record them: without secrets, and lists as text, which TensorBoard refuses."""
    given = {name: value for name, value in redact(arguments).items() if value is not None}
    return {n: value if isinstance(value, bool | int | float | str) else str(value) for n, value in given.items()}


def model_name(args: Any) -> str:
    """The name of the model of a run, given its training arguments."""
    return args.model_name or Path(args.output_dir).resolve().name


def _base_model(folder: Path, config: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The fact "base_model" of a run that starts from a checkpoint: as it was recorded, if the run is resumed, since
    the checkpoint may be gone."""
    if arguments.get("init_from") is None:
        return {}
    if arguments["resume"] and (folder / RECORD).is_file():
        recorded = read_run(folder).facts
        return {"base_model": recorded["base_model"]} if "base_model" in recorded else {}
    relation = "adapter" if arguments.get("adapter_only") else "finetune"
    return {"base_model": base_model_facts(arguments["init_from"], config, relation)}


def _report_general_text(folder: Path, text: GeneralText, best_step: int) -> None:
    """Print the loss on general text before tuning and of the published model, and warn if it has risen much."""
    rows = [row for row in read_metrics(folder) if row["step"] == best_step and METRIC.name in row]
    if not rows or text.before is None:
        return
    line, warns = describe_change(text, text.before, rows[-1][METRIC.name])
    SafeConsole(stderr=warns).print(f"warning: {line}" if warns else line, style="bold yellow" if warns else None)


def make_trainer(job: Job, recipe: Recipe, folder: Path, resume_from: Path | None) -> Trainer:
    """Build the trainer of a job.

    Args:
        job: model, task and training arguments.
        recipe: the task.
        folder: directory of the run, which the trainer writes into.
        resume_from: checkpoint whose weights the model already has.
    """
    directory = ModelDirectory(
        job.model,
        job.tokenizer,
        model_name(job.args),
        lambda: render_run_card(folder, recipe),
        job.target_tokenizer,
        job.published if job.adapter is None else job.adapter.merged,
        DTYPES.get(job.args.save_dtype, torch.float32),
        job.adapter,
        folded_vectors(job.model),
    )
    if is_sharded(job.accelerator):
        shard(job.model, job.accelerator, job.args.replicas)
    optimizers = build_optimizers(job.model, job.args)
    common = job.accelerator, job.model, optimizers, job.task, job.args, directory, folder
    return Trainer(*common, resume_from, job.general_text)
