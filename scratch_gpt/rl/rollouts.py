"""Sample completions from a policy, and score them with the policy, a reference model and a value head.

Tokens are sampled from softmax(logits / temperature) over the whole vocabulary, the distribution of which
`losses.token_log_probs` returns the log-probabilities, so that sampling and scoring agree.

Dimensions: B rows, T tokens per row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, cast

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..errors import ScratchError
from ..tokenization.special_tokens import end_token_id
from .losses import token_log_probs

IGNORED = -100


@dataclass
class Rollout:
    """A prompt, its sampled completion, and values for each token of the completion.

    Attributes:
        prompt: token ids.
        completion: token ids, including the end token if one was sampled.
        text: the decoded completion, without special tokens.
        original_prompt: the prompt before tokenization: a text or a conversation.
        reward: reward of the whole completion.
        log_probs: log-probability of each token under the policy that sampled it.
        reference_log_probs: log-probability of each token under the reference model.
        values: value estimate for each token, from the policy that sampled it.
        advantages: advantage of each token.
        returns: return of each token (advantage + value).
    """

    prompt: list[int]
    completion: list[int]
    text: str
    original_prompt: Any = None
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


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    seeds: list[int],
) -> list[Rollout]:
    """Sample one completion for each prompt.

    Args:
        model: the policy, in evaluation mode.
        tokenizer: decodes the completions.
        prompts: token ids.
        max_new_tokens: maximum length of a completion.
        temperature: softmax temperature.
        batch_size: prompts per batch.
        seeds: one for each prompt. A completion depends on its own seed, and not on the batch that it is sampled in.
    """
    original: Any = model.generation_config
    ends, pad = end_token_ids(model, tokenizer), pad_token_id_of(tokenizer)
    bare = GenerationConfig(bos_token_id=original.bos_token_id, eos_token_id=ends, pad_token_id=pad)
    config = GenerationConfig(**bare.to_diff_dict(), do_sample=False, max_new_tokens=max_new_tokens)
    model.generation_config = bare  # `generate` would also apply its other settings, such as a penalty
    try:
        return _generate_batches(model, tokenizer, prompts, config, pad, ends, batch_size, temperature, seeds)
    finally:
        model.generation_config = original


class RowNoise(LogitsProcessor):
    """Divides the logits z (B, V) by the temperature and adds Gumbel noise of a generator for each row, so that the
    token with the largest score is a sample from softmax(z / temperature) (the Gumbel-max method).

    Args:
        seeds: one for each row.
        temperature: softmax temperature.
    """

    def __init__(self, seeds: list[int], temperature: float):
        self.seeds, self.temperature = seeds, temperature
        self.generators: list[torch.Generator] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores (B, V) to scores with noise (B, V)."""
        if not self.generators:
            self.generators = [torch.Generator(scores.device).manual_seed(seed) for seed in self.seeds]
        noise = torch.empty_like(scores, dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)  # -log of which has the Gumbel distribution
        return cast(torch.FloatTensor, scores / self.temperature - noise.log())


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Ids of the tokens that end a text."""
    config: Any = model.generation_config
    ends: Any = end_token_id(tokenizer) if config.eos_token_id is None else config.eos_token_id
    return list(ends) if isinstance(ends, list) else [ends]


def pad_token_id_of(tokenizer: PreTrainedTokenizerFast) -> int:
    """Id of the padding token; the end-of-text token if the tokenizer has none."""
    pad: Any = end_token_id(tokenizer) if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return int(pad)


def _generate_batches(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    prompts: list[list[int]],
    config: GenerationConfig,
    pad: int,
    ends: list[int],
    batch_size: int,
    temperature: float,
    seeds: list[int],
) -> list[Rollout]:
    rollouts: list[Rollout] = []
    for at in range(0, len(prompts), batch_size):
        batch = prompts[at : at + batch_size]
        longest = max(map(len, batch))
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in batch], device=model.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in batch], device=model.device)
        noise = LogitsProcessorList([RowNoise(seeds[at : at + batch_size], temperature)])
        with torch.no_grad():
            written = model.generate(
                input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=noise
            )
        for prompt, tokens in zip(batch, written[:, longest:].tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
            text = str(tokenizer.decode(tokens[:end], skip_special_tokens=True))
            rollouts.append(Rollout(prompt, tokens[:end], text))
    return rollouts


def fitting_prompts(prompts: list[list[int]], positions: int, max_new_tokens: int | None) -> tuple[list[int], int]:
    """Select the prompts that leave enough of the model's positions for a completion.

    Args:
        prompts: token ids.
        positions: number of positions of the model.
        max_new_tokens: maximum length of a completion; prompts that leave fewer positions are skipped. None: as many as
            the longest kept prompt leaves; prompts that leave less than a quarter of the positions are then skipped, so
            that a single long prompt does not shorten all completions.

    Returns:
        Indices of the kept prompts, in order, and the maximum length of a completion in tokens.

    Raises:
        ScratchError: no prompt is kept.
    """
    needed = max(1, positions // 4) if max_new_tokens is None else max_new_tokens
    most = positions - needed
    kept = [index for index, prompt in enumerate(prompts) if len(prompt) <= most]
    if not kept:
        raise ScratchError(
            f"no prompt leaves {needed} of the model's {positions} positions for a completion; the shortest has "
            f"{min(map(len, prompts), default=0)} tokens: give shorter prompts, or a smaller max_new_tokens"
        )
    return kept, max_completion_length([prompts[index] for index in kept], positions, max_new_tokens)


def max_completion_length(prompts: list[list[int]], positions: int, max_new_tokens: int | None) -> int:
    """Return the maximum length in tokens of a completion of these prompts: `max_new_tokens` or, if that is None, as
    many as the longest prompt leaves. Filter prompts that are too long with `fitting_prompts` first.

    Raises:
        ScratchError: the longest prompt leaves no position, or fewer than `max_new_tokens`.
    """
    longest = max(map(len, prompts))
    available = positions - longest
    length = available if max_new_tokens is None else max_new_tokens
    if not 1 <= length <= available:
        raise ScratchError(
            f"the longest prompt has {longest} tokens, which leaves {available} of the model's {positions} positions, "
            f"and max_new_tokens is {max_new_tokens}: give shorter prompts, or a smaller max_new_tokens"
        )
    return length


def pad_rollouts(
    rollouts: list[Rollout], pad_token_id: int, length: int | None = None, /, **numbers: str
) -> dict[str, torch.Tensor]:
    """Collate rollouts into rows padded on the right, which causal attention does not see.

    Args:
        rollouts: one per row.
        pad_token_id: fills `input_ids`.
        length: length of the rows (T), at least and by default the tokens of the longest rollout minus one.
        numbers: maps the name of a returned tensor to the attribute of `Rollout` that holds its value for each token.

    Returns:
        `input_ids` (B, T); `labels` (B, T), the token sampled next, and -100 at prompt and padding positions; and a
        tensor (B, T) for each of `numbers`, 0 where the label is -100.
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
    """Compute the log-probabilities of the tokens of each completion and, with a value head, their values.

    Args:
        model: in evaluation mode; may be wrapped by accelerate.
        rollouts: prompts and completions.
        pad_token_id: fills the rows.
        temperature: softmax temperature.
        batch_size: rollouts per batch.
        value_head: predicts a value from each hidden state.

    Returns:
        For each rollout, log-probabilities and values, one per token of its completion; no values without a head.
    """
    found: list[tuple[list[float], list[float]]] = []
    device = next(model.parameters()).device
    for at in range(0, len(rollouts), batch_size):
        rows = {n: t.to(device) for n, t in pad_rollouts(rollouts[at : at + batch_size], pad_token_id).items()}
        with torch.no_grad():
            outputs = model(input_ids=rows["input_ids"], output_hidden_states=value_head is not None, use_cache=False)
            log_probs = token_log_probs(outputs.logits, rows["labels"], temperature)
            values = log_probs if value_head is None else value_head(outputs.hidden_states[-1])
        for row, labels in enumerate(rows["labels"]):
            chosen = labels != IGNORED
            found.append((log_probs[row][chosen].tolist(), [] if value_head is None else values[row][chosen].tolist()))
    return found


def distinct_ngrams(texts: list[str], n: int = 2) -> float:
    """Distinct word n-grams as a fraction of all (distinct-n: Li et al. 2016, aclanthology.org/N16-1014)."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def metrics_of(found: list[Rollout]) -> dict[str, float]:
    """Metrics of rollouts that have rewards and log-probabilities: mean reward, KL divergence to the reference in nats
    per completion, perplexity under the reference, distinct word bigrams as a fraction of all, and mean length in
    tokens."""
    tokens = sum(len(rollout.completion) for rollout in found)
    surprise = -sum(sum(rollout.reference_log_probs) for rollout in found)
    return {
        "reward": fmean(rollout.reward for rollout in found),
        "kl": fmean(rollout.kl for rollout in found),
        "reference_perplexity": math.exp(surprise / tokens),
        "distinct_2": distinct_ngrams([rollout.text for rollout in found]),
        "length": tokens / len(found),
    }
