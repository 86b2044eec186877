"""Options of sampling, and the streaming of one completion, for `scratch-gpt generate` and `scratch-gpt chat`."""

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
    """Options of `generate`, from those of the command line."""
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature, "top_k": top_k, "top_p": top_p}
    return {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}


class Completion(NamedTuple):
    """A generated completion.

    Attributes:
        ids: its tokens.
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
) -> Completion | None:
    """Generate after a prompt and stream to standard output.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        ids: tokens of the prompt.
        max_new_tokens: maximum number of new tokens; None takes the model's default.
        options: as `sampling_options` returns them.
        seed: of the sampling; None continues the current random state.

    Returns:
        The completion, or None where the prompt fills the model's positions.
    """
    import torch

    from ..evaluation.positions import default_new_tokens, generate, new_tokens_within, pad_rows
    from ..rl.rollouts import end_token_ids
    from .texts import safe_streamer

    wanted = default_new_tokens(model, len(ids)) if max_new_tokens is None else max_new_tokens
    room = new_tokens_within(model, len(ids), wanted)
    if room < 1:
        return None
    if seed is not None:
        torch.manual_seed(seed)
    inputs = pad_rows([ids], tokenizer, "left", model.device)
    tokens = generate(model, **inputs, streamer=safe_streamer(tokenizer), **options, max_new_tokens=room)[0]
    completion = tokens[len(ids) :].tolist()
    ended = bool(completion) and completion[-1] in end_token_ids(model, tokenizer)
    return Completion(completion, room < wanted and len(completion) == room and not ended)


def open_generator(name: str, trust_remote_code: bool, device: str, dtype: str) -> Any:
    """A model that generates text, and its tokenizer; arguments as of `open_model`.

    Raises:
        ScratchError: it can't be opened, or generates no text after a prompt.
    """
    from ..errors import ScratchError
    from ..hub.model_directory import kind_of_model
    from .app import open_model

    model, tokenizer = open_model(name, trust_remote_code, device, dtype)
    if not model.can_generate() or model.config.is_encoder_decoder:
        instead = {"classifier": "classify", "masked": "fill", "seq2seq": "translate"}[kind_of_model(model.config)]
        raise ScratchError(f"{name} does not continue a text: use 'scratch-gpt {instead}'")
    return model, tokenizer
