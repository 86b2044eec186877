"""Untrusted dataset folders and patterns: files outside of them are never read, and scripts in them never run."""

import json
import os
import shutil
import socket
from pathlib import Path

import datasets
import pytest
from helpers.data import data_error, data_summary, lines, names, texts_of, time_limit, write_card
from helpers.processes import run_here

from scratch_gpt.data.readers.finding import find_files
from scratch_gpt.data.readers.parallel import open_pairs
from scratch_gpt.errors import ScratchError

LINK_OUT = "a link that leads out of the folder"


@pytest.fixture
def private(tmp_path) -> Path:
    folder = tmp_path / "private"
    (folder / "train").mkdir(parents=True)
    for name in ("key.txt", "train/key.txt"):
        (folder / name).write_text("a private key")
    for name in ("key.jsonl", "train/key.jsonl"):
        (folder / name).write_text(lines({"text": "a private key"}))
    datasets.Dataset.from_dict({"text": ["a private key"]}).save_to_disk(folder / "saved")
    return folder


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "own.jsonl").write_text(lines({"text": "own"}))
    return folder


def test_links_out_of_a_folder_are_ignored_and_listed(data, private):
    (data / "a.jsonl").symlink_to(private / "key.jsonl")
    (data / "dir").symlink_to(private)
    (data / "gone.jsonl").symlink_to(private / "gone.jsonl")
    (data / "b.jsonl").symlink_to("../private/key.jsonl")
    found = data_summary(data)
    assert names(found["files"]) == ["own.jsonl"]
    assert {Path(path).name: reason for path, reason in found["ignored"].items()} == {
        "a.jsonl": LINK_OUT,
        "b.jsonl": LINK_OUT,
        "dir": LINK_OUT,
        "gone.jsonl": "a broken link",
    }
    (data / "own.jsonl").unlink()
    assert f"a.jsonl ({LINK_OUT})" in data_error(data)


def test_links_inside_a_folder_are_followed(data):
    (data / "x").mkdir()
    (data / "x/1.jsonl").write_text(lines({"text": "one"}))
    (data / "2.jsonl").symlink_to("x/1.jsonl")
    (data / "y").symlink_to("x")
    (data / "x/loop").symlink_to("..")
    found = data_summary(data)
    assert names(found["files"]) == ["1.jsonl", "2.jsonl", "own.jsonl"]
    assert set(found["ignored"].values()) == {"a link to a folder inside the dataset"}


def test_dataset_argument_may_be_a_link(tmp_path, private):
    (tmp_path / "mine.txt").symlink_to(private / "key.txt")
    (tmp_path / "mine").symlink_to(private / "train")
    assert texts_of(tmp_path / "mine.txt") == ["a private key"]
    assert texts_of(tmp_path / "mine", text_column="text") == ["a private key"]


def hub_cache(tmp_path: Path) -> Path:
    """Create a dataset with the layout of the Hub cache: files are links to blobs."""
    repository = tmp_path / "datasets--user--name"
    snapshot = repository / "snapshots" / "abc"
    files = {"train.jsonl": lines({"text": "own"}), "de/train.jsonl": lines({"text": "eigen"})}
    for number, (name, content) in enumerate(files.items()):
        blob = repository / "blobs" / f"{number:040}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_text(content)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(os.path.relpath(blob, (snapshot / name).parent))
    return snapshot


def test_links_of_the_hub_cache_are_followed(tmp_path, private):
    snapshot = hub_cache(tmp_path)
    assert sorted(texts_of(snapshot)) == ["eigen", "own"]
    assert texts_of(snapshot / "de") == ["eigen"]
    assert texts_of(f"{snapshot}/*.jsonl") == ["own"]
    write_card(snapshot, {"config_name": "de", "data_dir": "de"}, {"config_name": "own", "data_files": "*.jsonl"})
    assert data_summary(snapshot, "--dataset_config", "de")["rows_read"] == 1
    assert names(data_summary(snapshot, "--dataset_config", "own")["files"]) == ["train.jsonl"]
    (snapshot / "out.jsonl").symlink_to(private / "key.jsonl")
    assert find_files(str(snapshot), config="own").ignored[str(snapshot / "out.jsonl")] == LINK_OUT
    shutil.rmtree(snapshot.parents[1] / "blobs")
    (snapshot.parents[1] / "blobs").symlink_to(private)
    (snapshot / "train.jsonl").unlink()
    (snapshot / "train.jsonl").symlink_to("../../blobs/key.jsonl")
    with pytest.raises(ScratchError, match=LINK_OUT):
        find_files(f"{snapshot}/*.jsonl")


@pytest.fixture
def linked(data, private) -> Path:
    """A folder and a subfolder with files, links to files and folders outside, and links to the folder itself."""
    (data / "sub").mkdir()
    for place in (data, data / "sub"):
        (place / "a.jsonl").symlink_to(private / "key.jsonl")
        (place / "out").symlink_to(private)
        (place / "loop").symlink_to(data)
        (place / "b.jsonl").write_text(lines({"text": "own"}))
    return data


@pytest.mark.parametrize("pattern", ["*.jsonl", "**/*.jsonl", "**", "*/*.jsonl", "[a-z]*.jsonl", "*/*/*.jsonl"])
def test_pattern_reads_no_files_outside(pattern, linked):
    with time_limit(30):
        found = find_files(f"{linked}/{pattern}")
    assert found.paths
    assert all(path.resolve().is_relative_to(linked) for path in found.paths)
    assert LINK_OUT in found.ignored.values()
    assert set(texts_of(f"{linked}/{pattern}", text_column="text")) == {"own"}


@pytest.mark.parametrize("pattern", ["*/key.jsonl", "*/*/key.jsonl", "**/key.jsonl", "*/train/*.jsonl", "**/a.jsonl"])
def test_pattern_that_matches_only_outside_is_rejected(pattern, linked):
    with time_limit(30):
        assert LINK_OUT in data_error(f"{linked}/{pattern}")


OUTSIDE = ["../private/key.jsonl", "../**", "{private}/key.jsonl", "out/*.jsonl", "out/key.jsonl", "a.jsonl"]


@pytest.mark.parametrize("pattern", OUTSIDE)
def test_card_with_paths_outside_is_rejected(pattern, data, private):
    (data / "a.jsonl").symlink_to(private / "key.jsonl")
    (data / "out").symlink_to(private)
    pattern = pattern.replace("{private}", str(private))
    write_card(data, {"config_name": "all", "data_files": [pattern]})
    assert f"refers to {pattern!r}" in data_error(data)
    place = str(Path(pattern).parent)
    write_card(data, {"config_name": "all", "data_dir": place})
    if place != ".":
        assert f"refers to {place!r}" in data_error(data)


def test_card_patterns_match_as_in_datasets(data):
    from datasets.data_files import resolve_pattern

    for name in ("a/1.csv", "a/b/2.csv", "c1.csv", "c22.csv", "x/c1.csv"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(f"text\n{name}\n")
    for pattern in ("*.csv", "**/*.csv", "a/**", "a/*", "c?.csv", "c[0-9].csv", "*/*.csv", "**/c*", "./a/../c1.csv"):
        write_card(data, {"config_name": "all", "data_files": pattern})
        theirs = {Path(path).resolve() for path in resolve_pattern(pattern, str(data))}
        assert set(find_files(str(data)).paths) == theirs, pattern


def test_urls_in_a_card_are_not_opened(data):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.settimeout(0.2)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/a.jsonl"
        for name in (address, f"zip://a::{address}", f"hf://datasets/{address}"):
            write_card(data, {"config_name": "all", "data_files": name})
            assert "want a file in the folder" in data_error(data)
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize("name", ["README.md", "dataset_dict.json"])
def test_metadata_linked_from_outside_is_not_read(name, data, private):
    (private / "README.md").write_text("---\nconfigs: [a private key\n---\n")
    (private / "dataset_dict.json").write_text('{"a private key": 1}')
    (data / name).symlink_to(private / name)
    found = data_summary(data)
    assert names(found["files"]) == ["own.jsonl"]
    assert found["ignored"] == {str(data / name): LINK_OUT}


def test_save_to_disk_dataset_reads_no_files_outside(data, private):
    saved = data / "saved"
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["own"]})}).save_to_disk(saved)
    assert texts_of(saved) == ["own"]
    shard = next((saved / "train").glob("*.arrow"))
    content = shard.read_bytes()
    shard.unlink()
    shard.symlink_to(next((private / "saved").glob("*.arrow")))
    assert LINK_OUT in data_error(saved)
    shard.unlink()
    shard.write_bytes(content)
    shutil.move(saved / "train", saved / "own")
    (saved / "train").symlink_to(private / "saved")
    assert LINK_OUT in data_error(saved)
    (saved / "train").unlink()
    (saved / "train").symlink_to("own")
    assert texts_of(saved) == ["own"]
    (saved / "own/state.json").unlink()
    (saved / "own/state.json").symlink_to(private / "saved/state.json")
    assert LINK_OUT in data_error(saved)
    for invalid in ("..", "../private", "/etc"):
        (saved / "dataset_dict.json").write_text(json.dumps({"splits": [invalid]}))
        assert "want the name of a file in the folder" in data_error(saved)


def test_parallel_text_linked_from_outside_is_not_read(tmp_path, private):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.de").write_text("ein Haus\n")
    (folder / "train.en").symlink_to(private / "key.txt")
    said = data_error(folder, "--for", "translation", "--source_lang", "de", "--target_lang", "en")
    assert f"has no train.en (plain or compressed): it has train.de, train.en ({LINK_OUT})" in said
    (folder / "train.en").unlink()
    (folder / "english").write_text("a house\n")
    (folder / "train.en").symlink_to("english")
    (folder / "val.de").symlink_to(private / "key.txt")
    (folder / "val.en").write_text("a house\n")
    corpus = open_pairs(str(folder), "de", "en")
    assert list(corpus.read()) == [("ein Haus", "a house")]
    assert corpus.origin.validation_split is None
    assert corpus.origin.ignored[str(folder / "val.de")] == LINK_OUT


@pytest.fixture
def _never_hangs():
    with time_limit(60):
        yield


@pytest.mark.usefixtures("_never_hangs")
def test_pipes_sockets_and_devices_do_not_block(data):
    os.mkfifo(data / "pipe.jsonl")
    (data / "to_pipe.jsonl").symlink_to("pipe.jsonl")
    (data / "null.jsonl").symlink_to("/dev/zero")
    for name in ("README.md", "state.json", "dataset_dict.json", "dataset_info.json"):
        os.mkfifo(data / name)
    with socket.socket(socket.AF_UNIX) as server:
        previous = os.getcwd()
        os.chdir(data)  # socket paths have a limited length
        try:
            server.bind("socket.jsonl")
        finally:
            os.chdir(previous)
        for dataset in (data, f"{data}/*"):
            found = data_summary(dataset)
            assert names(found["files"]) == ["own.jsonl"]
            ignored = {Path(path).name: reason for path, reason in found["ignored"].items()}
            for name in ("pipe.jsonl", "to_pipe.jsonl", "socket.jsonl", "README.md", "state.json"):
                assert ignored[name] == "not a regular file"
            assert ignored["null.jsonl"] == LINK_OUT
    assert "is a named pipe, want a regular file" in data_error(data / "pipe.jsonl")
    assert "is a named pipe, want a regular file" in data_error(data / "to_pipe.jsonl")
    (data / "dataset_dict.json").unlink()
    (data / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (data / "train").mkdir()
    os.mkfifo(data / "train/state.json")
    assert "not a regular file" in data_error(data)
    options = ("--for", "translation", "--source_lang", "de", "--target_lang", "en")
    (data / "a.de").write_text("ein Haus\n")
    assert "is a named pipe" in data_error(data / "a.de", "--target_file", data / "pipe.jsonl", *options)


BROKEN_CARDS = {
    "aliases": "configs: [&a [1, 2], *a]",
    "depth": "configs: " + "[" * 500,
    "size": "configs:\n" + "- x\n" * 200_000,
    "list": "configs: {a: 1}",
    "text": "configs: [a, b]",
    "name": "configs: [{config_name: [1], data_files: x}]",
    "files": "configs: [{config_name: a, data_files: {x: 1}}]",
    "split": "configs: [{config_name: a, data_files: [{split: 5, path: x}]}]",
    "number": "configs: [{config_name: a, data_files: [{split: train, path: [5]}]}]",
    "patterns": "configs: [{config_name: a, data_files: [" + "'*a*a*b', " * 20_000 + "]}]",
    "object": "configs: !!python/object/apply:os.system [echo]",
}


@pytest.mark.parametrize("case", BROKEN_CARDS)
def test_invalid_card_is_rejected(case, data):
    (data / "README.md").write_text(f"---\n{BROKEN_CARDS[case]}\n---\n")
    data_error(data)


def test_unterminated_card_is_parsed_quickly(data):
    with time_limit(30):
        (data / "README.md").write_text("---\n" + "\n" * 2_000_000)
        assert data_summary(data)["rows_read"] == 1


@pytest.mark.parametrize("name", ["dataset_dict.json", "train/state.json"])
@pytest.mark.parametrize("content", ["[" * 5000, '{"splits": 5}', '{"splits": {"train": 1}, "_data_files": 5}', "[1]"])
def test_invalid_save_to_disk_metadata_is_rejected(name, content, data):
    (data / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (data / "train").mkdir()
    (data / "train/state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    (data / name).write_text(content)
    assert "was not written completely by save_to_disk" in data_error(data)


def test_scripts_in_a_dataset_folder_are_not_run(data):
    marker = data.parent / "ran"
    code = f"open({str(marker)!r}, 'w').close()\nimport datasets\n"
    for name in ("data.py", "mydata.py", "__init__.py", "conftest.py", "datasets.py", "setup.py"):
        (data / name).write_text(code)
    infos = {"default": {"builder_name": "mydata", "features": {"text": {"dtype": "string", "_type": "Value"}}}}
    (data / "dataset_infos.json").write_text(json.dumps(infos))
    write_card(data, {"config_name": "default", "data_files": "own.jsonl"})
    for dataset in (".", str(data), "*.jsonl", "own.jsonl"):
        result = run_here("scratch-gpt", "data", dataset, "--json", cwd=data)
        assert json.loads(result.stdout)["rows_read"] == 1
        assert not marker.exists()
    assert find_files(str(data)).ignored[str(data / "mydata.py")] == "unknown format (.py)"
