"""The comparison of counted instructions; the counting itself wants valgrind and a build, and is `make instructions`."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benches import instructions
from benches.instructions import Counts, Incomparable, compare, read, write

KNOWN = Counts("rustc 1.95.0", "Vectors(Avx2)", {"sampler": 1_000_000, "tokenizer": 2000})


def counted(**changed: int) -> Counts:
    return replace(KNOWN, instructions=KNOWN.instructions | changed)


def test_what_takes_more_than_two_in_a_hundred_more_is_named_with_its_growth() -> None:
    lines, grown = compare(KNOWN, counted(sampler=1_030_000))
    assert grown
    assert lines == ["GREW     sampler: 1,000,000 -> 1,030,000 (+3.0%)", "same     tokenizer: 2,000 -> 2,000 (+0.0%)"]


def test_what_stays_within_the_tolerance_or_shrinks_is_no_growth() -> None:
    lines, grown = compare(KNOWN, counted(sampler=1_019_000, tokenizer=1000))
    assert not grown
    assert [line.split()[0] for line in lines] == ["same", "shrank"]


def test_a_workload_without_a_committed_count_is_no_success() -> None:
    lines, grown = compare(KNOWN, counted(new=5))
    assert grown
    assert lines[-1].startswith("NEW      new: 5")


@pytest.mark.parametrize("other", [{"compiler": "rustc 1.99.0"}, {"vectors": "Vectors(Portable)"}])
def test_counts_of_another_compiler_or_other_vectors_are_not_compared(other: dict[str, Any]) -> None:
    with pytest.raises(Incomparable, match=f"not compared.*{next(iter(other.values())).split('(')[0]}"):
        compare(KNOWN, replace(counted(sampler=9_000_000), **other))


def test_counts_are_read_as_they_were_written(tmp_path: Path) -> None:
    write(KNOWN, tmp_path / "counts.json")
    assert read(tmp_path / "counts.json") == KNOWN


def test_the_exit_status_tells_growth(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "counts.json"
    write(KNOWN, path)
    monkeypatch.setattr(instructions, "RESULTS", path)
    for now, status in [(counted(), 0), (counted(sampler=2_000_000), 1), (replace(counted(sampler=2_000_000), compiler="x"), 0)]:
        monkeypatch.setattr(instructions, "count", lambda _only, now=now: now)
        assert instructions.main([]) == status
    assert "not compared" in capsys.readouterr().out


def test_the_committed_counts_are_of_the_workloads_there_are() -> None:
    driver = (instructions.ROOT / "benches" / "instructions.rs").read_text("utf-8")
    assert set(read(instructions.RESULTS).instructions) == set(
        re.findall(r'\(\s*"((?:sampler|tokenizer|text stream), [^"]+)"', driver)
    )
