"""Outcomes of a load -> its figures: percentiles, rates, kinds of failure, the histogram of gaps. Times are in milliseconds."""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Self

from ecocore.bench.load import Load
from ecocore.bench.outcome import Outcome

Counted = Literal["usage", "events", "usage and events"]

# Ten to a decade from 0.1 ms to 100 s. What is below the first came in one read with its neighbour, or nearly.
GAP_EDGES_MS: Final = tuple(round(10 ** (step / 10), 4) for step in range(-10, 51))


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of a number of durations."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Self | None:
        """None of nothing."""
        ordered = sorted(1e3 * value for value in seconds)
        if not ordered:
            return None
        p50, p95, p99 = (percentile(ordered, share) for share in (0.5, 0.95, 0.99))
        return cls(len(ordered), math.fsum(ordered) / len(ordered), p50, p95, p99, ordered[-1])


@dataclass(frozen=True, slots=True)
class Figures:
    """What a load showed.

    Requests that failed count in `failed` alone. One that was broken off before its end gives its first token, its gaps and
    the events that came. Rates are those of the time in which every stream was busy: what the last streams add to the time, and
    hardly to the tokens, is left out. Where that time did not see two answers of each stream, it saw mostly beginnings; then
    rates are those of the whole time.

    `tokens_from`: who counted the output tokens; without the server's usage each event counts as one.
    `gap_ms`: between neighbouring events of a stream; `token_ms`: from the first to the last event of an answer, for each
    token after the first.
    """

    streams: int | None
    seconds: float
    requests: int
    unfinished: int
    failed: Mapping[str, int]
    finish_reasons: Mapping[str, int]
    prompt_tokens: float | None
    output_tokens: int
    tokens_from: Counted
    output_tokens_per_second: float
    requests_per_second: float
    ttft_ms: Percentiles | None
    gap_ms: Percentiles | None
    token_ms: Percentiles | None
    e2e_ms: Percentiles | None
    gap_counts: tuple[int, ...]
    client_cores: float


def figures_of(load: Load) -> Figures:
    """The figures of a load that ended, or was broken off."""
    whole = [outcome for outcome in load.outcomes if outcome.succeeded]
    told = [*whole, *load.open.values()]
    gaps = [gap for outcome in told for gap in _gaps(outcome)]
    prompts = [outcome.prompt_tokens for outcome in whole if outcome.prompt_tokens is not None]
    until = _until(load, whole)
    window = max(until - load.began, 1e-9)
    return Figures(
        streams=load.streams,
        seconds=window,
        requests=len(whole),
        unfinished=len(load.open),
        failed=dict(Counter(str(outcome.failure) for outcome in load.outcomes if outcome.failure is not None)),
        finish_reasons=dict(Counter(outcome.finish_reason or "none" for outcome in whole)),
        prompt_tokens=sum(prompts) / len(prompts) if prompts else None,
        output_tokens=sum(_tokens(outcome) for outcome in told),
        tokens_from=_counted(told),
        output_tokens_per_second=sum(_tokens(outcome) * _share_told(outcome, until) for outcome in told) / window,
        requests_per_second=sum(_share_told(outcome, until) for outcome in whole) / window,
        ttft_ms=Percentiles.of(outcome.times[0] - outcome.due for outcome in told if outcome.times),
        gap_ms=Percentiles.of(gaps),
        token_ms=Percentiles.of(_token_seconds(whole)),
        e2e_ms=Percentiles.of(outcome.ended - outcome.due for outcome in whole if outcome.ended is not None),
        gap_counts=histogram(gaps),
        client_cores=load.client_cpu / max(load.seconds, 1e-9),
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Between two values it lies on the line between them, as numpy has it."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def histogram(seconds: Iterable[float]) -> tuple[int, ...]:
    """How many lie below the first of `GAP_EDGES_MS`, between each two, and from the last on."""
    counts = [0] * (len(GAP_EDGES_MS) + 1)
    for value in seconds:
        counts[bisect_left(GAP_EDGES_MS, 1e3 * value)] += 1
    return tuple(counts)


def _gaps(outcome: Outcome) -> Iterable[float]:
    times = outcome.times
    return (times[place + 1] - times[place] for place in range(len(times) - 1))


def _token_seconds(outcomes: Iterable[Outcome]) -> Iterable[float]:
    for outcome in outcomes:
        tokens = _tokens(outcome)
        if tokens > 1 and len(outcome.times) > 1:
            yield (outcome.times[-1] - outcome.times[0]) / (tokens - 1)


def _tokens(outcome: Outcome) -> int:
    return len(outcome.times) if outcome.completion_tokens is None else outcome.completion_tokens


def _counted(outcomes: Sequence[Outcome]) -> Counted:
    """Answers without an event have nothing to count."""
    ways = {outcome.completion_tokens is None for outcome in outcomes if outcome.times}
    return "usage and events" if len(ways) == 2 else "events" if True in ways else "usage"


def _until(load: Load, whole: Sequence[Outcome]) -> float:
    """To when rates are taken."""
    assert load.busy_until is not None
    assert load.ended is not None
    seen = sum(outcome.ended is not None and outcome.ended <= load.busy_until for outcome in whole)
    return load.busy_until if seen >= 2 * (load.streams or 1) else load.ended


def _share_told(outcome: Outcome, until: float) -> float:
    """Of an answer, what had come by then; an event that holds several tokens is taken for as many as the others.

    Counting only whole answers would depend on where their ends happen to fall.
    """
    if not outcome.times:
        return float(outcome.ended is not None and outcome.ended <= until)
    return bisect_right(outcome.times, until) / len(outcome.times)
