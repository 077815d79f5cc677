"""The table in README.md names tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_row_names_tests_that_are_there() -> None:
    text = (Path(__file__).parent / "README.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| what |", "| limit |"))]
    assert len(rows) >= 30
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert re.search(rf"\bdef {test}\(", (ROOT / file).read_text("utf-8")), f"{file}::{test}"


def test_no_abuse_test_stands_beside_the_table() -> None:
    """Each file of this folder is named in it at least once."""
    text = (Path(__file__).parent / "README.md").read_text("utf-8")
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        assert path.name in text
