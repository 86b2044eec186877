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
from transformers import PreTrainedTokenizerFast

from ...errors import ScratchError
from .export import MAX_LENGTH, SAMPLE_TEXTS, Source, plain_greedy, sample_rows

# Of the log-probabilities of a float32 export. llama.cpp computes GPT-2's activation by a table in float16.
MAX_DIFFERENCE = {"llama": 1e-3, "gpt2": 1e-2}
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
params.n_parallel, params.warmup, params.fit_params, params.verbosity = 1, False, False, 1
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
    path: Path, context: int, threads: int | None = None, exact: bool = True
) -> Iterator[LlamaCppServer]:
    """Run llama.cpp's server with a GGUF file on a free port of this machine.

    Args:
        path: the file.
        context: number of positions.
        threads: number of threads; by default those of torch.
        exact: whether cache and attention are in float32; otherwise as llama.cpp chooses, in float16.

    Raises:
        ScratchError: llama.cpp can't load the file.
    """
    command = [sys.executable, "-c", SERVER, str(path), str(context), str(threads or torch.get_num_threads())]
    command.append("exact" if exact else "default")
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
            log-probabilities or, for a Llama, other texts.
    """
    model: Any = source.model
    tokenizer, vocab_size = source.tokenizers.source, model.config.vocab_size
    rows, new_tokens = sample_rows(tokenizer, model.config.max_position_embeddings)
    equal, differences = 0, []
    path = next(folder.glob("*.gguf"))
    context = min(model.config.max_position_embeddings, MAX_LENGTH)
    with running_llama_cpp(path, context) as server, plain_greedy(model):
        for text, ids in zip(SAMPLE_TEXTS, rows, strict=True):
            expected_ids, found = tokenizer(text, verbose=False)["input_ids"], server.encode(text)
            if found != expected_ids and found != merge_unknown(expected_ids, tokenizer):
                raise ScratchError(f"llama.cpp splits {text!r} into {found}, the tokenizer into {expected_ids}")
            prompt = torch.tensor([ids])
            expected = model(prompt).logits[0, -1].float().log_softmax(-1)
            differences.append((server.log_probabilities(ids, vocab_size) - expected).abs().max())
            generated = model.generate(prompt, do_sample=False, max_new_tokens=new_tokens)
            equal += server.greedy(ids, new_tokens) == generated[0, len(ids) :].tolist()
    largest = torch.stack(differences).max().item()
    if quantization == "f32":
        is_gpt2 = "gelu_new" in (getattr(model.config, name, None) for name in ("hidden_act", "activation_function"))
        limit = MAX_DIFFERENCE["gpt2" if is_gpt2 else "llama"]
        if not largest <= limit:
            raise ScratchError(
                "llama.cpp computes other probabilities: the largest difference of log-probabilities is "
                f"{largest:.2g}, want at most {limit:g}"
            )
        if equal < len(rows) and not is_gpt2:
            raise ScratchError(f"llama.cpp continues {len(rows) - equal} of {len(rows)} texts with other tokens")
    return {"texts": len(rows), "largest_log_probability_difference": largest, "equal_greedy": equal}


def merge_unknown(ids: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Token ids in which adjacent unknown tokens are one, as llama.cpp has them for characters."""
    unknown = tokenizer.unk_token_id
    return [token for i, token in enumerate(ids) if token != unknown or i == 0 or ids[i - 1] != unknown]
