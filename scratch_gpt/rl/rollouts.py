"""What a policy writes after prompts, and what it and others think of it.

Text is drawn by `generate` from softmax(logits / temperature), of the whole vocabulary: the one distribution of which
`losses.token_log_probs` gives the log-probabilities, so that sampling and scoring are never at odds.

Letters: B rows, T tokens of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..errors import ScratchError
from .losses import token_log_probs

IGNORED = -100


@dataclass
class Rollout:
    """A prompt, what was written after it, and numbers for each token that was written.

    Attributes:
        prompt, completion: token ids; the completion includes the token that ended it, if one did.
        text: the completion, without special tokens.
        asked: the prompt as it was given.
        reward: of the whole.
        log_probs, reference_log_probs, values: of each token, before anything was learned from it.
        advantages, returns: of each token.
    """

    prompt: list[int]
    completion: list[int]
    text: str
    asked: Any = None
    reward: float = 0.0
    log_probs: list[float] = field(default_factory=list)
    reference_log_probs: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    @property
    def kl(self) -> float:
        """log p - log p_reference of the completion: its mean is the KL to the reference, in nats per completion."""
        return sum(self.log_probs) - sum(self.reference_log_probs)


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
) -> list[Rollout]:
    """One completion of each prompt, drawn at random from the model, which must be in evaluation mode.

    Args:
        prompts: token ids.
        max_new_tokens: of a completion.
        batch_size: prompts at a time.
    """
    own: Any = model.generation_config
    ends, pad = ends_of(model, tokenizer), pad_of(tokenizer)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    bare = GenerationConfig(bos_token_id=own.bos_token_id, eos_token_id=ends, pad_token_id=pad)
    config = GenerationConfig(**sampling, **bare.to_diff_dict(), max_new_tokens=max_new_tokens)
    model.generation_config = bare  # `generate` takes from it whatever else it says, such as a penalty
    try:
        return _write(model, tokenizer, prompts, config, pad, ends, batch_size)
    finally:
        model.generation_config = own


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that end a text."""
    own: Any = model.generation_config
    ends = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    return list(ends) if isinstance(ends, list) else [ends]


def pad_of(tokenizer: PreTrainedTokenizerFast) -> int:
    """What rows are filled up with."""
    pad: Any = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return int(pad)


def _write(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    config: GenerationConfig,
    pad: int,
    ends: list[int],
    batch_size: int,
) -> list[Rollout]:
    rollouts: list[Rollout] = []
    for at in range(0, len(prompts), batch_size):
        batch = prompts[at : at + batch_size]
        longest = max(map(len, batch))
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in batch], device=model.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=model.device)
        with torch.no_grad():
            written = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
        for prompt, tokens in zip(batch, written[:, longest:].tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
            text = str(tokenizer.decode(tokens[:end], skip_special_tokens=True))
            rollouts.append(Rollout(prompt, tokens[:end], text))
    return rollouts


def fitting_prompts(prompts: list[list[int]], positions: int, max_new_tokens: int | None) -> tuple[list[int], int]:
    """Which prompts leave room for a completion within the model's positions, and how long a completion may be.

    Args:
        prompts: token ids.
        positions: of the model.
        max_new_tokens: of a completion; prompts that leave fewer are not kept. None: as many as the longest kept prompt
            leaves, where prompts that leave less than a quarter of the positions are not kept, so that a single long
            prompt does not shorten all completions to nothing.

    Returns:
        The numbers of the prompts that are kept, in order, and the tokens that each of their completions may have.

    Raises:
        ScratchError: no prompt is kept.
    """
    needed = max(1, positions // 4) if max_new_tokens is None else max_new_tokens
    most = positions - needed
    kept = [number for number, prompt in enumerate(prompts) if len(prompt) <= most]
    if not kept:
        raise ScratchError(
            f"no prompt leaves {needed} of the model's {positions} positions to a completion; the shortest has "
            f"{min(map(len, prompts), default=0)} tokens: give shorter prompts, or a smaller max_new_tokens"
        )
    return kept, room_for([prompts[number] for number in kept], positions, max_new_tokens)


def room_for(prompts: list[list[int]], positions: int, max_new_tokens: int | None) -> int:
    """How many tokens the completion of each of these prompts may have: `max_new_tokens` or, if that is None, as many
    as the longest prompt leaves. Prompts that are too long are refused; `fitting_prompts` sorts them out first.

    Raises:
        ScratchError: the longest prompt leaves none, or fewer than asked for.
    """
    longest = max(map(len, prompts))
    room = positions - longest
    wanted = room if max_new_tokens is None else max_new_tokens
    if not 1 <= wanted <= room:
        raise ScratchError(
            f"the longest prompt has {longest} tokens, which leaves {room} of the model's {positions}, and "
            f"max_new_tokens is {max_new_tokens}: give shorter prompts, or a smaller one"
        )
    return wanted


def rows_of(
    rollouts: list[Rollout], pad_token_id: int, length: int | None = None, /, **numbers: str
) -> dict[str, torch.Tensor]:
    """Rollouts as rows, filled up on the right, where causal attention does not look.

    Args:
        length: of the rows (T), one less than the tokens of the longest rollout or more; that by default.
        numbers: by the name that it shall have, an attribute of `Rollout` with a number for each token.

    Returns:
        `input_ids` (B, T), `labels` (B, T), which hold the token that was chosen next and -100 elsewhere, and the
        numbers (B, T), where the labels are.
    """
    length = length or max(len(r.prompt) + len(r.completion) for r in rollouts) - 1
    ids = torch.full((len(rollouts), length), pad_token_id)
    labels = torch.full((len(rollouts), length), IGNORED)
    aligned = {name: torch.zeros(len(rollouts), length) for name in numbers}
    for row, rollout in enumerate(rollouts):
        tokens = (rollout.prompt + rollout.completion)[:-1]
        chosen = slice(len(rollout.prompt) - 1, len(tokens))
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, chosen] = torch.tensor(rollout.completion)
        for name, attribute in numbers.items():
            aligned[name][row, chosen] = torch.tensor(getattr(rollout, attribute))
    return {"input_ids": ids, "labels": labels, **aligned}


def score(
    model: Any, rollouts: list[Rollout], pad_token_id: int, temperature: float, batch_size: int, value_head: Any = None
) -> list[tuple[list[float], list[float]]]:
    """Log-probabilities of the tokens of each completion and, if a value head is given, the values before them.

    Args:
        model: prepared or not; in evaluation mode.
        batch_size: rollouts at a time.
    """
    found: list[tuple[list[float], list[float]]] = []
    device = next(model.parameters()).device
    for at in range(0, len(rollouts), batch_size):
        rows = {n: t.to(device) for n, t in rows_of(rollouts[at : at + batch_size], pad_token_id).items()}
        with torch.no_grad():
            outputs = model(input_ids=rows["input_ids"], output_hidden_states=value_head is not None, use_cache=False)
            log_probs = token_log_probs(outputs.logits, rows["labels"], temperature)
            values = log_probs if value_head is None else value_head(outputs.hidden_states[-1])
        for row, labels in enumerate(rows["labels"]):
            chosen = labels != IGNORED
            found.append((log_probs[row][chosen].tolist(), [] if value_head is None else values[row][chosen].tolist()))
    return found


def distinct(texts: list[str], n: int = 2) -> float:
    """Different sequences of `n` words, as a share of all of them (Li et al. 2016, aclanthology.org/N16-1014)."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def figures_of(found: list[Rollout]) -> dict[str, float]:
    """Figures of rollouts that have rewards and log-probabilities: mean reward, KL to the reference in nats per
    completion, perplexity under the reference, different pairs of words as a share of all, and length in tokens."""
    tokens = sum(len(rollout.completion) for rollout in found)
    surprise = -sum(sum(rollout.reference_log_probs) for rollout in found)
    return {
        "reward": fmean(rollout.reward for rollout in found),
        "kl": fmean(rollout.kl for rollout in found),
        "reference_perplexity": math.exp(surprise / tokens),
        "distinct_2": distinct([rollout.text for rollout in found]),
        "length": tokens / len(found),
    }
