"""Run ONNX Runtime on an exported folder beside the model that it was exported from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ...errors import ScratchError
from ..model_directory import Kind
from .export import MAX_LENGTH, Source, plain_greedy, sample_rows

# Of logits, as in `numpy.allclose`: float32 resolves large ones less finely.
ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE = 1e-4, 1e-5


class OnnxModel:
    """The graphs of an exported folder.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path):
        import onnxruntime

        self.sessions = {}
        for path in sorted(folder.glob("*.onnx")):
            with onnx_errors(path.stem):
                self.sessions[path.stem] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Run a graph; return its outputs by name. Of the inputs, those that the graph has are passed.

        Raises:
            ScratchError: ONNX Runtime fails.
        """
        session = self.sessions[name]
        wanted = {each.name for each in session.get_inputs()}
        with onnx_errors(name):
            outputs = session.run(None, {name: value for name, value in inputs.items() if name in wanted})
        return dict(zip((each.name for each in session.get_outputs()), outputs, strict=True))

    def empty_past(self, rows: int) -> dict[str, np.ndarray]:
        """The cache of a decoder-only model before the first token."""
        shapes = {each.name: each.shape for each in self.sessions["model"].get_inputs()}
        return {
            name: np.zeros((rows, shape[1], 0, shape[3]), np.float32)
            for name, shape in shapes.items()
            if name.startswith("past_key_values.")
        }

    def start(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        """Encode the source, each (B, S): the inputs of the decoder besides target ids."""
        encoded = self.run("encoder_model", input_ids=input_ids, attention_mask=attention_mask)
        return {"encoder_hidden_states": encoded["last_hidden_state"], "encoder_attention_mask": attention_mask}

    def decode(self, target_ids: np.ndarray, state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Decode target ids (B, T) after those in the state: logits (B, T, V) and the next state."""
        is_first = "encoder_hidden_states" in state
        outputs = self.run("decoder_model" if is_first else "decoder_with_past_model", input_ids=target_ids, **state)
        past = {name: value for name, value in state.items() if name != "encoder_hidden_states"}
        return outputs["logits"], past | past_of(outputs)


@contextmanager
def onnx_errors(name: str) -> Iterator[None]:
    """Turn errors of ONNX Runtime, which have no common class, into a ScratchError of one line.

    Raises:
        ScratchError: ONNX Runtime fails inside the block.
    """
    try:
        yield
    except Exception as error:
        raise ScratchError(f"ONNX Runtime can't run {name}: {str(error).splitlines()[0]}") from error


def past_of(outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inputs of the next step from the outputs of this one."""
    presents = {name: value for name, value in outputs.items() if name.startswith("present.")}
    return {f"past_key_values.{name.removeprefix('present.')}": value for name, value in presents.items()}


def compare(source: Source, folder: Path, kind: Kind) -> dict[str, Any]:
    """Compare an exported folder with the model on `SAMPLE_TEXTS`, one by one and as a padded batch.

    Args:
        source: the model and its tokenizers.
        folder: the exported folder.
        kind: kind of the model.

    Returns:
        Number of texts, the largest difference of logits and, for a model that generates, how many texts have the same
        continuation by greedy decoding with the cache.

    Raises:
        ScratchError: ONNX Runtime fails, logits differ by more than the tolerance, or a continuation differs.
    """
    model, onnx_model = source.model, OnnxModel(folder)
    positions = getattr(model.config, "max_position_embeddings", None) or MAX_LENGTH
    rows, new_tokens = sample_rows(source.tokenizers.source, positions)
    targets = sample_rows(source.tokenizers.target, positions)[0] if kind == "seq2seq" else rows
    pad = model.config.pad_token_id or 0
    largest = 0.0
    for batch in [*([index] for index in range(len(rows))), range(len(rows))]:
        texts, references = [rows[index] for index in batch], [targets[index] for index in batch]
        expected, found = logits_of_both(model, onnx_model, kind, texts, references, pad)
        difference = float(np.abs(expected - found).max())
        tolerance = ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * float(np.abs(expected).max())
        if not difference <= tolerance:  # also if it is NaN
            raise ScratchError(f"the logits of ONNX Runtime differ by {difference:.3g}, want at most {tolerance:.3g}")
        largest = max(largest, difference)
    result: dict[str, Any] = {"texts": len(rows), "largest_logit_difference": largest}
    if kind not in ("causal", "seq2seq"):
        return result
    continuations = generate(model, kind, rows, pad, new_tokens)
    by_onnx = generate_with_onnx(model, onnx_model, kind, rows, pad, new_tokens)
    equal = sum(ours == theirs for ours, theirs in zip(continuations, by_onnx, strict=True))
    if equal < len(rows):
        raise ScratchError(f"ONNX Runtime continues {len(rows) - equal} of {len(rows)} texts with other tokens")
    return {**result, "equal_greedy": equal}


def pad_rows(rows: list[list[int]], pad: int, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids to ids and mask, each (B, T), padded on the right or left."""
    length = max(map(len, rows))
    ids, mask = np.full((len(rows), length), pad, np.int64), np.zeros((len(rows), length), np.int64)
    for i, row in enumerate(rows):
        columns = slice(length - len(row), None) if left else slice(len(row))
        ids[i, columns], mask[i, columns] = row, 1
    return ids, mask


def logits_of_both(
    model: PreTrainedModel, onnx_model: OnnxModel, kind: Kind, rows: list[list[int]], targets: list[list[int]], pad: int
) -> tuple[np.ndarray, np.ndarray]:
    """Logits by the model and by ONNX Runtime, at tokens that are not padding. Graphs with a cache run in two steps.

    Args:
        model: the model.
        onnx_model: its export.
        kind: kind of the model.
        rows: ids of the texts.
        targets: ids of the targets of an encoder-decoder.
        pad: id of padding.
    """
    ids, mask = pad_rows(rows, pad)
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    if kind == "seq2seq":
        target_ids, mask = pad_rows(targets, pad)
        expected = model(**inputs, decoder_input_ids=torch.from_numpy(target_ids)).logits.numpy()
        found, state = onnx_model.decode(target_ids[:, :1], onnx_model.start(*pad_rows(rows, pad)))
        if target_ids.shape[1] > 1:
            found = np.concatenate((found, onnx_model.decode(target_ids[:, 1:], state)[0]), axis=1)
        return expected[mask == 1], found[mask == 1]
    expected = model(**inputs).logits.numpy()
    past = onnx_model.empty_past(len(rows))
    half = ids.shape[1] // 2 if past else 0
    outputs = []
    if half:
        outputs.append(onnx_model.run("model", input_ids=ids[:, :half], attention_mask=mask[:, :half], **past))
        past = past_of(outputs[0])
    outputs.append(onnx_model.run("model", input_ids=ids[:, half:], attention_mask=mask, **past))
    found = np.concatenate([output["logits"] for output in outputs], axis=1)
    return (expected, found) if kind == "classifier" else (expected[mask == 1], found[mask == 1])


def generate(model: Any, kind: Kind, rows: list[list[int]], pad: int, new_tokens: int) -> list[list[int]]:
    """Greedy continuations by the model's own `generate`, of a padded batch.

    Args:
        model: the model.
        kind: kind of the model.
        rows: ids of the texts.
        pad: id of padding.
        new_tokens: maximum number of new tokens.
    """
    ids, mask = pad_rows(rows, pad, left=kind == "causal")
    inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
    with plain_greedy(model):
        out = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=new_tokens, pad_token_id=pad)
    out = out[:, ids.shape[1] if kind == "causal" else 1 :]
    return [until_end(row, end_ids(model)) for row in out.tolist()]


def generate_with_onnx(
    model: PreTrainedModel, onnx_model: OnnxModel, kind: Kind, rows: list[list[int]], pad: int, new_tokens: int
) -> list[list[int]]:
    """Greedy continuations by ONNX Runtime, with the cache if there is one.

    Args:
        model: the model, for the ids of its special tokens.
        onnx_model: its export.
        kind: kind of the model.
        rows: ids of the texts.
        pad: id of padding.
        new_tokens: number of new tokens.
    """
    ids, mask = pad_rows(rows, pad, left=kind == "causal")
    tokens: list[np.ndarray] = []
    if kind == "seq2seq":
        start = model.generation_config.decoder_start_token_id
        start = model.config.decoder_start_token_id if start is None else start
        state, step = onnx_model.start(ids, mask), np.full((len(rows), 1), start, np.int64)
        for _ in range(new_tokens):
            logits, state = onnx_model.decode(step, state)
            step = logits[:, -1:].argmax(-1)
            tokens.append(step)
    else:
        past, step = onnx_model.empty_past(len(rows)), ids
        for _ in range(new_tokens):
            outputs = onnx_model.run("model", input_ids=step, attention_mask=mask, **past)
            tokens.append(outputs["logits"][:, -1:].argmax(-1))
            mask = np.concatenate((mask, np.ones_like(mask[:, :1])), axis=1)
            step = tokens[-1] if past else np.concatenate((step, tokens[-1]), axis=1)
            past = past_of(outputs)
    return [until_end(row, end_ids(model)) for row in np.concatenate(tokens, axis=1).tolist()]


def end_ids(model: PreTrainedModel) -> set[int]:
    """Ids of the tokens that end a text."""
    ends = model.generation_config.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def until_end(row: list[int], ends: set[int]) -> list[int]:
    """A row up to its first end token."""
    return row[: next((i + 1 for i, token in enumerate(row) if token in ends), len(row))]
