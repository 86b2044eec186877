"""The tables of folders in the documentation are the folders of the package."""

import re

from helpers.processes import PROJECT
from test_architecture import MAY_IMPORT

PACKAGE = PROJECT / "scratch_gpt"
FOLDERS = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")} - {"."}


def rows(page: str) -> list[tuple[str, str]]:
    """The rows of the table of folders of a page: folders and the next column."""
    table = (PROJECT / "docs" / page).read_text(encoding="utf-8").partition("\n| folder of `scratch_gpt/`")[2]
    return re.findall(r"^\| (`.*?) \| (.*?) \|", table.partition("\n\n")[0], re.M)


def test_every_folder_of_the_package_is_explained():
    named = [
        folder for folders, _ in rows("explanation/architecture.md") for folder in re.findall(r"`(.*?)/`", folders)
    ]
    assert len(named) == len(set(named))
    assert set(named) <= FOLDERS | {"data"}
    explained = {folder for folder in FOLDERS if any(f"{folder}/".startswith(f"{name}/") for name in named)}
    parents = {folder for folder in FOLDERS if any(name.startswith(f"{folder}/") for name in named)}
    assert FOLDERS - explained - parents == set()
    order = list(dict.fromkeys(folder.split("/")[0] for folder in named))
    for place, folder in enumerate(order[:-1]):  # the last one, the commands, imports everything
        assert MAY_IMPORT[folder] <= set(order[:place]), folder


def test_the_rules_of_imports_are_those_that_are_enforced():
    found = {}
    for folders, imports in rows("contributing/index.md"):
        for folder in re.findall(r"`(\w+)/`", folders):
            found[folder] = set(re.findall(r"`(\w+)`", imports))
    assert found.pop("cli") == set()  # everything
    assert found.pop("train") == set()  # all of the above
    assert MAY_IMPORT["train"] == set(found) - {"foundations"}
    assert found == {folder: allowed for folder, allowed in MAY_IMPORT.items() if folder != "train"}
