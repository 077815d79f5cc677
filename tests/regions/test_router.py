"""Which region is tried first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest

from ecocore.regions.router import Router


@dataclass(eq=False)
class Place:
    """What the router asks of a region."""

    name: str
    is_alive: bool = True
    running: int = 0
    waiting: int = 0

    def stats(self) -> Mapping[str, int]:
        return {"running": self.running, "waiting": self.waiting}


def order(*places: tuple[int, Place]) -> str:
    router = Router(cast("list[tuple[int, Any]]", list(places)))
    return "".join(cast("Any", region).name for region in router.candidates())


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ([], ""),
        ([(0, Place("a")), (0, Place("b"))], "ab"),
        ([(1, Place("a")), (0, Place("b"))], "ba"),
        ([(0, Place("a", running=2)), (0, Place("b", running=1))], "ba"),
        ([(0, Place("a", running=1)), (0, Place("b", waiting=2)), (0, Place("c"))], "cab"),
        # Priority counts before how busy it is.
        ([(1, Place("a")), (0, Place("b", running=100))], "ba"),
        # Those that are not alive are there all the same: nobody knows better once all others failed.
        ([(0, Place("a", is_alive=False)), (5, Place("b", running=9))], "ba"),
        ([(1, Place("a", is_alive=False)), (0, Place("b", is_alive=False))], "ba"),
    ],
)
def test_the_order_of_candidates(places: list[tuple[int, Place]], expected: str) -> None:
    assert order(*places) == expected


def test_each_call_looks_anew() -> None:
    first, second = Place("a"), Place("b")
    places = (0, first), (0, second)
    assert order(*places) == "ab"
    first.is_alive = False
    assert order(*places) == "ba"
    first.is_alive, first.running = True, 1
    assert order(*places) == "ba"
