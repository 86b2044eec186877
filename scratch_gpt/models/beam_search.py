"""Beam search: of all continuations of a text, keep the K most probable ones at each step (Graves 2012,
https://arxiv.org/abs/1211.3711).

The sequences are those of transformers' beam search, a test compares the two; only what a step needs is computed: a
finished sequence is a rare event, and the candidates are found without sorting the vocabulary.

Dimension letters: R texts, K beams, N candidates, L longest sequence, V vocabulary.
"""

from typing import Any

import torch
from transformers.generation import EosTokenCriteria

IMPOSSIBLE = -1e9  # added to the score of a sequence that must not be chosen
BLOCK_SIZES = range(64, 257)  # of scores, of which the maximum is computed first


class Beams:
    """The running beams and the best finished sequences.

    Args:
        input_ids: prompts, each repeated for its beams (R * K, T).
        max_length: number of tokens at which all sequences end.
        criteria: other stopping criteria of `generate`.
        config: its generation config.

    Attributes:
        scores: sums of log-probabilities of the running beams (R, K).
        done: whether no text can get better sequences.
    """

    def __init__(self, input_ids: torch.Tensor, max_length: float, criteria: list[Any], config: Any):
        self.beams, self.config, self.prompt_length = config.num_beams, config, input_ids.shape[1]
        self.length = self.prompt_length
        rows, device = len(input_ids), input_ids.device
        texts = rows // self.beams
        self.eos = config._eos_token_tensor
        self.candidates = max(2, 1 + (0 if self.eos is None else len(self.eos))) * self.beams
        fill = -1 if self.eos is None else config._pad_token_tensor or self.eos[0]
        self.tokens = input_ids.new_full((rows, config.max_length), int(fill))  # (R * K, L)
        self.tokens[:, : self.length] = input_ids
        self.scores = torch.zeros(texts, self.beams, device=device)
        self.scores[:, 1:] = IMPOSSIBLE  # all beams start with the same text
        self.first_rows = torch.arange(0, rows, self.beams, device=device)[:, None]  # (R, 1)
        self.max_length = max_length
        self.criteria = [one for one in criteria if type(one) is not EosTokenCriteria]  # known as `eos`
        self.finished = self.tokens.view(texts, self.beams, -1).clone()  # (R, K, L)
        self.finished_scores = torch.full_like(self.scores, IMPOSSIBLE)
        self.finished_lengths = self.finished.new_zeros(texts, self.beams)
        self.is_finished = torch.zeros(texts, self.beams, dtype=torch.bool, device=device)
        self.can_improve = torch.ones(texts, 1, dtype=torch.bool, device=device)
        self.done = False

    @property
    def running(self) -> torch.Tensor:
        """The tokens of the running beams so far (R * K, length)."""
        return self.tokens[:, : self.length]

    def advance(self, log_probs: torch.Tensor) -> torch.Tensor:
        """Continue each text by its best beams; return the row that each of them continues (R * K,).

        Args:
            log_probs: log-probabilities of the next token (R * K, V).
        """
        vocabulary = log_probs.shape[1]
        totals = (log_probs.view(-1, self.beams, vocabulary) + self.scores[:, :, None]).flatten(1)  # (R, K * V)
        values, indices = self._draw(totals) if self.config.do_sample else largest_scores(totals, self.candidates)
        parents, tokens = indices // vocabulary, indices % vocabulary  # (R, N)
        self.length += 1
        ended = self._ended(parents, tokens)
        if bool(ended.any()):
            self._finish(values, parents, tokens, ended)
        self.scores, best = (values + ended.float() * IMPOSSIBLE).topk(self.beams)
        rows = (parents.gather(1, best) + self.first_rows).flatten()
        self.tokens = self.tokens[rows]
        self.tokens[:, self.length - 1] = tokens.gather(1, best).flatten()
        if bool(self.is_finished.any()):
            self._compare()
        self.done = bool(ended.all()) or not bool(self.can_improve.any())
        self.done |= self.config.early_stopping is True and bool(self.is_finished.all())
        return rows

    def best(self) -> torch.Tensor:
        """The best finished sequences of each text, `num_return_sequences` of each."""
        count = self.config.num_return_sequences
        longest = self.prompt_length + int(self.finished_lengths[:, :count].max())
        return self.finished[:, :count].flatten(0, 1)[:, :longest]

    def _draw(self, totals: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Candidates drawn without replacement, best first: their scores and indices, each (R, N)."""
        indices = torch.multinomial(totals.softmax(dim=-1), self.candidates)
        values, order = totals.gather(1, indices).sort(dim=-1, descending=True)
        return values, indices.gather(1, order)

    def _extended(self, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """The sequences of the candidates (R, N, L)."""
        sequences = self.tokens[parents + self.first_rows]
        sequences[:, :, self.length - 1] = tokens
        return sequences

    def _ended(self, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Which candidates end (R, N)."""
        if self.length >= self.max_length:
            return torch.ones_like(tokens, dtype=torch.bool)
        ended = torch.zeros_like(tokens, dtype=torch.bool) if self.eos is None else torch.isin(tokens, self.eos)
        if self.criteria:
            sequences = self._extended(parents, tokens)[:, :, : self.length].flatten(0, 1)
            for criterion in self.criteria:
                ended = ended | criterion(sequences, None).view_as(ended)
        return ended

    def _finish(self, values: torch.Tensor, parents: torch.Tensor, tokens: torch.Tensor, ended: torch.Tensor) -> None:
        """Keep the best K of the finished sequences and of the candidates that end, if they are among the best K."""
        length = self.length - self.prompt_length
        ending = ended.clone()
        ending[:, self.beams :] = False
        scores = values / length**self.config.length_penalty
        full = self.is_finished.all(dim=1, keepdim=True) & (self.config.early_stopping is True)
        for excluded in (full, ~self.can_improve, ~ending):
            scores = scores + excluded.float() * IMPOSSIBLE
        merged = torch.cat((self.finished_scores, scores), dim=1)
        self.finished_scores, best = merged.topk(self.beams)
        sequences = torch.cat((self.finished, self._extended(parents, tokens)), dim=1)
        self.finished = sequences.gather(1, best[:, :, None].expand(-1, -1, sequences.shape[2]))
        lengths = torch.cat((self.finished_lengths, torch.full_like(tokens, length)), dim=1)
        self.finished_lengths = lengths.gather(1, best)
        self.is_finished = torch.cat((self.is_finished, ending), dim=1).gather(1, best)

    def _compare(self) -> None:
        """Note for which texts a running beam may still become better than a finished sequence."""
        penalty, length = self.config.length_penalty, self.length - self.prompt_length
        if self.config.early_stopping == "never" and penalty > 0:
            length = self.config.max_length - self.prompt_length
        possible = self.scores[:, :1] / length**penalty
        worst = torch.where(self.is_finished, self.finished_scores.min(dim=1, keepdim=True).values, IMPOSSIBLE)
        self.can_improve = self.can_improve & (possible > worst).any(dim=1, keepdim=True)


def largest_scores(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`scores.topk(count)` of many scores (R, S) on a CPU, where it takes several times as long: the largest scores are
    among the `count` blocks with the largest maxima."""
    size = next((size for size in BLOCK_SIZES if scores.shape[1] % size == 0), None)
    if scores.device.type != "cpu" or size is None or scores.shape[1] < 4 * count * size:
        return scores.topk(count)
    blocks = scores.view(len(scores), -1, size)
    chosen = blocks.amax(dim=-1).topk(count, sorted=False).indices  # (R, N)
    values, indices = blocks.gather(1, chosen[:, :, None].expand(-1, -1, size)).flatten(1).topk(count)
    return values, chosen.gather(1, indices // size) * size + indices % size
