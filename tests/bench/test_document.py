"""The figures as JSON: as the schema says, and nothing that should stay at home."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from tests.bench.runs import refusing, run_of

from ecocore.bench import document as documents
from ecocore.bench.compare import Agreement
from ecocore.bench.document import Setting, document
from ecocore.bench.plan import Run

SCHEMA = json.loads(Path(documents.__file__).with_name("result.schema.json").read_text("utf-8"))
AGREED = Agreement(8, 7, 0, "prompt 3 parts after 9 characters: 'a' and 'b'")


def made(run: Run, agreement: Agreement | None = None) -> dict[str, Any]:
    """As a program reads it."""
    loaded: dict[str, Any] = json.loads(json.dumps(document(run, agreement, Setting())))
    return loaded


def empty() -> Run:
    run = run_of(1)
    run.steps.clear()
    run.interrupted = True
    return run


@pytest.mark.parametrize(
    ("run", "agreement"),
    [
        (run_of(1), None),
        (run_of(1, failing=True), None),
        (run_of(2, rounds=3), AGREED),
        (refusing(run_of(1)), None),
        (empty(), None),
    ],
    ids=["one", "failing", "two", "refusing", "interrupted at once"],
)
def test_every_document_is_as_the_schema_says(run: Run, agreement: Agreement | None) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    Draft202012Validator(SCHEMA).validate(made(run, agreement))


def test_the_schema_refuses_what_is_missing_or_unknown() -> None:
    for change in ({"steps": None}, {"interrupted": "no"}, {"host": "mine"}):
        with pytest.raises(ValidationError):
            Draft202012Validator(SCHEMA).validate(made(run_of(1)) | change)


def test_the_document_holds_what_was_measured() -> None:
    run = run_of(2, levels=(1, 8), rounds=2)
    told = made(run, AGREED)
    assert [(step["server"], step["streams"], step["round"]) for step in told["steps"]] == [
        *(("A", 1, 1), ("B", 1, 1), ("A", 1, 2), ("B", 1, 2)),
        *(("A", 8, 1), ("B", 8, 1), ("A", 8, 2), ("B", 8, 2)),
    ]
    first = run.steps[0].figures
    assert first is not None
    assert first.gap_ms is not None
    assert told["steps"][0]["figures"]["gap_ms"]["p99"] == pytest.approx(first.gap_ms.p99, abs=1e-4)
    assert [(level["server"], level["streams"], level["rounds"]) for level in told["levels"]] == [
        ("A", 1, 2),
        ("B", 1, 2),
        ("A", 8, 2),
        ("B", 8, 2),
    ]
    assert [level["streams"] for level in told["comparison"]["levels"]] == [1, 8]
    assert told["comparison"]["agreement"]["equal"] == 7
    assert sum(told["steps"][0]["figures"]["gap_counts"]) == told["steps"][0]["figures"]["gap_ms"]["count"]
    assert len(told["steps"][0]["figures"]["gap_counts"]) == len(told["gap_edges_ms"]) + 1


def test_neither_the_key_nor_the_host_is_told() -> None:
    text = json.dumps(made(run_of(2)))
    assert "secret-key" not in text
    assert platform.node() not in text.split('"')
    assert str(Path.cwd()) not in text
