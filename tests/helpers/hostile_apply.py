"""Apply a plan of `hostile_mutations` to a run's directory."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import hashlib
import json
import os
import pickle
import re
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

import yaml

from helpers.hostile_fields import CODE
from helpers.hostile_mutations import CHECKPOINTS, EXTRA

SECRET = "the secret of somebody else 7c1f"
OF_RUN = {"run.yaml", "metrics.jsonl", ".metrics.jsonl", "loss.png", "README.md", "logs", ".cache", "best"}
OF_CHECKPOINT = {"training_state.json", "training_state.safetensors", "manifest.json"}
_EXPANDED = re.compile(r"""["']?@(DEEP|LONG|DIGITS|MANY|NAMES)(\d+)@["']?""")


class Places:
    """Paths in the folder of a case.

    Args:
        case: the folder, with `run`, the hostile directory; `outside`, which no command may write to; and `mark`, which
            only code from the directory would create.
    """

    def __init__(self, case: Path):
        self.run, self.outside, self.mark = case / "run", case / "outside", case / "mark"

    def fill_in(self, text: str) -> str:
        """Expand the placeholders in a text of a plan."""
        for name, path in (("@MARK@", self.mark), ("@OUTSIDE@", self.outside), ("@HERE@", self.run)):
            text = text.replace(name, str(path))
        return _EXPANDED.sub(_expand, text)


def _expand(match: re.Match[str]) -> str:
    kind, count, quotes = match[1], int(match[2]), '"' if match[0][0] in "\"'" else ""
    if kind == "LONG":
        return quotes + "a" * count + quotes
    if kind == "DIGITS":
        return "9" * count
    if kind == "DEEP":
        return "[" * count + "]" * count
    items = ("1" for _ in range(count)) if kind == "MANY" else (f'"{number}": "x"' for number in range(count))
    return ("[{}]" if kind == "MANY" else "{{{}}}").format(", ".join(items))


def make_outside(base: Path, places: Places) -> None:
    """Create the folder `outside`: a secret, code, a model, and another run with its checkpoints."""
    shutil.copytree(base, places.outside / "run")
    shutil.copytree(base / CHECKPOINTS[0], places.outside / "model")
    shutil.copy(base / "model.safetensors", places.outside / "weights.safetensors")
    shutil.copy(base / "tokenizer.json", places.outside / "tokenizer.1.0.json")
    (places.outside / "secret.txt").write_text(f"{SECRET}\n" * 40)
    (places.outside / "evil.py").write_text(places.fill_in(CODE))


def make_directory(base: Path, places: Places, plan: dict[str, Any]) -> None:
    """Copy the valid directory `base` and apply a plan. Mutations that an earlier one made impossible are skipped."""
    shutil.copytree(base, places.run)
    folders = {"root": [""], "checkpoint": list(CHECKPOINTS), "all": ["", *CHECKPOINTS]}[plan["where"]]
    for mutation in plan["mutations"]:
        file = mutation.get("file", "").strip(" ") or " "
        for folder in places_of(file, folders):
            try:
                _apply(places.run / folder / file, {**mutation}, places, base)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, yaml.YAMLError):
                continue
    if plan["manifest"]:
        for name in CHECKPOINTS:
            if (places.run / name).is_dir() and not (places.run / name).is_symlink():
                rewrite_manifest(places.run / name)


def places_of(file: str, folders: list[str]) -> list[str]:
    """The folders of a run in which a file of this name is placed."""
    if file in OF_RUN or file.startswith("checkpoints"):
        return [""]
    return list(CHECKPOINTS) if file in OF_CHECKPOINT else folders


def rewrite_manifest(folder: Path) -> None:
    """Like `scratch_gpt.train.checkpoints.manifest.write_manifest`, but without reading endless or huge files."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() or path.is_symlink()]
    files = {}
    for path in found:
        content = path.read_bytes() if path.is_file() and path.stat().st_size < 2**27 else b""
        size = path.stat().st_size if path.is_file() else 0
        files[path.relative_to(folder).as_posix()] = {"size": size, "sha256": hashlib.sha256(content).hexdigest()}
    files.pop("manifest.json", None)
    own = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    manifest = folder / "manifest.json"
    if not manifest.exists() or (manifest.is_file() and not manifest.is_symlink() and manifest.stat().st_nlink == 1):
        manifest.write_text(json.dumps({"files": files, "sha256": own}, indent=1, sort_keys=True) + "\n")


def _apply(path: Path, mutation: dict[str, Any], places: Places, base: Path) -> None:
    kind = mutation["do"]
    if kind in ("put", "set", "delete"):
        _change_content(path, mutation, places)
    elif kind == "bytes":
        _write(path, _changed_bytes(path.read_bytes(), mutation["how"], mutation["where"]))
    elif kind == "become":
        _become(path, mutation["what"], places)
    elif kind == "write":
        _write(path, places.fill_in(EXTRA[mutation["file"]]).encode("utf-8", "surrogatepass"))
    elif kind == "pickle":
        _write(path, pickle.dumps(_RunsCommand(str(places.mark))))
    elif kind == "header":
        content = (path if path.exists() else base / "model.safetensors").read_bytes()
        _write(path, _with_header(content, mutation["how"]))
    elif kind == "name":
        _write(path.parent / mutation["file"], places.fill_in(CODE).encode())
    else:
        _change_task(path.parent / "run.yaml", mutation, places)


class _RunsCommand:
    """An object whose unpickling runs a command."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def _write(path: Path, content: bytes) -> None:
    """Replace a file without following links, so that their targets are not changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(path)
    path.write_bytes(content)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --- content ---


def _change_content(path: Path, mutation: dict[str, Any], places: Places) -> None:
    if path.is_symlink() or not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    content = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(lines[-1])
    value = copy.deepcopy(mutation.get("value"))
    if mutation["do"] == "put":
        *above, last = mutation["key"].split("/")
        holder = content
        for key in above:
            holder = holder[key]
        holder[last] = value
    else:
        holder, key = _find(content, mutation["at"])
        if mutation["do"] == "set":
            holder[key] = value
        else:
            del holder[key]
    if path.suffix == ".yaml":
        lines = [yaml.safe_dump(content, sort_keys=False, allow_unicode=False)]
    else:
        lines[-1] = json.dumps(content)
    _write(path, places.fill_in("\n".join(lines) + "\n").encode())


def _find(content: Any, at: list[int]) -> tuple[Any, Any]:
    """Follow a list of indices into nested content: at each level a key or item, modulo their count."""
    holder, key = None, None
    for number in at:
        if not isinstance(content, (dict, list)) or not content:
            break
        keys = sorted(content, key=str) if isinstance(content, dict) else list(range(len(content)))
        holder, key = content, keys[number % len(keys)]
        content = content[key]
    return holder, key


def _changed_bytes(content: bytes, how: str, where: list[float]) -> bytes:
    place = int(where[0] * len(content))
    if how == "flip":
        changed = bytearray(content)
        for position in where:
            changed[min(int(position * len(content)), len(content) - 1)] ^= 0x41
        return bytes(changed)
    if how in ("utf-16", "utf-8-sig"):
        return content.decode("utf-8").encode(how)
    return {
        "cut": content[:place],
        "double": content * 2,
        "nul": content[:place] + b"\x00" * 9 + content[place:],
        "latin-1": content[:place] + "é".encode("latin-1") + content[place:],
        "prefix": b"\x80\x02c" + content,
        "cr": content.replace(b"\n", b"\r"),
        "bzip": gzip.compress(b"\x00" * 10**7),
    }[how]


def _change_task(path: Path, mutation: dict[str, Any], places: Places) -> None:
    """Change the record to that of a run of another task, with one of its settings changed."""
    from scratch_gpt.train.tasks import recipe_of  # imported late, after the environment variables are set

    record = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = {f.name: f.default for t in recipe_of(mutation["task"]).arguments for f in dataclasses.fields(t)}
    settings |= {name: value for name, value in record["arguments"].items() if name in settings}
    record["arguments"] = settings | {mutation["name"]: mutation["value"]}
    record["facts"]["task"] = mutation["task"]
    plain = json.loads(json.dumps(record, default=lambda value: None))
    _write(path, places.fill_in(yaml.safe_dump(plain, sort_keys=False)).encode())


# --- files ---


def _become(path: Path, what: str, places: Places) -> None:
    twin = places.outside / "run" / path.relative_to(places.run)
    links = {
        "secret": places.outside / "secret.txt",
        "new": places.outside / "new",
        "outside": places.outside,
        "other run": twin if twin.exists() else places.outside / "run",
        "loop": path,
        "inside": Path("config.json"),
        "parent": Path(".."),
        **{name: Path(name) for name in ("/dev/zero", "/dev/full", "/dev/stdin")},
    }
    _remove(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if what in links:
        path.symlink_to(links[what])
    elif what == "hard link":
        os.link(twin if twin.is_file() else places.outside / "secret.txt", path)
    elif what in ("folder", "full folder"):
        path.mkdir()
        if what == "full folder":
            (path / "evil.py").write_text(places.fill_in(CODE))
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        _make_socket(path)
    elif what != "gone":
        path.touch()
        if what == "sparse":
            os.truncate(path, 3 * 2**30)
        elif what == "unreadable":
            path.chmod(0)


def _make_socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)  # the address of a socket has at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _with_header(content: bytes, how: str) -> bytes:
    """The bytes of a safetensors file with an invalid header."""
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    names = [name for name in header if name != "__metadata__"]
    first = header[names[0]]
    if how in ("0", "huge length", "negative length"):
        return struct.pack("<Q", {"0": 0, "huge length": 2**63 - 1, "negative length": 2**64 - 1}[how]) + content[8:]
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    text = {"deep": '{"a":' * 9000 + "1" + "}" * 9000, "not json": "x" * 99, "no tensors": "{}"}.get(how)
    if how == "many tensors":
        header |= {f"t{number}": empty for number in range(300_000)}
    elif how == "long name":
        header["x" * 5_000_000] = empty
    elif how == "unknown type":
        first["dtype"] = "Q4"
    elif how == "huge shape":
        first["shape"] = [2**62, 2**62]
    elif how == "overlap":
        header[names[-1]]["data_offsets"] = first["data_offsets"]
    elif how == "beyond":
        first["data_offsets"] = [0, 2**62]
    elif how == "integers":
        for name in names:
            header[name]["dtype"] = "I32"
    elif how == "not a number":
        data = b"\xff" * len(data)
    elif how == "other shapes":
        for name in names:
            header[name]["shape"] = [(header[name]["data_offsets"][1] - header[name]["data_offsets"][0]) // 4]
    elif how == "metadata":
        header["__metadata__"] = {"format": "evil"}
    elif how == "strange tensor":
        header["../x\x1b[31m"] = empty
    written = (text if text is not None else json.dumps(header)).encode()
    return struct.pack("<Q", len(written)) + written + data
