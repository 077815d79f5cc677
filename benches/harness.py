"""Times contenders beside each other.

Takes cases (one workload, ecocore's way and its peers'), gives rows. Outputs are compared first, then the
contenders take turns, so that a disturbance of the machine meets all of them. What a bench measured by itself,
in other processes, comes in as `Measured`. Leaves tables to report.py.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

Outputs = Literal["equal", "inexact", "absent"]

# Of one round: (wall, CPU of all threads) in microseconds per piece.
Sample = tuple[float, float]

# A round lasts at least this long, so that the clock's grain and one interrupt do not show.
ROUND_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure, and with what. `quick` asks the benches for tiny sizes: it shows that they run, not how fast."""

    rounds: int = 5
    quick: bool = False
    peers: Path | None = None  # an interpreter whose packages are peers that cannot live beside ours
    vocabularies: Path | None = None  # a folder of GGUF files, see vocabularies.py


@dataclass(frozen=True, slots=True)
class Peer:
    """Another way to do the work. `agrees` compares its output with ecocore's; called before timing."""

    name: str
    run: Callable[[], object]
    agrees: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer that is not there: its package is not installed, or `reason`."""

    name: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One workload. A run does `pieces` pieces of work; `rate` is (amount per piece, its unit per second)."""

    workload: str
    piece: str
    pieces: int
    ours: Callable[[], object]
    peers: tuple[Peer | Absent, ...]
    rate: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True)
class MeasuredPeer:
    """A peer's rounds. `texts`: of how many outputs that were compared how many differ."""

    name: str
    samples: list[Sample]
    outputs: Outputs
    texts: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A case with its rounds, one sample each, as many for each peer as for ours."""

    workload: str
    piece: str
    ours: list[Sample]
    peers: tuple[MeasuredPeer | Absent, ...]
    rate: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True)
class Bench:
    """A group of cases, measured in a process of its own that may use `threads` threads.

    `cases` yields them one by one, so that no case's memory outlives it.
    """

    name: str
    threads: int
    cases: Callable[[Settings], Iterable[Case | Measured]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds per piece: median, lowest and highest round, and median CPU time of the whole process."""

    median: float
    low: float
    high: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Row:
    """ecocore and one peer on one workload. Ratios are the peer's time over ecocore's, the median of the rounds'.

    `texts` are (differing, compared) where more than one output was compared; `note` says why a peer is absent.
    """

    bench: str
    threads: int
    workload: str
    piece: str
    rate: tuple[float, str] | None
    ecocore: Timing
    peer: str
    peer_timing: Timing | None
    outputs: Outputs
    wall_ratio: float | None
    cpu_ratio: float | None
    texts: tuple[int, int] | None = None
    note: str = ""


def run_bench(bench: Bench, settings: Settings, tell: Callable[[str], None]) -> list[Row]:
    """Measures every case of a bench in this process. `tell` hears what is being measured."""
    rows: list[Row] = []
    for case in bench.cases(settings):
        if isinstance(case, Case):
            tell(f"{bench.name}: {case.workload}")
            case = _measure(case, settings)  # noqa: PLW2901 - the same case, measured
        rows.extend(_rows(bench, case))
    return rows


def same(ours: Callable[[], Any], theirs: Callable[[], Any]) -> Callable[[], bool]:
    """The plain comparison: both results are equal."""
    return lambda: bool(ours() == theirs())


def _measure(case: Case, settings: Settings) -> Measured:
    peers = [peer for peer in case.peers if isinstance(peer, Peer)]
    agreed = [peer.agrees() for peer in peers]
    ours, *theirs = _take_turns([case.ours, *(peer.run for peer in peers)], case.pieces, settings)
    taken = {
        peer.name: MeasuredPeer(peer.name, samples, "equal" if equal else "inexact")
        for peer, equal, samples in zip(peers, agreed, theirs, strict=True)
    }
    placed = tuple(peer if isinstance(peer, Absent) else taken[peer.name] for peer in case.peers)
    return Measured(case.workload, case.piece, ours, placed, case.rate)


def _rows(bench: Bench, case: Measured) -> Iterator[Row]:
    for peer in case.peers:
        there = None if isinstance(peer, Absent) else peer
        yield Row(
            bench=bench.name,
            threads=bench.threads,
            workload=case.workload,
            piece=case.piece,
            rate=case.rate,
            ecocore=_timing(case.ours),
            peer=peer.name,
            peer_timing=None if there is None else _timing(there.samples),
            outputs="absent" if there is None else there.outputs,
            wall_ratio=None if there is None else _ratio(there.samples, case.ours, 0),
            cpu_ratio=None if there is None else _ratio(there.samples, case.ours, 1),
            texts=None if there is None else there.texts,
            note=peer.reason if isinstance(peer, Absent) else "",
        )


def _take_turns(runs: list[Callable[[], object]], pieces: int, settings: Settings) -> list[list[Sample]]:
    """For each run its rounds as (wall, CPU) microseconds per piece, interleaved A B A B."""
    seconds = 0.0 if settings.quick else ROUND_SECONDS
    # What was there before, whole libraries, is not looked through before each round: that takes long and empties the caches.
    gc.collect()
    gc.freeze()
    repeats = [_repeats(run, seconds) for run in runs]
    samples: list[list[Sample]] = [[] for _ in runs]
    for _ in range(settings.rounds):
        for run, repeat, kept in zip(runs, repeats, samples, strict=True):
            kept.append(_timed(run, repeat, pieces))
    gc.unfreeze()
    return samples


def _repeats(run: Callable[[], object], seconds: float) -> int:
    """Warms a contender up and says how often it runs per round."""
    run()
    repeat = 1
    while True:
        began = time.perf_counter()
        for _ in range(repeat):
            run()
        took = time.perf_counter() - began
        if took >= seconds / 2:
            return max(1, round(repeat * seconds / took))
        repeat *= 2


def _timed(run: Callable[[], object], repeat: int, pieces: int) -> Sample:
    with _no_collection():
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in range(repeat):
            run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    scale = 1e6 / (repeat * pieces)
    return wall * scale, cpu * scale


@contextmanager
def _no_collection() -> Iterator[None]:
    """One contender's garbage is not collected on another's time."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _timing(samples: list[Sample]) -> Timing:
    walls = [wall for wall, _ in samples]
    return Timing(statistics.median(walls), min(walls), max(walls), statistics.median(cpu for _, cpu in samples))


def _ratio(theirs: list[Sample], ours: list[Sample], clock: int) -> float | None:
    """Median of the rounds' own ratios; None where the clock saw nothing."""
    pairs = [peer[clock] / mine[clock] for peer, mine in zip(theirs, ours, strict=True) if mine[clock] > 0]
    return statistics.median(pairs) if pairs else None
