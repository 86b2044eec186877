"""A local Hub server: the endpoints that huggingface_hub's client calls to create, push, list and download.

Repositories are kept in memory as revisions of {path: bytes}. As on the real Hub, large files are uploaded with LFS
(batch, PUT, pointer in the commit) and small ones are part of the commit. All requests are logged. `TransientFault`s
make the server reject requests, disconnect, or lose or delay responses.

    python -m helpers.loopback_hub 8080     # then: HF_ENDPOINT=http://127.0.0.1:8080 HF_TOKEN=hf_test …
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import socket
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse

from helpers.hub_repository import SDKS, Repository, is_space_metadata, metadata

LFS_SUFFIXES = (".safetensors", ".png", ".bin")
USER = "tester"
LATE_RESPONSE_DELAY = 10.0  # seconds
# In addresses; a Space is kept as repository "spaces/user/name", a dataset as "datasets/user/name".
REPO = "(?:models/)?(?P<repo>(?:spaces/|datasets/)?[^/]+/[^/]+)"


@dataclass
class TransientFault:
    """A fault of the first `times` requests whose "METHOD /path" matches `pattern`.

    Args:
        pattern: regular expression, searched in "METHOD /path".
        kind: HTTP status of the response; or "disconnect": the connection is closed while the request is read; "hang":
            there is never a response; "lost": the request is executed, but its response is not sent; "late": the same,
            executed after `LATE_RESPONSE_DELAY`.
        times: number of requests that fail.
        headers: of the response, if `kind` is a status.
    """

    pattern: str
    kind: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


class LoopbackHub(ThreadingHTTPServer):
    """The server, its repositories and a log of requests and response statuses."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.statuses: list[int] = []
        self.served: list[tuple[str, int, int]] = []  # file, and the first and the last byte of each transfer
        self.faults: list[TransientFault] = []
        self.stopping = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running_hub():
    """Run a `LoopbackHub` in a background thread."""
    hub = LoopbackHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopping.set()
        hub.shutdown()
        hub.server_close()
        thread.join(5)


class Handler(BaseHTTPRequestHandler):
    """The request handler of `LoopbackHub`; `ROUTES` maps requests to the `on_` methods."""

    server: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    # --- requests and responses ---

    def reply(self, content: object = None, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps({} if content is None else content).encode()
        self.server.statuses.append(status)
        self.send_response(status)
        names = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        for name, value in names.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_not_found(self, code: str) -> None:
        self.reply({"error": code}, 404, {"X-Error-Code": code, "X-Error-Message": code})

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    # --- routes: (method, pattern, name of the handler) ---

    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", rf"/api/{REPO}/preupload/(?P<revision>.+)", "preupload"),
        ("POST", rf"/api/{REPO}/commit/(?P<revision>.+)", "commit"),
        ("POST", rf"/api/{REPO}/branch/(?P<revision>.+)", "branch"),
        ("POST", rf"/api/{REPO}/paths-info/(?P<revision>.+)", "paths_info"),
        ("GET", rf"/api/{REPO}/refs", "refs"),
        ("GET", rf"/api/{REPO}/commits/(?P<revision>.+)", "commits"),
        ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(/(?P<folder>.*))?", "tree"),
        ("GET", rf"/api/{REPO}(/revision/(?P<revision>.+))?", "info"),
        ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>\w+)", "lfs_put"),
        ("GET", rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    def route(self) -> None:
        url = urlparse(self.path)
        self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.server.requests.append(f"{self.command} {url.path}")
        if self.inject_fault(f"{self.command} {unquote(url.path)}"):
            return
        method = "GET" if self.command == "HEAD" else self.command
        for route_method, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, unquote(url.path))
            if match and route_method == method:
                parts = match.groupdict()
                if "repo" in parts and parts["repo"] not in self.server.repositories:
                    self.read_body()
                    self.reply_not_found("RepoNotFound")
                    return
                getattr(self, f"on_{name}")(**parts)
                return
        self.read_body()
        self.reply_not_found("EntryNotFound")

    def inject_fault(self, request: str) -> bool:
        """Apply the first fault for this request, if any; returns whether the request is finished by it."""
        fault = next((f for f in self.server.faults if f.times > 0 and re.search(f.pattern, request)), None)
        if fault is None:
            return False
        fault.times -= 1
        if isinstance(fault.kind, int):
            self.read_body()
            self.reply({"error": "injected fault"}, fault.kind, fault.headers)
            return True
        self.close_connection = True
        if fault.kind in ("lost", "late"):
            self.server.stopping.wait(LATE_RESPONSE_DELAY if fault.kind == "late" else 0)
            self.wfile = io.BytesIO()
            return False
        if fault.kind == "disconnect":
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            self.server.stopping.wait()
        return True

    do_GET = do_HEAD = do_POST = do_PUT = route  # noqa: N815

    def on_whoami(self) -> None:
        if not self.headers.get("Authorization"):
            self.reply({"error": "Invalid username or password."}, 401)
            return
        self.reply({"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": {}}})

    def on_create(self) -> None:
        request = json.loads(self.read_body())
        name = f"{request.get('organization') or USER}/{request['name']}"
        is_space = request.get("type") == "space"
        if is_space and request.get("sdk") not in SDKS:
            self.reply({"error": "Invalid sdk of a Space"}, 400)
            return
        path = f"spaces/{name}" if is_space else name
        if path in self.server.repositories:
            self.reply({"error": "You already created this repo", "url": f"{self.server.endpoint}/{path}"}, 409)
            return
        # Older releases of huggingface_hub send `private`.
        private = bool(request.get("private")) or request.get("visibility") == "private"
        repository = Repository(private=private, sdk=request.get("sdk") if is_space else None)
        files = {".gitattributes": b"*.safetensors filter=lfs\n"}
        if is_space:  # the Hub writes a card of a new Space
            files["README.md"] = f"---\ntitle: {request['name']}\nsdk: {request['sdk']}\n---\n".encode()
        repository.commit("main", files, "initial commit")
        self.server.repositories[path] = repository
        self.reply({"url": f"{self.server.endpoint}/{path}", "name": name, "id": name})

    def on_validate(self) -> None:
        request = json.loads(self.read_body())
        wrong = request.get("repoType") == "space" and not is_space_metadata(metadata(request["content"]))
        errors = [{"message": "invalid metadata of a Space"}] if wrong else []
        self.reply({"errors": errors, "warnings": []}, 400 if wrong else 200)

    def on_preupload(self, repo: str, revision: str) -> None:
        files = json.loads(self.read_body())["files"]
        existing = self.server.repositories[repo].files(revision) or {}
        modes = []
        for path in (file["path"] for file in files):
            mode = "lfs" if path.endswith(LFS_SUFFIXES) else "regular"
            modes.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            if path in existing:
                blob = b"blob %d\0" % len(existing[path]) + existing[path]
                modes[-1]["oid"] = (hashlib.sha256(existing[path]) if mode == "lfs" else hashlib.sha1(blob)).hexdigest()
        self.reply({"files": modes})

    def on_lfs_batch(self, repo: str) -> None:
        request = json.loads(self.read_body())
        objects = []
        for item in request["objects"]:
            entry = {"oid": item["oid"], "size": item["size"], "authenticated": True}
            if item["oid"] not in self.server.objects:
                entry["actions"] = {"upload": {"href": f"{self.server.endpoint}/lfs/{item['oid']}", "header": {}}}
            objects.append(entry)
        self.reply({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def on_lfs_put(self, oid: str) -> None:
        content = self.read_body()
        if hashlib.sha256(content).hexdigest() != oid:
            self.reply({"error": "content does not match its id"}, 400)
            return
        self.server.objects[oid] = content
        self.reply()

    def on_branch(self, repo: str, revision: str) -> None:
        request = json.loads(self.read_body() or b"{}")
        repository = self.server.repositories[repo]
        if revision in repository.revisions:
            self.reply({"error": "Reference already exists"}, 409)
            return
        start = repository.files(request.get("startingPoint", "main"))
        repository.commit(revision, dict(start or {}), f"branch {revision}")
        self.reply()

    def on_commit(self, repo: str, revision: str) -> None:
        repository = self.server.repositories[repo]
        files, title = dict(repository.revisions.get(revision, {})), ""
        for line in self.read_body().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, repository.commit_id(revision)):
                    self.reply({"error": "the branch has moved"}, 412)
                    return
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files.pop(value["path"], None)
            elif entry["key"] == "deletedFolder":
                files = {path: c for path, c in files.items() if not path.startswith(value["path"].rstrip("/") + "/")}
        oid = repository.commit(revision, files, title)
        self.reply({"success": True, "commitOid": oid, "commitUrl": f"{self.server.endpoint}/{repo}/commit/{oid}"})

    def entries(self, files: dict[str, bytes]) -> list[dict]:
        entries = []
        for path, content in sorted(files.items()):
            entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            if path.endswith(LFS_SUFFIXES):
                entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            entries.append(entry)
        return entries

    def files_or_404(self, repo: str, revision: str | None) -> dict[str, bytes] | None:
        files = self.server.repositories[repo].files(revision or "main")
        if files is None:
            self.reply_not_found("RevisionNotFound")
        return files

    def on_tree(self, repo: str, revision: str, folder: str | None = None) -> None:
        files = self.files_or_404(repo, revision)
        if files is not None:
            prefix = f"{folder.rstrip('/')}/" if folder else ""
            inside = {path: content for path, content in files.items() if path.startswith(prefix)}
            if prefix and not inside:
                self.reply_not_found("EntryNotFound")
                return
            self.reply(self.entries(inside))

    def on_paths_info(self, repo: str, revision: str) -> None:
        raw = self.read_body().decode()
        paths = json.loads(raw)["paths"] if raw.startswith("{") else parse_qs(raw).get("paths", [])
        files = self.files_or_404(repo, revision)
        if files is not None:
            self.reply(self.entries({path: files[path] for path in paths if path in files}))

    def on_refs(self, repo: str) -> None:
        repository = self.server.repositories[repo]
        branches = [
            {"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in repository.commits.items()
        ]
        self.reply({"branches": branches, "converts": [], "tags": [], "pullRequests": []})

    def on_commits(self, repo: str, revision: str) -> None:
        repository = self.server.repositories[repo]
        commits = zip(reversed(repository.snapshots), reversed(repository.titles), strict=True)
        date = "2026-01-01T00:00:00.000Z"
        self.reply([{"id": i, "title": t, "message": "", "date": date, "authors": []} for i, t in commits])

    def on_info(self, repo: str, revision: str | None = None) -> None:
        files = self.files_or_404(repo, revision)
        if files is not None:
            repository = self.server.repositories[repo]
            info = {
                "id": "/".join(repo.split("/")[-2:]),
                "author": repo.split("/")[-2],
                "sha": repository.commit_id(revision or "main"),
                "private": repository.private,
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
            if repository.sdk:
                card = metadata(files.get("README.md", b"").decode())
                info |= {"sdk": card.get("sdk", repository.sdk), "cardData": card, "tags": [repository.sdk]}
            elif not repo.startswith("datasets/"):
                info |= {"modelId": repo, "tags": ["transformers", "text-generation"]}
                info |= {"pipeline_tag": "text-generation", "library_name": "transformers"}
            self.reply(info)

    def on_resolve(self, repo: str, revision: str, path: str) -> None:
        files = self.files_or_404(repo, revision)
        if files is None:
            return
        if path not in files:
            commit = self.server.repositories[repo].commit_id(revision)
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit}
            self.reply({"error": "Entry not found"}, 404, headers)
            return
        content = files[path]
        large = path.endswith(LFS_SUFFIXES)
        etag = (hashlib.sha256 if large else hashlib.sha1)(content).hexdigest()
        headers = {
            "ETag": f'"{etag}"',
            "X-Repo-Commit": self.server.repositories[repo].commit_id(revision),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        byte_range = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if byte_range:
            first = int(byte_range[1])
            last = min(int(byte_range[2]) if byte_range[2] else len(content) - 1, len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.server.served.append((path, first, last))
            self.reply(content[first : last + 1], 206, headers)
            return
        if self.command == "HEAD":
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            return
        self.server.served.append((path, 0, len(content) - 1))
        self.reply(content, 200, headers)


if __name__ == "__main__":
    LoopbackHub(int(sys.argv[1]) if len(sys.argv) > 1 else 8080).serve_forever()
