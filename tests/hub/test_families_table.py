"""docs/reference/families.md is what the twins and presets of the package are."""

import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "families.md"


def test_the_table_of_families_is_up_to_date():
    from helpers.families import families_page

    written, found = PAGE.read_text(encoding="utf-8").splitlines(), families_page().splitlines()
    changed = [line for line in found if line not in written] + [line for line in written if line not in found]
    assert written == found, (
        f"docs/reference/families.md is out of date: python tests/hub/test_families_table.py\n{changed}"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from helpers.families import families_page

    PAGE.write_text(families_page(), encoding="utf-8")
