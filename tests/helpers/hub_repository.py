"""The repositories of the loopback Hub, and what it checks in the card of a Space."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

import yaml

SDKS = ("gradio", "docker", "static")


@dataclass
class Repository:
    """The repository of a model or a Space: its files at every revision and commit."""

    revisions: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: dict[str, str] = field(default_factory=dict)  # revision -> commit id
    snapshots: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit id -> files
    titles: list[str] = field(default_factory=list)
    private: bool = False
    sdk: str | None = None  # of a Space

    def commit(self, revision: str, files: dict[str, bytes], title: str) -> str:
        digest = hashlib.sha1(f"{len(self.snapshots)}{title}".encode())
        for path, content in sorted(files.items()):
            digest.update(path.encode() + content)
        self.revisions[revision], self.commits[revision] = files, digest.hexdigest()
        self.snapshots[digest.hexdigest()] = files
        self.titles.append(title)
        return digest.hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        return self.snapshots.get(revision, self.revisions.get(revision))

    def commit_id(self, revision: str) -> str:
        return revision if revision in self.snapshots else self.commits[revision]


def metadata(card: str) -> dict:
    """The metadata at the top of a card."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else {}


def is_space_metadata(data: dict) -> bool:
    """Whether the metadata of a Space has an SDK and, if it names models, their ids."""
    models = data.get("models", [])
    return data.get("sdk") in SDKS and isinstance(models, list) and all(len(m.split("/")) == 2 for m in models)
