"""Sampling options and streaming of a completion, for `scratch-gpt generate` and `scratch-gpt chat`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Temperature = Annotated[
    float,
    typer.Option(
        min=0.0,
        help="Softmax temperature: below 1 sharpens the distribution, above 1 flattens it, 0 is greedy decoding.",
    ),
]
TopK = Annotated[int, typer.Option("--top_k", min=0, help="Sample from the k most probable tokens; 0 disables it.")]
TopP = Annotated[
    float,
    typer.Option(
        "--top_p",
        min=0.0,
        max=1.0,
        help="Nucleus sampling: from the most probable tokens whose probabilities add up to this; 1 disables it.",
    ),
]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max_new_tokens", min=1, help="Maximum number of new tokens. Default: the model's.")
]
Seed = Annotated[int, typer.Option(help="Random seed of the sampling.")]


def sampling_options(temperature: float, top_k: int, top_p: float) -> dict[str, Any]:
    """Convert the options of the command line to keyword arguments of transformers' `generate`."""
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}


class Completion(NamedTuple):
    """A generated completion.

    Attributes:
        ids: its token ids, without the prompt's.
        reached_limit: whether it stopped at the last position of the model.
    """

    ids: list[int]
    reached_limit: bool


def stream_completion(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    ids: list[int],
    max_new_tokens: int | None,
    options: dict[str, Any],
    seed: int | None = None,
    skip_prompt: bool = False,
) -> Completion | None:
    """Generate a completion of a prompt and stream it to standard output.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        ids: token ids of the prompt.
        max_new_tokens: maximum number of new tokens; None is the model's default.
        options: as `sampling_options` returns them.
        seed: of the sampling; None continues the current random state.
        skip_prompt: whether the prompt is not written before the completion.

    Returns:
        The completion, or None if the prompt fills the model's positions.
    """
    import torch

    from ..evaluation.positions import default_new_tokens, generate, new_tokens_within, pad_rows
    from ..rl.rollouts import end_token_ids
    from .texts import safe_streamer

    requested = default_new_tokens(model, len(ids)) if max_new_tokens is None else max_new_tokens
    allowed = new_tokens_within(model, len(ids), requested)
    if allowed < 1:
        return None
    if seed is not None:
        torch.manual_seed(seed)
    inputs = pad_rows([ids], tokenizer, "left", model.device)
    tokens = generate(
        model, **inputs, streamer=safe_streamer(tokenizer, skip_prompt), **options, max_new_tokens=allowed
    )[0]
    completion = tokens[len(ids) :].tolist()
    ended = bool(completion) and completion[-1] in end_token_ids(model, tokenizer)
    return Completion(completion, allowed < requested and len(completion) == allowed and not ended)


def open_generator(name: str, trust_remote_code: bool, device: str, dtype: str) -> Any:
    """Load a causal language model and its tokenizer.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run the code that the checkpoint contains.
        device: as the option `--device`.
        dtype: as the option `--dtype`.

    Raises:
        ScratchError: the model can't be loaded, or does not continue a text.
    """
    from ..errors import ScratchError
    from ..hub.model_directory import kind_of_model
    from .app import open_model

    model, tokenizer = open_model(name, trust_remote_code, device, dtype)
    if not model.can_generate() or model.config.is_encoder_decoder:
        commands = {
            "classifier": "classify",
            "masked": "fill",
            "seq2seq": "translate",
            "encoder": "train classification",
        }
        command = commands[kind_of_model(model.config)]
        raise ScratchError(f"{name} does not continue a text: use 'scratch-gpt {command}'")
    return model, tokenizer
