"""`transformers serve` with an OpenAI client, as docs/how-to/serve.md shows it."""

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.models import randomise, tiny_model
from helpers.processes import PROJECT, run_here, run_python
from transformers import AutoModelForCausalLM, AutoTokenizer

from scratch_gpt import train_tokenizer
from scratch_gpt.tokenization.chat import add_chat_template

HOW_TO = (PROJECT / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
EXAMPLES = [block for block in re.findall(r"```python\n(.*?)```", HOW_TO, re.DOTALL) if "OpenAI" in block]
PROMPTS = ["One day, Anna", "How warm is it?"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A chat model with random weights, in a run's directory and, beside it, in transformers' own class."""
    run = tmp_path_factory.mktemp("serving") / "run"
    tokenizer = train_tokenizer(PROMPTS, "char")  # random bytes would not be text
    add_chat_template(tokenizer)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = randomise(tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128, **ids))
    model.save_pretrained(run)
    tokenizer.save_pretrained(run)
    run_here("scratch-gpt", "export", str(run), str(run.with_name("native")))
    return run


@contextmanager
def serving(folder: Path, *options: str):
    """Run `transformers serve` without the package on a free port, which is yielded."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = "import sys; sys.modules['scratch_gpt'] = None; from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", start, "serve", str(folder), "--device", "cpu", "--port", str(port), *options]
    log = folder.with_suffix(".log")
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, cwd=folder.parent) as process,
    ):
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5)
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.2)
            yield port
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("served", ["native", "run"])
def test_transformers_serve_answers_with_our_texts(served, folder, tmp_path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    path = folder.with_name(served)
    texts = [
        PROMPTS[0],
        tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPTS[1]}], tokenize=False, add_generation_prompt=True
        ),
    ]
    with serving(path, *(["--trust-remote-code"] if served == "run" else [])) as port:
        for example, text, special in zip(EXAMPLES, texts, (True, False), strict=True):
            script = example.replace("localhost:8000", f"localhost:{port}").replace("runs/native", str(path))
            answer = run_python("-c", script, cwd=tmp_path).stdout.removesuffix("\n")
            ids = tokenizer(text, add_special_tokens=special, return_tensors="pt").input_ids
            with torch.inference_mode():
                ours = model.generate(ids, do_sample=False, max_new_tokens=40)[0, ids.shape[1] :]
            assert answer == tokenizer.decode(ours, skip_special_tokens=True)
