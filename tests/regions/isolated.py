"""Engines in processes of their own, for tests: started quickly, watched closely, and gone without a trace afterwards."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.live_server import MODEL, Live

from ecocore.regions.child import ChildRegion
from ecocore.regions.child_process import Watch

# Ten beats make a second here; a silence is noticed after one.
CLOSE: Watch = Watch(look=0.05, beat=0.1, silence=1.0, first_wait=0.05, longest_wait=0.2, end=1.0)
# For tests that are not about silence: a machine that is busy with others silences an engine for seconds.
PATIENT: Watch = replace(CLOSE, silence=60.0)

eventually = Live.eventually


def command(**settings: Any) -> list[str]:
    return [sys.executable, "-m", "tests.regions.engine", json.dumps({"name": MODEL, **settings})]


@contextmanager
def isolated(watch: Watch = PATIENT, **settings: Any) -> Iterator[ChildRegion]:
    """A mock engine in a process of its own. Afterwards neither the process nor its socket is there."""
    region = ChildRegion.start(settings.get("name", MODEL), command(**settings), watch)
    try:
        yield region
    finally:
        pid, socket = region.pid, region._process.socket_path
        region.close()
    assert pid is not None
    assert not lives(pid)
    assert not socket.parent.exists()


def lives(pid: int) -> bool:
    """Whether a process runs or is stopped; one that only waits for its parent to notice has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    return False


def kill(region: ChildRegion, number: int) -> None:
    assert region.pid is not None
    os.kill(region.pid, number)
