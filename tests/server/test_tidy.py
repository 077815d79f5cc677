"""Freed memory goes back to the system, once for many requests."""

import asyncio
import subprocess
import sys

import pytest

from ecocore.server import tidy
from ecocore.server.tidy import Tidier


async def test_many_large_requests_are_tidied_up_after_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidy, "TIDY_SECONDS", 0.01)
    tidied = asyncio.Event()
    calls: list[int] = []
    loop = asyncio.get_running_loop()

    def trim(keep: int) -> None:
        calls.append(keep)
        loop.call_soon_threadsafe(tidied.set)

    tidier = Tidier()
    tidier._trim = trim
    for _ in range(10):
        tidier.after_large_request()
    await asyncio.wait_for(tidied.wait(), 5)
    assert calls == [0]
    tidied.clear()
    tidier.after_large_request()
    await asyncio.wait_for(tidied.wait(), 5)
    assert calls == [0, 0]


async def test_a_c_library_that_cannot_is_left_alone() -> None:
    tidier = Tidier()
    tidier._trim = None
    tidier.after_large_request()
    assert not tidier._due


def test_what_was_loaded_is_no_longer_collected_and_threads_take_short_turns() -> None:
    """In a process of its own: it is the whole interpreter's."""
    code = (
        "import gc, sys\n"
        "from ecocore.server.tidy import SWITCH_SECONDS, stay_out_of_the_way\n"
        "stay_out_of_the_way()\n"
        "print(gc.get_freeze_count() > 1000, gc.isenabled(), sys.getswitchinterval() == SWITCH_SECONDS)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert told.stdout.split() == ["True", "True", "True"]
