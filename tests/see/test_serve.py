"""`scratch-gpt see --serve`: whom the server answers, what it computes, and that it starts and ends."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import tiny_model
from helpers.pages import shown
from helpers.processes import PROJECT, run_here
from helpers.serving import serving

from scratch_gpt import ScratchGPTConfig, ScratchGPTForCausalLM, export_native
from scratch_gpt.errors import ScratchError
from scratch_gpt.hub.model_directory import save_tokenizers
from scratch_gpt.see import serve
from scratch_gpt.see.support import MAX_PARAMETERS


@pytest.fixture(scope="module")
def server():
    with serving(shown("causal")) as server:
        yield server


def ask(server: Any, method: str = "POST", path: str = "/compute", body: Any = None, **headers: str | None):
    """Status, headers and body of an answer. The headers are those of the page; None leaves one out."""
    host = f"127.0.0.1:{server.server_port}"
    sent: dict[str, str | None] = {"Host": host, "Origin": f"http://{host}", serve.TOKEN_HEADER: server.token}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in ({"Content-Length": str(len(content))} | sent).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(content)
    answer = connection.getresponse()
    result = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return result


def computed(server: Any, body: Any) -> dict[str, Any]:
    """The trace that a request is answered with."""
    status, _, content = ask(server, body=body)
    assert status == 200, content
    line, _, numbers = content.partition(b"\n")
    types = {"float32": "<f4", "int32": "<i4"}

    def array(value):
        if len(value) != 1 or next(iter(value)) not in types:
            return value
        ((kind, (offset, count)),) = value.items()
        return torch.from_numpy(np.frombuffer(numbers, types[kind], count, offset).copy())

    return json.loads(line, object_hook=array)


FORWARD = {"model": 0, "method": "forward", "ids": [5, 6, 7]}


def test_the_page_comes_without_weights(server):
    status, headers, content = ask(server, "GET", "/", b"", Origin=None, X_Scratch_GPT_Token=None)
    page = content.decode()
    assert status == 200
    assert "connect-src 'self'" in page
    assert 'id="weights-0"' not in page
    assert server.token in page
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"


def test_a_pass_and_the_head_are_those_of_torch(server):
    model = server.models[0].model
    with torch.no_grad():
        expected = model(torch.tensor([[5, 6, 7]]), output_hidden_states=True)
        trace = computed(server, {**FORWARD, "record": True})
        torch.testing.assert_close(trace["logits"].view(3, -1), expected.logits[0], atol=1e-5, rtol=0)
        state = expected.hidden_states[1][0]  # after the first block
        torch.testing.assert_close(trace["layers"][0]["output"].view(3, -1), state, atol=1e-5, rtol=0)
        asked = b"\n" + state.numpy().astype("<f4").tobytes()
        normed = computed(server, json.dumps({"model": 0, "method": "norm"}).encode() + asked)["states"]
        torch.testing.assert_close(normed.view(3, -1), model.model.norm(state), atol=1e-5, rtol=0)
        logits = computed(server, json.dumps({"model": 0, "method": "head"}).encode() + asked)["states"]
        torch.testing.assert_close(logits.view(3, -1), model.lm_head(state), atol=1e-5, rtol=0)


FOREIGN: list[dict[str, Any]] = [
    {"Host": "evil.example"},
    {"Host": "evil.example:80", "Origin": "http://evil.example:80"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "[::1]:80"},
    {"Host": None},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"X_Scratch_GPT_Token": None},
    {"X_Scratch_GPT_Token": "a"},
    {"X_Scratch_GPT_Token": ""},
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_others_are_refused(headers, server):
    status, _, content = ask(server, body=FORWARD, **headers)
    assert status == 403
    assert server.token.encode() not in content
    if "X_Scratch_GPT_Token" not in headers:
        status, _, content = ask(server, "GET", "/", b"", **headers)
        assert status == 403
        assert server.token.encode() not in content


@pytest.mark.parametrize("headers", [{"Origin": None}, {"Host": "localhost:9000", "Origin": "http://localhost:9000"}])
def test_a_forwarded_port_and_a_request_without_an_origin_are_answered(headers, server):
    assert ask(server, body=FORWARD, **headers)[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/compute", 404),
        ("POST", "/", 404),
        ("GET", "/../etc/passwd", 404),
        ("OPTIONS", "/compute", 501),
        ("PUT", "/compute", 501),
    ],
)
def test_other_paths_and_methods(method, path, status, server):
    assert ask(server, method, path, FORWARD)[0] == status


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        ([], "is not an object"),
        ({}, "model is None"),
        ({**FORWARD, "model": 1}, "want an integer from 0 to 0"),
        ({**FORWARD, "model": True}, "model is True"),
        ({**FORWARD, "method": "__class__"}, "want forward, norm or head"),
        ({**FORWARD, "ids": "567"}, "ids is not a list of integers"),
        ({**FORWARD, "ids": [5, 1.5]}, "ids is not a list of integers"),
        ({**FORWARD, "ids": []}, "there is no token: give at least one"),
        ({**FORWARD, "ids": [500]}, "there is no token 500: want an integer from 0 to 499"),
        ({**FORWARD, "ids": [5] * 129}, "there are 129 tokens, and this model has 128 positions"),
        ({**FORWARD, "start": 3}, "there is no token"),
        ({**FORWARD, "start": -1}, "there is no token"),
        ({**FORWARD, "start": "0"}, "start is '0'"),
        ({**FORWARD, "record": "yes"}, "record is 'yes'"),
        ({**FORWARD, "edits": {"mlps": "0"}}, "edits.mlps is '0'"),
        (b'{"model": 0, "method": "norm"}', "there are 0 bytes of states: want a multiple of 128"),
        (b'{"model": 0, "method": "head"}\n123', "there are 3 bytes"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_answered_with_a_line(body, message, server):
    status, _, content = ask(server, body=body)
    assert status == 400
    assert message in content.decode()
    assert b"\n" not in content
    assert ask(server, body=FORWARD)[0] == 200  # the server goes on


def test_sizes_are_limited(server, monkeypatch):
    assert ask(server, body=b"", Content_Length=None)[0] == 411
    assert ask(server, body=b"", Content_Length="-1")[0] == 411
    assert ask(server, body=b"", Content_Length=str(serve.MAX_REQUEST + 1))[0] == 413
    monkeypatch.setattr(serve, "MAX_ANSWER", 100_000)
    assert ask(server, body={**FORWARD, "record": True})[0] == 200
    status, _, content = ask(server, body={**FORWARD, "ids": [5] * 100, "record": True})
    assert status == 400
    assert "what is recorded of 100 tokens" in content.decode()
    assert "shorten the text" in content.decode()


def test_an_error_of_torch_is_said_and_the_server_goes_on(server, monkeypatch):
    def fail(*args):
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(server.models[0], "forward", fail)
    status, _, content = ask(server, body=FORWARD)
    assert (status, content) == (500, b"torch could not compute this: RuntimeError: out of memory")


@pytest.mark.parametrize(("kind", "source"), [("causal", []), ("seq2seq", [5, 6, 7, 8])])
def test_the_size_of_an_answer_is_estimated(kind, source):
    """The estimate is not below the size by more than a few percent, nor twice as large."""
    found = serve.ServedModel(shown(kind).model)
    wanted = serve.Pass(tuple(range(5, 45)), tuple(source * 8), record=True)
    size = len(serve.packed(found.forward(wanted)))
    vocabulary = 40 * found.config.vocab_size
    estimate = 4 * (vocabulary + serve.recorded_size(found, 40, len(source) * 8))
    assert 0.95 * size < estimate < 2 * size


def test_passes_at_the_same_time_do_not_mix(server):
    """Parts are switched off by hooks, which a pass of another request must not meet."""
    requests = [{**FORWARD, "ids": list(range(5, 45)), "edits": {"mlps": mlps}} for mlps in ([], [0], [1], [0, 1])]
    expected = [computed(server, request)["logits"] for request in requests]
    assert (expected[0] - expected[3]).abs().max() > 1e-3
    found: dict[int, list[torch.Tensor]] = {index: [] for index in range(len(requests))}

    def repeat(index: int) -> None:
        for _ in range(15):
            found[index].append(computed(server, requests[index])["logits"])

    threads = [threading.Thread(target=repeat, args=(index,)) for index in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, answers in found.items():
        assert len(answers) == 15
        for answer in answers:
            torch.testing.assert_close(answer, expected[index], atol=1e-5, rtol=0)


def test_a_busy_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ScratchError, match=f"port {port} is in use: choose another one by --port"):
            serve.open_server(port)


def test_a_tensor_in_several_places_is_sent_once():
    one, other = torch.ones(2), torch.tensor([[1, 2]])
    assert serve.packed({"a": one, "b": [one, None], "c": other}) == (
        b'{"a":{"float32":[0,2]},"b":[{"float32":[0,2]},null],"c":{"int32":[8,2]}}\n'
        + one.numpy().tobytes()
        + other.int().numpy().tobytes()
    )


def save(found: Any, folder: Any) -> str:
    """Write a model directory."""
    found.model.save_pretrained(folder)
    save_tokenizers(found.tokenizers.source, found.tokenizers.target, folder)
    return folder.name


@contextmanager
def started(*arguments: str, cwd: Any):
    """The command in a process of its own: the process, its address, and what it printed first."""
    command = [sys.executable, "-m", "scratch_gpt", "see", *arguments, "--serve", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = []
        while not lines or not lines[-1].startswith("open http"):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()[1]
        yield process, re.search(r"http://127\.0\.0\.1:\d+/", lines[-1])[0], lines
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_interrupted(number, tmp_path):
    save(shown("causal"), tmp_path / "gpt")
    with started("gpt", cwd=tmp_path) as (process, url, lines):
        count = shown("causal").model.num_parameters()
        assert lines[0] == f"gpt: {count:,} parameters, float32 on cpu\n"
        connection = http.client.HTTPConnection("127.0.0.1", int(url.rsplit(":", 1)[1].strip("/")), timeout=30)
        connection.request("GET", "/")
        assert b'"name":"gpt"' in connection.getresponse().read()
        connection.close()
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (0, "the server has ended\n", "")


@pytest.mark.slow
def test_native_models_and_data_types(tmp_path, monkeypatch):
    """An imported model, and float16: what is said is what computes."""
    native = export_native(tiny_model("llama", vocab_size=500, max_position_embeddings=128))
    native.save_pretrained(tmp_path / "native")
    shown("causal").tokenizers.source.save_pretrained(tmp_path / "native")
    seen = []
    monkeypatch.setattr(serve.Server, "serve_forever", lambda server: seen.append(server.models[0].model.dtype))
    settings = json.loads((tmp_path / "native" / "generation_config.json").read_text())
    (tmp_path / "native" / "generation_config.json").write_text(
        json.dumps(settings | {"do_sample": True, "min_p": 0.1})
    )
    result = run_here("scratch-gpt", "see", "native", "--serve", "--port", "0", "--dtype", "float16", cwd=tmp_path)
    assert "parameters, float16 on cpu" in result.stdout
    assert "the page ignores min_p in the generation config of native" in result.stdout
    assert seen == [torch.float16]


@pytest.mark.slow
def test_a_model_too_large_for_a_page_is_served(tmp_path):
    """The refusal names --serve, with which the same folder is shown."""
    config = ScratchGPTConfig.from_preset("llama", vocab_size=500, hidden_size=768, num_hidden_layers=6)
    model = ScratchGPTForCausalLM(config)
    assert model.num_parameters() > MAX_PARAMETERS
    save(shown("causal")._replace(model=model), tmp_path / "large")
    refused = run_here("scratch-gpt", "see", "large", cwd=tmp_path, check=False)
    assert refused.returncode == 2
    assert "show it by 'scratch-gpt see MODEL --serve'" in refused.stderr
    with started("large", cwd=tmp_path) as (_, url, lines):
        assert lines[0] == f"large: {model.num_parameters():,} parameters, float32 on cpu\n"
        assert url


FAILS = [
    ("gpt --serve --output a.html", "--output can't be used with --serve, which writes no file"),
    ("gpt --serve --film gpt", "--film can't be used with --serve"),
    ("gpt --port 80", "--port can't be used without --serve"),
    ("gpt --device cpu", "--device can't be used without --serve"),
    ("gpt --serve --port 70000", "Invalid value for '--port'"),
    ("gpt --serve --port 0 --against other", "--against other has another tokenizer than gpt"),
    ("none --serve --port 0", "no model can be opened from 'none'"),
    ("gpt --serve --port 0 --device abacus", "unknown device 'abacus'"),
]


def test_bad_input_is_an_error_in_one_line(tmp_path):
    save(shown("causal"), tmp_path / "gpt")
    save(shown("ngram"), tmp_path / "other")
    for arguments, message in FAILS:
        result = run_here("scratch-gpt", "see", *arguments.split(), cwd=tmp_path, check=False)
        assert result.returncode == 2, (arguments, result.stderr)
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (arguments, result.stderr)
        assert message in lines[0], arguments
