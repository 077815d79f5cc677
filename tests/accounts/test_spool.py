"""The file of charges: nothing that was acknowledged is lost, and a living server keeps its own."""

import fcntl
import os
from pathlib import Path

import pytest

from ecocore.accounts.spool import Spool


def test_a_line_that_was_cut_takes_no_other_with_it(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "mine")
    spool.add([{"number": 1}])
    os.write(spool._descriptor, b'{"number": 2, "and the disk was fu')
    spool.add([{"number": 3}, {"number": 4}])
    assert [entry["number"] for entry in spool.entries()] == [1, 3, 4]
    spool.clear()
    assert spool.entries() == []
    spool.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_not_taken_for_abandoned_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = fcntl.flock
    found: list[Spool] = []

    def meanwhile(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        found.extend(Spool.abandoned(tmp_path))
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", meanwhile)
    spool = Spool.create(tmp_path, "mine")
    assert found == []
    assert list(Spool.abandoned(tmp_path)) == []
    spool.close()
    assert [left.server_id for left in Spool.abandoned(tmp_path)] == ["mine"]


def test_the_name_of_the_file_is_on_disk_before_anything_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        assert (tmp_path / "mine.jsonl").exists()
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    spool = Spool.create(tmp_path, "mine")
    assert synced == [tmp_path.stat().st_ino]
    spool.remove()
