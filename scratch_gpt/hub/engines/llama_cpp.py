"""llama.cpp's server in another process, and the comparison of a GGUF file with the model that it was written from."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers.models import Unigram
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast
from transformers.activations import ACT2FN

from ...errors import ScratchError
from ...models.feed_forward import gelu_new
from ..native.twin import ACTIVATION_NAMES
from .export import MAX_LENGTH, SAMPLE_TEXTS, Source, plain_greedy, sample_rows

MAX_DIFFERENCE = 1e-3  # of the log-probabilities of a float32 export
GELU_NAMES = {theirs for theirs, ours in ACTIVATION_NAMES.items() if ours in ("gelu", "gelu_new")}
# A process of its own, since llama.cpp ends the process on an invalid file.
SERVER = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.cpuparams.n_threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params.cpuparams_batch.n_threads = int(sys.argv[3])
if sys.argv[4] == "exact":
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.n_parallel, params.warmup, params.fit_params, params.verbosity = int(sys.argv[5]), False, False, 1
params.port = 0
server = xllamacpp.Server(params)
print("listening", server.listening_address, flush=True)
sys.stdin.read()
"""


class LlamaCppServer:
    """A running server of llama.cpp.

    Attributes:
        address: its URL.
    """

    def __init__(self, address: str):
        self.address = address

    def post(self, path: str, **content: Any) -> dict[str, Any]:
        """Send a request with JSON content to one of its paths, and return the JSON of the response.

        Raises:
            ScratchError: the server refuses the request, or ends.
        """
        request = urllib.request.Request(
            f"{self.address}{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise ScratchError(f"llama.cpp refuses {path}: {error.read().decode(errors='replace')[:300]}") from error
        except OSError as error:
            raise ScratchError(f"llama.cpp does not answer {path}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens that the tokenizer adds."""
        return self.post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"]

    def greedy(self, token_ids: list[int], new_tokens: int) -> list[int]:
        """The tokens that greedy decoding generates after a prompt, up to the end of the text."""
        options = {"temperature": 0, "n_predict": new_tokens, "return_tokens": True, "cache_prompt": False}
        return self.post("/completion", prompt=token_ids, **options)["tokens"]

    def log_probabilities(self, token_ids: list[int], vocab_size: int) -> torch.Tensor:
        """Log-probabilities of the next token (V,).

        The server reports none after a token that is part of a character or ends the text: the bias makes it generate
        the letter "a", and does not change the log-probabilities, which are those before sampling.
        """
        letter = self.post("/tokenize", content="a", add_special=False)["tokens"][-1]
        options: dict[str, Any] = {"temperature": 0, "n_predict": 1, "n_probs": vocab_size, "cache_prompt": False}
        options["logit_bias"] = [[letter, 1e4]]
        answer = self.post("/completion", prompt=token_ids, **options)["completion_probabilities"][0]
        found = torch.full((vocab_size,), -torch.inf)
        for entry in answer["top_logprobs"]:
            found[entry["id"]] = torch.nan if entry["logprob"] is None else entry["logprob"]
        return found


@contextmanager
def running_llama_cpp(
    path: Path, context: int, threads: int | None = None, exact: bool = True, parallel: int = 1
) -> Iterator[LlamaCppServer]:
    """Run llama.cpp's server with a GGUF file on a free port of this machine.

    Args:
        path: the file.
        context: number of positions.
        threads: number of threads; by default those of torch.
        exact: whether cache and attention are in float32; otherwise as llama.cpp chooses, in float16.
        parallel: number of requests that it answers at the same time, which share the context.

    Raises:
        ScratchError: llama.cpp can't load the file.
    """
    command = [sys.executable, "-c", SERVER, str(path), str(context), str(threads or torch.get_num_threads())]
    command += ["exact" if exact else "default", str(parallel)]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("listening ")), "")
        try:
            if not line:
                process.wait()
                errors.seek(0)
                reason = (errors.read().strip().splitlines() or ["no reason given"])[-1]
                raise ScratchError(f"llama.cpp does not load {path.name}: {reason}")
            yield LlamaCppServer(line.split()[1])
        finally:
            process.kill()


def compare(source: Source, folder: Path, quantization: str) -> dict[str, Any]:
    """Compare token ids, log-probabilities and greedy texts of the file with those of the model.

    Raises:
        ScratchError: llama.cpp does not load the file, splits a text into other tokens, or, in float32, computes other
            log-probabilities or, unless it has GELU, other texts.
    """
    model: Any = source.model
    tokenizer, vocab_size = source.tokenizers.source, model.config.vocab_size
    rows, new_tokens = sample_rows(tokenizer, model.config.max_position_embeddings)
    found, expected, equal = [], [], 0
    path = next(folder.glob("*.gguf"))
    context = min(model.config.max_position_embeddings, MAX_LENGTH)
    with running_llama_cpp(path, context) as server, plain_greedy(model):
        for text, ids in zip(SAMPLE_TEXTS, rows, strict=True):
            expected_ids, found_ids = tokenizer(text, verbose=False)["input_ids"], server.encode(text)
            if not same_split(found_ids, expected_ids, tokenizer):
                raise ScratchError(f"llama.cpp splits {text!r} into {found_ids}, the tokenizer into {expected_ids}")
            found.append(server.log_probabilities(ids, vocab_size))
            expected.append(next_log_probabilities(model, ids))
            generated = model.generate(torch.tensor([ids]), do_sample=False, max_new_tokens=new_tokens)
            equal += server.greedy(ids, new_tokens) == generated[0, len(ids) :].tolist()
    if quantization == "f32":
        check_difference(model, rows, found, expected)
        if equal < len(rows) and not uses_gelu(model.config):
            raise ScratchError(f"llama.cpp continues {len(rows) - equal} of {len(rows)} texts with other tokens")
    largest = largest_difference(found, expected)
    return {"texts": len(rows), "largest_log_probability_difference": largest, "equal_greedy": equal}


def check_difference(
    model: Any, rows: list[list[int]], found: list[torch.Tensor], expected: list[torch.Tensor]
) -> None:
    """Check the log-probabilities that llama.cpp computes in float32.

    It looks up GELU, also the exact one of Pythia, in a table of the tanh approximation in float16, and so a model with
    GELU is compared after its GELU is replaced by this table. What remains is more than rounding in float32, since an
    input that is rounded to a neighbour in float16 has another output: the limit is half of what the table changes in
    the model.

    Args:
        model: the model.
        rows: prompts.
        found: log-probabilities after each, by llama.cpp (V,).
        expected: those by the model.

    Raises:
        ScratchError: they differ by more than rounding.
    """
    limit, largest = MAX_DIFFERENCE, largest_difference(found, expected)
    if uses_gelu(model.config):
        with gelu_of_llama_cpp(model):
            rounded = [next_log_probabilities(model, ids) for ids in rows]
        limit = max(limit, largest_difference(rounded, expected) / 2)
        largest = largest_difference(found, rounded)
    if not largest <= limit:
        raise ScratchError(
            "llama.cpp computes other probabilities: the largest difference of log-probabilities is "
            f"{largest:.2g}, want at most {limit:.2g}"
        )


def next_log_probabilities(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of the token after a prompt (V,)."""
    return model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1)


def largest_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest absolute difference of any element; not a number if one is."""
    return (torch.stack(found) - torch.stack(expected)).abs().max().item()


def uses_gelu(config: Any) -> bool:
    """Whether the activation of a model of ours or of transformers is GELU."""
    names = (getattr(config, name, None) for name in ("hidden_activation", "activation_function", "hidden_act"))
    return next((name for name in names if name), None) in GELU_NAMES


def gelu_by_table(x: torch.Tensor) -> torch.Tensor:
    """GELU as llama.cpp computes it: the tanh approximation, between -10 and 10 by a table of float16 numbers."""
    rounded = gelu_new(x.half().float()).half().float()
    return torch.where(x >= 10, x, torch.where(x <= -10, 0.0, rounded))


@contextmanager
def gelu_of_llama_cpp(model: torch.nn.Module) -> Iterator[None]:
    """Inside the block, a model of ours or of transformers computes GELU as llama.cpp does."""
    native = tuple({type(ACT2FN[name]) for name in GELU_NAMES})
    ours: list[Any] = [m for m in model.modules() if getattr(m, "activation", None) in (gelu_new, F.gelu)]
    activations = [module.activation for module in ours]
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: gelu_by_table(inputs[0]))
        for module in model.modules()
        if isinstance(module, native)
    ]
    for module in ours:
        module.activation = gelu_by_table
    try:
        yield
    finally:
        for module, activation in zip(ours, activations, strict=True):
            module.activation = activation
        for hook in hooks:
            hook.remove()


def same_split(found: list[int], expected: list[int], tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether llama.cpp splits a text as the tokenizer does, apart from adjacent unknown tokens and, of a unigram
    tokenizer, the order of the same tokens: both orders have the same score, up to rounding."""
    if found in (expected, merge_unknown(expected, tokenizer)):
        return True
    if not isinstance(tokenizer.backend_tokenizer.model, Unigram):
        return False
    return sorted(found) == sorted(expected) and tokenizer.decode(found) == tokenizer.decode(expected)


def merge_unknown(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids in which adjacent unknown tokens are one, as llama.cpp has them for characters."""
    unknown = tokenizer.unk_token_id
    return [token for i, token in enumerate(ids) if token != unknown or i == 0 or ids[i - 1] != unknown]
