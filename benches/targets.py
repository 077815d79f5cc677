"""What the suite is to show: the goals of the tokenizer, the sampler and the text stream, each beside what a run measured.

A goal about a peer whose output differed, or that was not there, is neither met nor missed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benches.figures import duration, three
from benches.harness import Row

Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, and whether it is enough; None where it cannot be said."""

    text: str
    met: bool | None


@dataclass(frozen=True, slots=True)
class Goal:
    text: str
    find: Callable[[Rows], Found | None]


@dataclass(frozen=True, slots=True)
class Target:
    what: str
    goals: tuple[Goal, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A line of the table. `met` is that of all its goals: None where one cannot be said and none is missed."""

    what: str
    goal: str
    measured: str
    met: bool | None


def faster(than: str, times: float, *workloads: str, by: str = "") -> Goal:
    """At least so many times as fast as a peer, in each of these workloads; `by` says what is compared, if that is not plain."""

    def find(rows: Rows) -> Found | None:
        found = [row for row in rows if row.workload in workloads and row.peer == than]
        if not found:
            return None
        for kind in ("absent", "inexact"):
            if any(row.outputs == kind for row in found):
                return Found(kind, None)
        ratios = sorted(row.wall_ratio or 0.0 for row in found)
        return Found(_range([f"{three(ratio)}x" for ratio in ratios]), ratios[0] >= times)

    return Goal(f">= {times:g}x {than}{by}", find)


def within(microseconds: float, *workloads: str) -> Goal:
    """At most so long, in each of these workloads."""

    def find(rows: Rows) -> Found | None:
        times = sorted({row.workload: row.ecocore.median for row in rows if row.workload in workloads}.values())
        return Found(_range([duration(time) for time in times]), times[-1] <= microseconds) if times else None

    return Goal(f"<= {microseconds:g} us", find)


def flat(most: float, first: str, last: str) -> Goal:
    """The time of a piece of the last workload is at most `most` times that of the first."""

    def find(rows: Rows) -> Found | None:
        times = {row.workload: row.ecocore.median for row in rows}
        if first not in times or last not in times:
            return None
        growth = times[last] / times[first]
        return Found(f"{duration(times[first])} at the first, {duration(times[last])} at the last", growth <= most)

    return Goal("flat", find)


def exact(peer: str) -> Goal:
    """No text of any workload has other ids than the reference's. Means and warm texts are about texts that count already."""

    def find(rows: Rows) -> Found | None:
        again = ("geometric", "warm")
        new = [row for row in rows if row.peer == peer and not any(word in row.workload for word in again)]
        counts = [row.texts for row in new if row.texts is not None]
        differing, compared = sum(wrong for wrong, _ in counts), sum(of for _, of in counts)
        return Found(f"{compared - differing:,} of {compared:,} texts", differing == 0) if compared else None

    return Goal(f"the ids of {peer}", find)


def _range(ordered: list[str]) -> str:
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


_MODELS: Final = ("SmolLM2", "Llama 3", "Qwen2", "Gemma 4")
_MEAN: Final = "fresh, geometric mean"
_ARRAYS: Final = "array of fresh, geometric mean"
_SAMPLE: Final = "top_p 0.9, {}, V=128256, rows=1"
_STREAMS: Final = "256 streams, 4 stop strings each"
_LENGTHS: Final = ("one stream of 1,024 tokens", "one stream of 65,536 tokens")


def _of_all(work: str) -> tuple[str, ...]:
    return tuple(f"{model}, {work}" for model in _MODELS)


TARGETS: Final = (
    *(
        Target(
            f"{model}, fresh text: mean of prose, code, ten scripts",
            (faster("tokenizers 0.23", 48, f"{model}, {_MEAN}"), faster("gigatoken", 1.2, f"{model}, {_ARRAYS}", by=" (arrays)")),
        )
        for model in ("Llama 3", "Qwen2")
    ),
    Target(
        "SmolLM2, the same",
        (faster("tokenizers 0.23", 39, f"SmolLM2, {_MEAN}"), faster("splintr", 2, f"SmolLM2, {_MEAN}")),
    ),
    Target(
        "Gemma 4, the same",
        (faster("tokenizers 0.23", 12, f"Gemma 4, {_MEAN}"), faster("gigatoken", 1, f"Gemma 4, {_ARRAYS}", by=" (arrays)")),
    ),
    Target("a question of 30 bytes, four models", (faster("tokenizers 0.23", 25, *_of_all("question of 30 bytes")),)),
    Target("a chat message of 255 bytes, four models", (faster("tokenizers 0.23", 37, *_of_all("chat message of 255 bytes")),)),
    Target("a chat of 32 kB in English, one new turn", (within(10, *_of_all("chat of 32 kB in English, one new turn")),)),
    Target("the same in five languages", (within(10, *_of_all("chat of 32 kB in five languages, one new turn")),)),
    Target("exactness, four models", (exact("tokenizers 0.23"),)),
    *(
        Target(
            f"top_p 0.9, vocabulary 128256, one row, {shape}",
            (
                within(most, _SAMPLE.format(shape)),
                faster("torch sort", 300, _SAMPLE.format(shape)),
                faster("llama.cpp", 30, _SAMPLE.format(shape)),
            ),
        )
        for shape, most in (("peaked", 45), ("flat", 150))
    ),
    Target("256 streams, 4 stops each, one step", (within(40, _STREAMS), faster("DecodeStream + find", 13, _STREAMS))),
    Target("ids to text, 1k to 64k tokens, each", (flat(1.25, *_LENGTHS), faster("DecodeStream", 3, *_LENGTHS))),
)


def verdicts(rows: Rows) -> list[Verdict]:
    """Of each target that the rows have something about."""
    return [verdict for target in TARGETS if (verdict := _verdict(target, rows)) is not None]


def _verdict(target: Target, rows: Rows) -> Verdict | None:
    found = [goal.find(rows) for goal in target.goals]
    if all(one is None for one in found):
        return None
    told = [Found("not measured", None) if one is None else one for one in found]
    marks = {True: "", False: " (missed)", None: ""}
    measured = "; ".join(f"{one.text}{marks[one.met]}" for one in told)
    met = False if any(one.met is False for one in told) else None if any(one.met is None for one in told) else True
    return Verdict(target.what, "; ".join(goal.text for goal in target.goals), measured, met)
