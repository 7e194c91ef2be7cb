"""Every test that docs/threat-model.md names is there, and every threat but those that say why has one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith("| threat |")
]
WITHOUT = "a rule, no mechanism"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:50])
def test_the_tests_of_a_row_are_there(row):
    assert len(row) == 3
    named = re.findall(r"`(test_\w+\.py)?::(test_\w+)`", row[2])
    assert named or row[2] == WITHOUT
    file = ""
    for said, test in named:
        file = said or file
        [path] = (ROOT / "tests").rglob(file)
        assert re.search(rf"^def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE), f"{file} has no {test}"
    assert row[2].count("`") == 2 * len(named)  # nothing is named that was not looked up


def test_there_are_rows():
    assert len(ROWS) > 30
