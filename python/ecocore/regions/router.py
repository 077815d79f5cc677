"""In which order the regions of a model are tried: takes the regions with their priorities, gives a list.

Asks each region how it is and nothing else; whether one of them answers in the end is the server's loop to find out.
"""

from collections.abc import Iterable
from typing import Final

from ecocore.regions.region import Region

DEFAULT_PRIORITY: Final = 0


class Router:
    """The regions of one model. Lower priorities come first."""

    def __init__(self, regions: Iterable[tuple[int, Region]]) -> None:
        """Each region with its priority; of two that are alike in everything the first comes first."""
        self._regions = tuple(regions)

    def candidates(self) -> list[Region]:
        """All of them: by priority, within one the least busy first, and those that are not alive behind all others."""
        regions = self._regions if len(self._regions) == 1 else sorted(self._regions, key=_rank)
        return [region for _, region in regions]


def _rank(ranked: tuple[int, Region]) -> tuple[bool, int, int]:
    priority, region = ranked
    stats = region.stats()
    return not region.is_alive, priority, stats["running"] + stats["waiting"]
