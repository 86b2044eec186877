"""The ablation ladder: each idea on the way from the bigram to a modern GPT, with one budget on one text.

The first four rungs are separate models; from one head on, each rung changes one thing of the previous one (GPT's
initialization two). Optimizers and learning rates are the same for all and tuned for none: AdamW (Adam with decoupled
weight decay, Loshchilov and Hutter 2019) for embeddings, head, norms and biases, Muon for the other matrices
(`train/optim/muon.py`: momentum, orthogonalized). The learning rates have a warm-up of 20 steps and a cosine decay, and
the gradient norm is clipped to 1. All rungs are evaluated on the same held-out end of the text.

The models are in `ladder_models.py`. Dimension letters: B batch, T characters, V vocabulary.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data.corpora.stories import stories
from ..errors import ScratchError
from ..hardware import available_cores
from ..train.optim.muon import Muon
from .ladder_models import CONTEXT, HIDDEN, RUNGS, Rung
from .lesson import BLUE, LIGHT, RED, Presenter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZE = 8
HELD_OUT = 0.1  # fraction of the text, at its end


GPT_RUNGS = 1 + [rung.name for rung in RUNGS].index("GPT")  # the rungs of the first table
HEAD_RUNG = [rung.name for rung in RUNGS].index("one head")
COLUMNS = ("rung", "new", "loss", "gain", "params", "s")


@dataclass(frozen=True)
class Result:
    """The result of one rung with one seed.

    Attributes:
        rung: name of the rung.
        seed: of weights and batches.
        loss: on the held-out text, in nats per character.
        parameters: number of parameters.
        seconds: training time.
    """

    rung: str
    seed: int
    loss: float
    parameters: int
    seconds: float


def open_text(path: Path | None) -> str:
    """Read a text file, or generate built-in stories of about a million characters if `path` is None.

    Raises:
        ScratchError: the file does not exist, or is not UTF-8 text.
    """
    if path is None:
        return "\n".join(stories(0, 3000))
    if not path.is_file():
        raise ScratchError(f"no such file: {path}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ScratchError(f"{path} is not UTF-8 text: {error}") from error


def split_text(text: str) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Convert a text to ids and split it.

    Returns:
        The ids of the training text, those of its held-out end, and the character of each id.

    Raises:
        ScratchError: the text is too short, or has only one distinct character.
    """
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    ids = torch.tensor([number[character] for character in text])
    split = int(len(ids) * (1 - HELD_OUT))
    if len(ids) * HELD_OUT < CONTEXT + 1:
        raise ScratchError(f"the text has {len(ids):,} characters, want at least {int((CONTEXT + 1) / HELD_OUT):,}")
    if len(characters) < 2:
        raise ScratchError(f"the text consists of one repeated character, {characters[0]!r}: want at least two")
    return ids[:split], ids[split:], characters


def build_optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Build Muon for the matrices other than embeddings and head, those of experts included, and AdamW for all other
    parameters."""
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    heads = {id(p) for n, m in model.named_modules() if n.endswith(("lm_head", "output")) for p in m.parameters()}
    matrices = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings | heads]
    matrix_ids = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in matrix_ids]
    adamw = torch.optim.AdamW(others, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    return [adamw, Muon(matrices, lr=2e-2)] if matrices else [adamw]


def train(rung: Rung, text: str, seed: int, steps: int) -> Result:
    """Train and evaluate a rung.

    Args:
        rung: the rung.
        text: the whole text; its end is held out.
        seed: of weights and batches.
        steps: number of steps.
    """
    train_ids, held_out, characters = split_text(text)
    torch.manual_seed(seed)
    model = rung.build(len(characters))
    generator = torch.Generator().manual_seed(seed)
    optimizers = build_optimizers(model)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    peak_rates = [group["lr"] for group in groups]
    started = time.perf_counter()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, peak in zip(groups, peak_rates, strict=True):
            group["lr"] = peak * factor
        starts = torch.randint(len(train_ids) - CONTEXT, (BATCH_SIZE,), generator=generator)
        batch = torch.stack([train_ids[start : start + CONTEXT + 1] for start in starts])  # (B, T + 1)
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
    seconds = time.perf_counter() - started
    parameters = sum(p.numel() for p in model.parameters())
    return Result(rung.name, seed, evaluate(model.eval(), held_out), parameters, seconds)


@torch.no_grad()
def evaluate(model: nn.Module, ids: torch.Tensor) -> float:
    """Return the mean loss of ids (N,) in nats per character, in independent windows of CONTEXT characters; the first
    character and an incomplete last window are not scored."""
    full = (len(ids) - 1) // CONTEXT * CONTEXT
    inputs, targets = ids[:full].view(-1, CONTEXT), ids[1 : full + 1].view(-1, CONTEXT)
    total = 0.0
    for x, y in zip(inputs.split(64), targets.split(64), strict=True):
        total += F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
    return total / full


def train_all(text: str, seeds: int, steps: int) -> dict[str, list[Result]]:
    """Train all rungs with all seeds, in one process per core, each with one thread.

    Args:
        text: the whole text; its end is held out.
        seeds: number of seeds.
        steps: steps of each run.

    Returns:
        The results of each rung, by name.

    Raises:
        ScratchError: the text is too short, or has only one distinct character.
    """
    split_text(text)
    results: dict[str, list[Result]] = {rung.name: [] for rung in RUNGS}
    with ProcessPoolExecutor(available_cores(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        # The slowest first, so that no core is idle at the end.
        futures = [pool.submit(train, rung, text, seed, steps) for rung in reversed(RUNGS) for seed in range(seeds)]
        for future in tqdm(
            as_completed(futures), total=len(futures), desc="training", unit=" runs", leave=False, disable=None
        ):
            result = future.result()
            results[result.rung].append(result)
    return results


def find_without_gain(results: dict[str, list[Result]]) -> list[str]:
    """Describe the rungs whose loss is not below the previous rung's by more than the range over the seeds."""
    descriptions = []
    for previous, name in itertools.pairwise(results):
        losses, previous_losses = ([result.loss for result in results[n]] for n in (name, previous))
        gain = statistics.mean(previous_losses) - statistics.mean(losses)
        spread = max(max(losses) - min(losses), max(previous_losses) - min(previous_losses))
        if gain <= spread:
            comparison = "is worse than" if gain < -spread else "is within the noise of"
            descriptions.append(f"{name} {comparison} {previous} ({-gain:+.3f}, seeds differ by {spread:.3f})")
    return descriptions


def tabulate(results: dict[str, list[Result]], uniform_loss: float) -> list[tuple[str, ...]]:
    """Return a row for each rung, with the cells of COLUMNS.

    Args:
        results: of each rung, by name.
        uniform_loss: loss of a uniform prediction, to which the first rung is compared.
    """
    previous_loss = uniform_loss
    rows: list[tuple[str, ...]] = []
    for rung in RUNGS:
        losses = [result.loss for result in results[rung.name]]
        mean, half_range = statistics.mean(losses), (max(losses) - min(losses)) / 2
        loss = f"{mean:.3f}" + (f" ±{half_range:.3f}" if len(losses) > 1 else "")
        seconds = statistics.mean(result.seconds for result in results[rung.name])
        parameters = f"{results[rung.name][0].parameters // 1000}k"
        rows.append((rung.name, rung.idea, loss, f"{previous_loss - mean:+.2f}", parameters, f"{seconds:.0f}"))
        previous_loss = mean
    return rows


def run(presenter: Presenter, text: str, seeds: int = 3, steps: int = 1200) -> dict[str, list[Result]]:
    """Explain and train all rungs, and present the results as two tables and a plot.

    Args:
        presenter: where to present them.
        text: the whole text; its end is held out.
        seeds: number of runs of each rung.
        steps: steps of each run.

    Returns:
        The results of each rung, by name.

    Raises:
        ScratchError: the text is too short, or has only one distinct character.
    """
    uniform_loss = math.log(len(split_text(text)[2]))
    explain(presenter)
    presenter.section(
        "The ladder, up to a GPT",
        f"""{steps:,} steps, batches of {BATCH_SIZE} × {CONTEXT} characters, {HIDDEN} features. Held-out loss in nats
        per character, {"one seed" if seeds == 1 else f"mean of {seeds} seeds ± half their range"}. A uniform prediction
        has {uniform_loss:.3f}. "gain" is the difference to the rung above.""",
    )
    results = train_all(text, seeds, steps)
    rows = tabulate(results, uniform_loss)
    presenter.table(COLUMNS, rows[:GPT_RUNGS])
    presenter.section("The ladder, from a GPT to current models", "Each changes one thing of the model above it.")
    presenter.table(COLUMNS, rows[GPT_RUNGS:])
    if seeds > 1 and (without_gain := find_without_gain(results)):
        presenter.section(
            "Without gain at this size",
            f"""These are not lower than the rung above by more than the seeds of either differ (highest minus lowest
            loss): {"; ".join(without_gain)}.""",
        )
    presenter.plot("ladder", PLOT_TITLE, lambda figure: draw(results, figure), (11, 5.8))
    discuss(presenter)
    return results


def explain(presenter: Presenter) -> None:
    """Present the question and a sentence on each rung."""
    presenter.section(
        "The question",
        """Between the bigram and a current language model lie some fifteen ideas. Which of them matter? The ladder adds
        one at a time and measures the loss each time, with everything else unchanged: the same text, the same number of
        steps on the same batches, the same optimizers, tuned for none of the models. Such an experiment is called an
        ablation. What it says holds for this budget: small models, little text, minutes of training. It does not say
        what holds for large ones.""",
    )
    for title, rungs in (
        ("Rungs without attention", RUNGS[:HEAD_RUNG]),
        ("Rungs up to a GPT", RUNGS[HEAD_RUNG:GPT_RUNGS]),
        ("Rungs from a GPT to current models", RUNGS[GPT_RUNGS:]),
    ):
        presenter.section(title, "\n".join(f"- {rung.name}: {rung.meaning}" for rung in rungs))


def discuss(presenter: Presenter) -> None:
    """Present what the results mean, and what they do not show."""
    presenter.section(
        "Why is one head no better than the bigram?",
        """The bigram reads the last character directly: its row of the table is the prediction. One head without
        residual connection never sees that character directly. It sees an average of the past, which contains the last
        character only if query and key find it, and it must learn that first: by position, as in the lesson on
        attention. An average of several characters hides which they were and in what order. On TinyShakespeare the
        bigram has 2.49 nats and one head 2.55 (one seed); the same head with a residual connection around it, so that
        the last character's vector is kept and the average added to it, has 2.29, and with layer norm 2.21. Several
        heads help for the same reason: one can keep the last character while others look further back.""",
    )
    presenter.section(
        "Why attention, if a recurrent network is as good?",
        f"""At this size it is: on TinyShakespeare the recurrent network has 1.83 nats with 49 thousand weights, a GPT
        of three blocks 1.82 with 611 thousand and nine times the training time. With {CONTEXT} characters of context
        and few weights, one state can hold what is needed. Attention wins where this ends:

        - Parallel training. The state of character t needs that of t - 1: a thousand characters are a thousand steps,
          one after the other. Attention computes all positions at once, as one product of matrices, which is what
          graphics processors are fast at.
        - Long range. Between two characters that are n apart, the gradient of a recurrent network passes n times
          through the same matrix, and vanishes or explodes, as in the lesson on depth. Attention connects any two in
          one step, and keeps all of the past instead of one vector.
        - Size. The gains of more blocks, weights and text last longer. This ladder is too short to show that (Kaplan et
          al. 2020, arXiv:2001.08361, compare both).""",
    )


PLOT_TITLE = "Seventeen models with the same budget: loss, size and training time"


def draw(results: dict[str, list[Result]], figure: Figure) -> None:
    """Plot loss, number of parameters and training time of every rung, with the bigram at the top."""
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(3, 1, 1))
    names = list(results)
    positions = list(range(len(names)))

    def means(field: str) -> Sequence[float]:
        return [statistics.mean(getattr(result, field) for result in results[name]) for name in names]

    losses = means("loss")
    panels[0].plot(losses, positions, color=LIGHT, linewidth=2, zorder=1)
    for position, name in zip(positions, names, strict=True):
        panels[0].scatter(
            [result.loss for result in results[name]], [position] * len(results[name]), color=BLUE, s=14, zorder=2
        )
        end = max(result.loss for result in results[name]), position
        panels[0].annotate(f"{losses[position]:.2f}", end, (8, 0), textcoords="offset points", va="center")
    panels[0].set(yticks=positions, yticklabels=names, xlabel="held-out loss in nats per character")
    panels[0].invert_yaxis()
    panels[0].margins(x=0.12)
    for axes, field, label in ((panels[1], "parameters", "parameters"), (panels[2], "seconds", "seconds to train")):
        axes.barh(positions, means(field), color=RED if field == "seconds" else LIGHT)
        axes.set(xlabel=label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}")
    for axes in panels:
        axes.grid(alpha=0.25, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
