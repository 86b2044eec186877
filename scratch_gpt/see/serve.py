"""`scratch-gpt see --serve`: the same page, whose model is computed by torch in this process.

The page posts a line of JSON, and for states also their numbers, to `/compute`; the answer is a line of JSON, in which
an array is `{"float32": [offset, count]}`, and the bytes of all arrays. The server listens on 127.0.0.1 only. It
accepts only requests that carry the token of its page, and checks `Host` (against DNS rebinding) and `Origin`: other
pages in the same browser can't use it.

Dimension letters: T tokens, C hidden size.
"""

from __future__ import annotations

import errno
import hmac
import json
import secrets
import signal
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..errors import ScratchError
from ..hub.loading import Tokenizers, choose_device, choose_dtype, load_model, open_config
from ..hub.native.importing import import_to_memory, is_native_config, plan_import
from .page import check_comparable, example, page_html, report_ignored
from .payload import payload_without_weights, tokenizers_for
from .torch_edits import Edits
from .torch_trace import Pass, ServedModel, Trace

HOST = "127.0.0.1"
HOST_NAMES = ("127.0.0.1", "localhost")
TOKEN_HEADER = "X-Scratch-GPT-Token"
MAX_REQUEST = 256 * 2**20  # bytes: the states of a lens, (T, C)
MAX_ANSWER = 256 * 2**20  # bytes: browsers limit the length of a text, which an answer is
TIMEOUT = 60  # seconds that a connection may be silent
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def serve(
    names: Sequence[str],
    port: int,
    text: str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    report: Callable[[str], object] = print,
) -> None:
    """Serve the page of one model, or of two that are compared, until Ctrl-C or SIGTERM; for the main thread.

    Args:
        names: folders or Hub ids; the first is shown, and the second compared with it.
        port: to listen on; 0 for a free one.
        text: what the page starts with; None: an example.
        trust_remote_code: whether to run code from the checkpoints.
        device: as the option `--device` of other commands.
        dtype: as the option `--dtype` of other commands.
        report: called with each line about the server.

    Raises:
        ScratchError: a model can't be opened or shown, the two can't be compared, or the port can't be used.
    """
    with open_server(port) as server:  # before the models, which take longer
        opened = [open_served_model(name, trust_remote_code, device, dtype) for name in names]
        tokenizers = [
            tokenizers_for(name, model.config, trust_remote_code) for name, model in zip(names, opened, strict=True)
        ]
        server.show(names, opened, tokenizers, text, report)
        for name, model in zip(names, opened, strict=True):
            kind = f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
            report(f"{name}: {model.num_parameters():,} parameters, {kind}")
        for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT also where a shell ignores it in the background
            signal.signal(number, signal.default_int_handler)
        report(f"open http://{HOST}:{server.server_port}/ in a browser; Ctrl-C ends the server")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            report("the server has ended")


def open_served_model(name: str, trust_remote_code: bool, device: str, dtype: str) -> PreTrainedModel:
    """Load one of our models, or import one of transformers, in evaluation mode.

    Args:
        name: folder or Hub id.
        trust_remote_code: whether to run code from the checkpoint.
        device: as the option `--device` of other commands.
        dtype: as the option `--dtype` of other commands.

    Raises:
        ScratchError: it can't be opened or imported, or the device or data type is unknown or not available.
    """
    chosen = choose_device(device)
    wanted = choose_dtype(dtype, chosen)
    config = open_config(name, trust_remote_code)
    if not is_native_config(config):
        return load_model(name, trust_remote_code, device=chosen, dtype=wanted).eval()
    stored = getattr(config, "dtype", None) or torch.float32
    model: Any = import_to_memory(plan_import(name))
    return model.to(chosen, stored if wanted == "auto" else wanted).eval()


def open_server(port: int) -> Server:
    """A server that listens on a port of this machine.

    Raises:
        ScratchError: the port can't be used.
    """
    try:
        return Server((HOST, port), Handler)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"can't be used ({error.strerror or error})"
        raise ScratchError(f"port {port} {reason}: choose another one by --port, or a free one by --port 0") from error


class Server(ThreadingHTTPServer):
    """A server of one page. Its models compute one request at a time."""

    daemon_threads = True

    def show(
        self,
        names: Sequence[str],
        models: Sequence[PreTrainedModel],
        tokenizers: Sequence[Tokenizers],
        text: str | None = None,
        report: Callable[[str], object] = print,
    ) -> None:
        """Set what is served.

        Args:
            names: of the models.
            models: the first is shown, and the second compared with it.
            tokenizers: of each.
            text: what the page starts with; None: an example.
            report: called with a line about settings that the page ignores.

        Raises:
            ScratchError: a page can't show a model, or compare the two.
        """
        self.token = secrets.token_urlsafe(32)
        self.lock = threading.Lock()
        payloads = [payload_without_weights(*parts) for parts in zip(models, tokenizers, names, strict=True)]
        report_ignored(names, payloads, report)
        for index, payload in enumerate(payloads):
            payload.content["served"] = {"model": index, "token": self.token}
        for name, payload in zip(names[1:], payloads[1:], strict=True):
            check_comparable(names[0], payloads[0], name, payload)
        start = example(payloads[0].content) if text is None else text
        self.page = page_html(payloads, start, served=True).encode("utf-8")
        self.models = [ServedModel(model) for model in models]

    def compute(self, body: bytes) -> bytes:
        """Answer a request of the page.

        Raises:
            ScratchError: it is not one.
        """
        line, _, numbers = body.partition(b"\n")
        request = parsed(line)
        index, method = request.get("model"), request.get("method")
        if type(index) is not int or not 0 <= index < len(self.models):
            raise ScratchError(f"model is {index!r}: want an integer from 0 to {len(self.models) - 1}")
        model = self.models[index]
        with self.lock:
            if method == "forward":
                wanted = pass_of(request)
                check_answer(model, wanted)
                return packed(model.forward(wanted))
            if method in ("norm", "head"):
                states = states_of(numbers, model.config)
                return packed({"states": model.norm(states) if method == "norm" else model.head(states)})
        raise ScratchError(f"method is {method!r}: want forward, norm or head")


class Handler(BaseHTTPRequestHandler):
    """Answers one request: the page at `/`, and what it asks for at `/compute`."""

    server: Server
    protocol_version = "HTTP/1.1"  # one connection for many requests
    wbufsize = -1  # header and content in one packet, without waiting for an acknowledgement of the first
    disable_nagle_algorithm = True
    timeout = TIMEOUT

    def do_GET(self) -> None:
        """The page."""
        if not self._is_from_here():
            return self._refuse(HTTPStatus.FORBIDDEN, "this server answers only its own page on this machine")
        if self.path.partition("?")[0] != "/":
            return self._refuse(HTTPStatus.NOT_FOUND, "there is only the page: /")
        return self._answer(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """A computation."""
        if not self._is_from_here() or not self._has_token():
            return self._refuse(HTTPStatus.FORBIDDEN, "this server answers only its own page: load it again")
        if self.path != "/compute":
            return self._refuse(HTTPStatus.NOT_FOUND, "a page computes at /compute")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            return self._refuse(HTTPStatus.LENGTH_REQUIRED, "the request has no Content-Length")
        if int(length) > MAX_REQUEST:
            limit = f"{MAX_REQUEST:,} bytes"
            return self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is larger than {limit}: shorten the text"
            )
        body = self.rfile.read(int(length))
        try:
            answer = self.server.compute(body)
        except ScratchError as error:
            return self._answer(HTTPStatus.BAD_REQUEST, str(error).encode())
        except Exception as error:  # the page says it, and the server goes on
            text = f"torch could not compute this: {type(error).__name__}: {error}"
            return self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, " ".join(text.split()).encode())
        return self._answer(HTTPStatus.OK, answer, "application/octet-stream")

    def _is_from_here(self) -> bool:
        """Whether a request is for a name of this machine, and from its own page or from no page. The port is not
        compared with that of the server: it may be forwarded."""
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if len(hosts) != 1 or hosts[0].rsplit(":", 1)[0] not in HOST_NAMES:
            return False
        return all(origin == f"http://{hosts[0]}" for origin in origins)

    def _has_token(self) -> bool:
        found = self.headers.get(TOKEN_HEADER, "")
        return hmac.compare_digest(found.encode("utf-8", "replace"), self.server.token.encode())

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """An error before the body was read, after which the connection can't be used."""
        self.close_connection = True
        self._answer(status, text.encode())

    def _answer(self, status: HTTPStatus, content: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        headers = {**HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal has only the address."""

    def version_string(self) -> str:
        """The name of the server in its answers, without versions."""
        return "scratch_gpt"


def parsed(line: bytes) -> dict[str, Any]:
    """The JSON of a request.

    Raises:
        ScratchError: it is not an object.
    """
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ScratchError(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise ScratchError("the request is not an object of JSON")
    return request


def pass_of(request: dict[str, Any]) -> Pass:
    """The forward pass that a request asks for.

    Raises:
        ScratchError: a field has another type.
    """
    ids = {name: request.get(name) or [] for name in ("ids", "sourceIds")}
    for name, values in ids.items():
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            raise ScratchError(f"{name} is not a list of integers")
    start = request.get("start", 0)
    if type(start) is not int:
        raise ScratchError(f"start is {start!r}: want an integer")
    flags = {name: request.get(name) or False for name in ("cached", "record", "lastLogits")}
    if wrong := [name for name, value in flags.items() if not isinstance(value, bool)]:
        raise ScratchError(f"{wrong[0]} is {flags[wrong[0]]!r}: want true or false")
    edits = Edits.from_json(request.get("edits"))
    options = {"cached": flags["cached"], "record": flags["record"], "last_logits": flags["lastLogits"]}
    return Pass(tuple(ids["ids"]), tuple(ids["sourceIds"]), start, edits=edits, **options)


def states_of(numbers: bytes, config: Any) -> torch.Tensor:
    """States (T, C) that a request has after its line.

    Raises:
        ScratchError: they are not of this size.
    """
    size = 4 * getattr(config, "hidden_size", 0)
    if not numbers or not size or len(numbers) % size:
        raise ScratchError(f"there are {len(numbers)} bytes of states: want a multiple of {size}")
    return torch.from_numpy(np.frombuffer(numbers, "<f4").astype("f4")).view(-1, size // 4)


def check_answer(model: ServedModel, wanted: Pass) -> None:
    """Check how much a pass would send, before it is computed.

    Raises:
        ScratchError: there are more tokens than positions, or the answer would be too large for a browser.
    """
    config = model.config
    target, source = len(wanted.ids), len(wanted.source_ids)
    longest = config.max_position_embeddings if model.kind != "bigram" else MAX_REQUEST
    if max(target, source) > longest:
        raise ScratchError(f"there are {max(target, source)} tokens, and this model has {longest} positions")
    vocabulary = getattr(config, "decoder_vocab_size", None) or config.vocab_size
    size = vocabulary * (1 if wanted.last_logits else target - wanted.start)
    if wanted.record and model.kind != "bigram":
        size += recorded_size(model, target, source)
    if 4 * size > MAX_ANSWER:
        text = f"what is recorded of {target} tokens has {4 * size / 2**20:,.0f} MiB"
        raise ScratchError(f"{text}, and this page shows at most {MAX_ANSWER // 2**20} MiB: shorten the text")


def recorded_size(model: ServedModel, target: int, source: int) -> int:
    """About how many numbers a recorded pass has.

    Args:
        model: the model.
        target: number of tokens; of an encoder-decoder those of the target.
        source: number of tokens of the source.
    """
    config, layers = model.config, len(model.trunk.layers)
    heads, hidden = config.num_attention_heads, config.hidden_size
    vectors = 8 * hidden + 3 * heads * config.head_dim  # of a token in a block: residual stream, branches, norms
    size = layers * (2 * heads * target * (target + source) + vectors * (target + source))
    if source:
        size += config.encoder_layers * (2 * heads * source * source + vectors * source)
    return size


def packed(trace: Trace) -> bytes:
    """A trace as a line of JSON and the bytes of its arrays, each at a multiple of 4; a tensor that is in several
    places is sent once."""
    parts: list[bytes] = []
    places: dict[int, dict[str, list[int]]] = {}
    offset = 0

    def described(value: Any) -> Any:
        nonlocal offset
        if isinstance(value, dict):
            return {name: described(each) for name, each in value.items()}
        if isinstance(value, list):
            return [described(each) for each in value]
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in places:
            kind, dtype = ("float32", "<f4") if value.is_floating_point() else ("int32", "<i4")
            data = (value.float() if kind == "float32" else value).contiguous().cpu().numpy().astype(dtype).tobytes()
            places[id(value)] = {kind: [offset, value.numel()]}
            parts.append(data)
            offset += len(data)
        return places[id(value)]

    line = json.dumps(described(trace), separators=(",", ":")).encode()
    return b"".join([line, b"\n", *parts])
