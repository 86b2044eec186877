"""The ladder: every idea on the way from the bigram to today's GPT, under one budget on one text.

The first four rungs are models of their own; from one head on, each rung changes one thing of the one before (GPT's
start two). The budget is the same steps on the same batches in the same order, not the same seconds or parameters.
Optimizers and learning rates are the same for all and tuned for none: AdamW (Adam, Loshchilov and Hutter 2019) for
embeddings, head, norms and biases, Muon for the matrices between (`train/optim/muon.py`: momentum with all its singular
values made about 1); the rates rise for 20 steps and fall along a cosine, and a gradient longer than 1 is cut to 1. All
are judged on the same held-out end of the text.

What no station before has shown:

- *recurrent network*: one memory, which each character rewrites: h_t = tanh(x_t W + h_{t-1} U + b);
- *feed-forward*: each token through two layers of its own, C → 4C → C, with a bend between;
- *GPT's start*: one matrix for embedding and head, and small random weights (GPT-2);
- *RMSNorm*: x / √mean(x²) times a learned scale, without mean and bias;
- *rotary positions*: pairs of features of query and key are turned by t · θ_i, θ_i = 10000^(-2i/D), so that of the
  positions only their distance enters the product;
- *SwiGLU*: (silu(x W_g) · x W_u) W_d: one half of the wide layer opens and closes the other.

Rungs are made of `models/` wherever they are its special case; what is built here is only what the GPT is not: the
window, the recurrent network, and a block that still lacks something.

Every model here takes ids (B, T) and gives scores (B, T, V). Dimension letters: B batch, T characters, C features,
V vocabulary.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from ..data.corpora.stories import stories
from ..errors import ScratchError
from ..hardware import available_cores
from ..models.attention import ScratchAttention
from ..models.configuration_scratch_bigram import ScratchBigramConfig
from ..models.configuration_scratch_gpt import ScratchGPTConfig
from ..models.feed_forward import FeedForward
from ..models.modeling_scratch_bigram import ScratchBigramForCausalLM
from ..models.modeling_scratch_gpt import ScratchGPTForCausalLM
from ..models.normalization import build_norm
from ..train.optim.muon import Muon
from .lesson import BLUE, LIGHT, RED, Lesson
from .text import WINDOW, WindowNetwork

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN, BLOCKS, HEADS, CONTEXT, ROWS = 128, 3, 4, 64, 8
HELD_OUT = 0.1  # share of the text, at its end
NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


class Bigram(nn.Module):
    """A table: scores for what follows each character."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.model = ScratchBigramForCausalLM(ScratchBigramConfig(vocab_size=vocab_size))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids).logits


class Window(nn.Module):
    """The last characters, each an embedding, side by side through one hidden layer; a row is preceded by ids 0."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.network = WindowNetwork(vocab_size, dimensions=16, hidden_size=HIDDEN)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        windows = F.pad(ids, (WINDOW - 1, 0)).unfold(1, WINDOW, 1)  # (B, T, WINDOW)
        return self.network(windows.flatten(0, 1)).unflatten(0, ids.shape)


class Recurrent(nn.Module):
    """A memory that every character rewrites (Elman 1990)."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, HIDDEN)
        self.input = nn.Linear(HIDDEN, HIDDEN)
        self.memory = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.lm_head = nn.Linear(HIDDEN, vocab_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        inputs = self.input(self.embed_tokens(ids))  # (B, T, C)
        state, states = torch.zeros_like(inputs[:, 0]), []
        for step in inputs.unbind(1):
            state = torch.tanh(step + self.memory(state))
            states.append(state)
        return self.lm_head(torch.stack(states, dim=1))


class UnfinishedGPT(nn.Module):
    """One block of a GPT that lacks something: heads, feed-forward, residuals or norms."""

    def __init__(
        self, vocab_size: int, heads: int, feed_forward: bool = False, residual: bool = False, norm: bool = False
    ):
        super().__init__()
        config = gpt_config(vocab_size, num_attention_heads=heads, attn_implementation="sdpa")
        self.residual = residual
        self.embed_tokens = nn.Embedding(vocab_size, HIDDEN)
        self.embed_positions = nn.Embedding(CONTEXT, HIDDEN)
        branches = [ScratchAttention(config, 0), *([FeedForward(config)] if feed_forward else [])]
        self.branches = nn.ModuleList(branches)
        self.norms = nn.ModuleList(build_norm(config) if norm else nn.Identity() for _ in range(len(branches) + 1))
        self.lm_head = nn.Linear(HIDDEN, vocab_size, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        for branch, norm in zip(self.branches, self.norms, strict=False):
            found = branch(norm(x))
            found = found[0] if isinstance(found, tuple) else found
            x = x + found if self.residual else found
        return self.lm_head(self.norms[-1](x))


class GPT(nn.Module):
    """The GPT of `models/`."""

    def __init__(self, vocab_size: int, **settings: Any):
        super().__init__()
        self.model = ScratchGPTForCausalLM(gpt_config(vocab_size, **settings))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(ids, use_cache=False).logits


def gpt_config(vocab_size: int, **settings: Any) -> ScratchGPTConfig:
    """GPT-2's style at the size of the ladder."""
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS, **NO_DROPOUT}
    return ScratchGPTConfig.from_preset(
        "gpt2", vocab_size=vocab_size, max_position_embeddings=CONTEXT, **{**sizes, **settings}
    )


@dataclass(frozen=True)
class Rung:
    """An idea.

    Attributes:
        name: what the model is then.
        idea: what is new, in a few words.
        build: the model, for a size of vocabulary.
    """

    name: str
    idea: str
    build: Callable[[int], nn.Module]


BLOCK = {"feed_forward": True, "residual": True, "norm": True}
ROTARY: dict[str, Any] = {"norm_type": "rms_norm", "position_type": "rotary"}
SWIGLU: dict[str, Any] = {
    "hidden_act": "silu",
    "mlp_gated": True,
    "intermediate_size": 344,
}  # as many weights as 4C without the gate
RUNGS = (
    Rung("bigram", "a table of pairs", Bigram),
    Rung("window", f"{WINDOW} embeddings", Window),
    Rung("recurrent", "a memory, rewritten", Recurrent),
    Rung("one head", "attention", partial(UnfinishedGPT, heads=1)),
    Rung("many heads", f"{HEADS} heads", partial(UnfinishedGPT, heads=HEADS)),
    Rung("feed-forward", "a token thinks alone", partial(UnfinishedGPT, heads=HEADS, feed_forward=True)),
    Rung("residuals", "branches are added", partial(UnfinishedGPT, heads=HEADS, feed_forward=True, residual=True)),
    Rung("layer norm", "one scale for all", partial(UnfinishedGPT, heads=HEADS, **BLOCK)),
    Rung("GPT's start", "small, tied weights", partial(GPT, num_hidden_layers=1)),
    Rung("GPT", f"{BLOCKS} blocks", GPT),
    Rung("RMSNorm", "no mean, no bias", partial(GPT, norm_type="rms_norm")),
    Rung("rotary positions", "relative positions", partial(GPT, **ROTARY)),
    Rung("SwiGLU", "a gated feed-forward", partial(GPT, **ROTARY, **SWIGLU)),
)


@dataclass(frozen=True)
class Result:
    """What a rung reached with a seed: loss on the held-out text in nats a character, parameters, seconds."""

    rung: str
    seed: int
    loss: float
    parameters: int
    seconds: float


def open_text(path: Path | None) -> str:
    """The text of a file, or built-in stories of about a million characters.

    Raises:
        ScratchError: there is no such file, or it holds no text.
    """
    if path is None:
        return "\n".join(stories(0, 3000))
    if not path.is_file():
        raise ScratchError(f"no such file: {path}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ScratchError(f"{path} is no text in UTF-8: {error}") from error


def read(text: str) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Ids of the text to learn from, of the held-out end, and the characters that they stand for.

    Raises:
        ScratchError: the text is too short, or but one character.
    """
    characters = sorted(set(text))
    number = {character: i for i, character in enumerate(characters)}
    ids = torch.tensor([number[character] for character in text])
    cut = int(len(ids) * (1 - HELD_OUT))
    if len(ids) * HELD_OUT < CONTEXT + 1:
        raise ScratchError(f"the text has {len(ids):,} characters, want at least {int((CONTEXT + 1) / HELD_OUT):,}")
    if len(characters) < 2:
        raise ScratchError(f"the text is {characters[0]!r} from end to end: there is nothing to learn")
    return ids[:cut], ids[cut:], characters


def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embedding and head, AdamW for what is left."""
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    heads = {id(p) for n, m in model.named_modules() if n.endswith(("lm_head", "output")) for p in m.parameters()}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in tables | heads]
    kept = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in kept]
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)]
    return [*found, Muon(matrices, lr=2e-2)] if matrices else found


def learn(rung: Rung, text: str, seed: int, steps: int) -> Result:
    """Train a rung and judge it."""
    train, held_out, characters = read(text)
    torch.manual_seed(seed)
    model = rung.build(len(characters))
    draw = torch.Generator().manual_seed(seed)
    both = optimizers(model)
    peaks = [group["lr"] for optimizer in both for group in optimizer.param_groups]
    started = time.perf_counter()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group, peak in zip((g for optimizer in both for g in optimizer.param_groups), peaks, strict=True):
            group["lr"] = peak * factor
        starts = torch.randint(len(train) - CONTEXT, (ROWS,), generator=draw)
        rows = torch.stack([train[start : start + CONTEXT + 1] for start in starts])
        loss = F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
    seconds = time.perf_counter() - started
    return Result(rung.name, seed, judge(model.eval(), held_out), sum(p.numel() for p in model.parameters()), seconds)


@torch.no_grad()
def judge(model: nn.Module, ids: torch.Tensor) -> float:
    """Mean loss in nats a character of ids (N,), in whole rows of CONTEXT that begin anew; the first character and what
    fills no row are left out."""
    full = (len(ids) - 1) // CONTEXT * CONTEXT
    inputs, targets = ids[:full].view(-1, CONTEXT), ids[1 : full + 1].view(-1, CONTEXT)
    total = 0.0
    for x, y in zip(inputs.split(64), targets.split(64), strict=True):
        total += F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum").item()
    return total / full


def climb(text: str, seeds: int, steps: int) -> dict[str, list[Result]]:
    """Every rung with every seed, as many at a time as there are cores, each on one.

    Raises:
        ScratchError: the text is too short, or but one character.
    """
    read(text)
    results: dict[str, list[Result]] = {rung.name: [] for rung in RUNGS}
    with ProcessPoolExecutor(available_cores(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        # the slow ones first, so that no core waits in the end
        asked = [pool.submit(learn, rung, text, seed, steps) for rung in reversed(RUNGS) for seed in range(seeds)]
        for future in tqdm(
            as_completed(asked), total=len(asked), desc="climbing", unit=" runs", leave=False, disable=None
        ):
            result = future.result()
            results[result.rung].append(result)
    return results


def remarks(results: dict[str, list[Result]]) -> list[str]:
    """Which ideas do not pay here: their rung is not below the one before by more than seeds differ."""
    found = []
    names = list(results)
    for before, name in itertools.pairwise(names):
        lower, upper = ([result.loss for result in results[n]] for n in (name, before))
        gain = statistics.mean(upper) - statistics.mean(lower)
        spread = max(max(lower) - min(lower), max(upper) - min(upper))
        if gain <= spread:
            how = "is above" if gain < -spread else "can't be told from"
            found.append(f"{name} {how} {before} ({-gain:+.3f}, seeds differ by {spread:.3f})")
    return found


def run(lesson: Lesson, text: str, seeds: int = 3, steps: int = 1200) -> dict[str, list[Result]]:
    """Climb, and end with a table and a chart.

    Raises:
        ScratchError: the text is too short, or but one character.
    """
    knows_nothing = last = math.log(len(read(text)[2]))
    lesson.part(
        "The ladder",
        f"""{steps:,} steps of {ROWS} rows of {CONTEXT} characters, {HIDDEN} features. Held-out loss in nats a
        character, {"one seed" if seeds == 1 else f"mean of {seeds} seeds ± half their range"}. A model that knows
        nothing has {knows_nothing:.3f}.""",
    )
    results = climb(text, seeds, steps)
    rows = []
    for rung in RUNGS:
        losses = [result.loss for result in results[rung.name]]
        mean = statistics.mean(losses)
        spread = f"{mean:.3f}" + (f" ±{(max(losses) - min(losses)) / 2:.3f}" if seeds > 1 else "")
        seconds = statistics.mean(result.seconds for result in results[rung.name])
        rows.append(
            (
                rung.name,
                rung.idea,
                spread,
                f"{last - mean:+.2f}",
                f"{results[rung.name][0].parameters // 1000}k",
                f"{seconds:.0f}",
            )
        )
        last = mean
    lesson.table(("rung", "what is new", "loss", "gain", "params", "s"), rows)
    if seeds > 1 and (found := remarks(results)):
        lesson.part("What does not pay at this size", f"{'; '.join(found)}.")
    lesson.picture("ladder", lambda figure: draw(results, figure), (11, 5.5))
    return results


def draw(results: dict[str, list[Result]], figure: Figure) -> None:
    """Loss, weights and seconds of every rung, from the bigram down."""
    panels = figure.subplots(1, 3, sharey=True, width_ratios=(3, 1, 1))
    names = list(results)
    places = list(range(len(names)))

    def means(field: str) -> Sequence[float]:
        return [statistics.mean(getattr(result, field) for result in results[name]) for name in names]

    losses = means("loss")
    panels[0].plot(losses, places, color=LIGHT, linewidth=2, zorder=1)
    for place, name in zip(places, names, strict=True):
        panels[0].scatter(
            [result.loss for result in results[name]], [place] * len(results[name]), color=BLUE, s=14, zorder=2
        )
        end = max(result.loss for result in results[name]), place
        panels[0].annotate(f"{losses[place]:.2f}", end, (8, 0), textcoords="offset points", va="center")
    panels[0].set(yticks=places, yticklabels=names, xlabel="loss on held-out text, nats a character")
    panels[0].invert_yaxis()
    panels[0].margins(x=0.12)
    for axes, field, label in ((panels[1], "parameters", "parameters"), (panels[2], "seconds", "seconds to train")):
        axes.barh(places, means(field), color=RED if field == "seconds" else LIGHT)
        axes.set(xlabel=label)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}")
    for axes in panels:
        axes.grid(alpha=0.25, axis="x")
        axes.spines[["top", "right"]].set_visible(False)
