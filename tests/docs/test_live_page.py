"""The model whose page is part of the documentation has no other files, and the documentation says its true size.
test_site.py opens the page."""

import importlib
import logging
import struct

from helpers.processes import PROJECT

from scratch_gpt.hub.loading import load_model

LIVE = PROJECT / "docs" / "live"
FILES = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
PAGES = {"index.md": "how-to/live.html", "how-to/see.md": "live.html", "course/index.md": "../how-to/live.html"}


def test_the_model_is_small_and_has_no_files_of_a_run():
    assert {path.name for path in LIVE.iterdir()} == FILES
    assert sum(path.stat().st_size for path in LIVE.iterdir()) < 700_000
    weights = (LIVE / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", weights[:8])
    assert b'"F16"' in weights[8 : 8 + length]
    assert b'"F32"' not in weights[8 : 8 + length]


def test_pages_link_to_it_with_its_size(monkeypatch, caplog):
    monkeypatch.syspath_prepend(PROJECT / "docs" / "generate")
    module = importlib.import_module("live_page")
    with caplog.at_level(logging.WARNING):
        ((uri, html),) = module.live_page().items()
    assert not caplog.records, "a strict build fails"
    assert uri == PAGES["index.md"]
    parameters = f"{sum(each.numel() for each in load_model(LIVE).parameters()):,}"
    size = f"{len(html.encode()) / 1e6:.1f} MB"
    for name, link in PAGES.items():
        text = (PROJECT / "docs" / name).read_text(encoding="utf-8")
        assert f"]({link})" in text
        assert f"model of {parameters} parameters" in " ".join(text.split())
        assert size in text
