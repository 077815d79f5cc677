"""Random lives of money, a few of them here. `make faults` runs thousands."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from tests.accounts.money_machine import Money, World


def test_whatever_happens_the_books_are_right(database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL")
    world = World(database_url, tmp_path / "spools")
    try:
        few = settings(max_examples=20, stateful_step_count=25, deadline=None)
        run_state_machine_as_test(partial(Money, world), settings=few)  # type: ignore[arg-type]
    finally:
        world.close()
