"""Times contenders beside each other.

Takes cases (one workload, ecocore's way and its peers'), gives rows. Outputs are compared first, then the
contenders take turns, so that a disturbance of the machine meets all of them. Leaves tables to report.py.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

Outputs = Literal["equal", "inexact", "absent"]

# A round lasts at least this long, so that the clock's grain and one interrupt do not show.
ROUND_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure. `quick` asks the benches for tiny sizes: it shows that they run, not how fast."""

    rounds: int = 5
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Peer:
    """Another way to do the work. `agrees` compares its output with ecocore's; called before timing."""

    name: str
    run: Callable[[], object]
    agrees: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Absent:
    """A peer whose package is not installed."""

    name: str


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
class Bench:
    """A group of cases, measured in a process of its own that may use `threads` threads.

    `cases` yields them one by one, so that no case's memory outlives it.
    """

    name: str
    threads: int
    cases: Callable[[Settings], Iterable[Case]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds per piece: median, lowest and highest round, and median CPU time of the whole process."""

    median: float
    low: float
    high: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Row:
    """ecocore and one peer on one workload. Ratios are the peer's time over ecocore's, the median of the rounds'."""

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


def run_bench(bench: Bench, settings: Settings, tell: Callable[[str], None]) -> list[Row]:
    """Measures every case of a bench in this process. `tell` hears what is being measured."""
    rows: list[Row] = []
    for case in bench.cases(settings):
        tell(f"{bench.name}: {case.workload}")
        rows.extend(_measure(bench, case, settings))
    return rows


def same(ours: Callable[[], Any], theirs: Callable[[], Any]) -> Callable[[], bool]:
    """The plain comparison: both results are equal."""
    return lambda: bool(ours() == theirs())


def _measure(bench: Bench, case: Case, settings: Settings) -> Iterator[Row]:
    peers = [peer for peer in case.peers if isinstance(peer, Peer)]
    agreed = {peer.name: peer.agrees() for peer in peers}
    ours, *theirs = _take_turns([case.ours, *(peer.run for peer in peers)], case.pieces, settings)
    for peer, samples in zip(peers, theirs, strict=True):
        yield Row(
            bench=bench.name,
            threads=bench.threads,
            workload=case.workload,
            piece=case.piece,
            rate=case.rate,
            ecocore=_timing(ours),
            peer=peer.name,
            peer_timing=_timing(samples),
            outputs="equal" if agreed[peer.name] else "inexact",
            wall_ratio=_ratio([wall for wall, _ in samples], [wall for wall, _ in ours]),
            cpu_ratio=_ratio([cpu for _, cpu in samples], [cpu for _, cpu in ours]),
        )
    for absent in case.peers:
        if isinstance(absent, Absent):
            yield Row(
                bench=bench.name,
                threads=bench.threads,
                workload=case.workload,
                piece=case.piece,
                rate=case.rate,
                ecocore=_timing(ours),
                peer=absent.name,
                peer_timing=None,
                outputs="absent",
                wall_ratio=None,
                cpu_ratio=None,
            )


Sample = tuple[float, float]


def _take_turns(runs: list[Callable[[], object]], pieces: int, settings: Settings) -> list[list[Sample]]:
    """For each run its rounds as (wall, CPU) microseconds per piece, interleaved A B A B."""
    seconds = 0.0 if settings.quick else ROUND_SECONDS
    repeats = [_repeats(run, seconds) for run in runs]
    samples: list[list[Sample]] = [[] for _ in runs]
    for _ in range(settings.rounds):
        for run, repeat, kept in zip(runs, repeats, samples, strict=True):
            kept.append(_timed(run, repeat, pieces))
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


def _ratio(theirs: list[float], ours: list[float]) -> float | None:
    """Median of the rounds' own ratios; None where the clock saw nothing."""
    pairs = [peer / mine for peer, mine in zip(theirs, ours, strict=True) if mine > 0]
    return statistics.median(pairs) if pairs else None
