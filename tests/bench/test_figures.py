"""Figures from outcomes, with numpy for a second opinion."""

from array import array

import numpy as np
import pytest

from ecocore.bench.figures import GAP_EDGES_MS, Percentiles, figures_of, histogram, percentile
from ecocore.bench.load import Load
from ecocore.bench.outcome import Failure, Outcome


def outcome(due: float, times: list[float], ended: float, **fields: object) -> Outcome:
    made = Outcome(0, due, head=due, ended=ended, status=200, times=array("d", times))
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def loaded(*outcomes: Outcome, began: float = 0.0, busy_until: float = 10.0, ended: float = 10.0, streams: int = 1) -> Load:
    return Load(streams, list(outcomes), began=began, busy_until=busy_until, ended=ended)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 99, 100, 101, 1000])
def test_percentiles_are_numpys(size: int) -> None:
    values = np.random.default_rng(size).lognormal(-4, 1.5, size)
    found = Percentiles.of(values.tolist())
    assert found is not None
    assert found.count == size
    expected = np.percentile(1e3 * values, [50, 95, 99, 100])
    assert (found.p50, found.p95, found.p99, found.max) == pytest.approx(tuple(expected))
    assert found.mean == pytest.approx(1e3 * values.mean())
    ordered = sorted(values.tolist())
    for share in np.linspace(0, 1, 37):
        assert percentile(ordered, float(share)) == pytest.approx(np.percentile(values, 100 * share))


def test_of_nothing_there_are_no_percentiles() -> None:
    assert Percentiles.of([]) is None


def test_the_histogram_is_numpys() -> None:
    gaps = np.random.default_rng(5).lognormal(-4, 3, 5000)
    edges = [-np.inf, *GAP_EDGES_MS, np.inf]
    expected, _ = np.histogram(1e3 * gaps, edges)
    counts = histogram(gaps.tolist())
    assert counts == tuple(expected)
    assert counts[0] > 0
    assert counts[-1] > 0


def test_gaps_first_tokens_and_ends_are_told_in_milliseconds() -> None:
    one = outcome(1.0, [1.5, 1.6, 1.6, 1.9], 2.0, completion_tokens=7, prompt_tokens=10, finish_reason="length")
    two = outcome(2.0, [2.25], 3.0, completion_tokens=1, prompt_tokens=20, finish_reason="stop")
    figures = figures_of(loaded(one, two))
    assert figures.ttft_ms is not None
    assert figures.gap_ms is not None
    assert figures.token_ms is not None
    assert figures.e2e_ms is not None
    assert (figures.ttft_ms.count, figures.ttft_ms.p50, figures.ttft_ms.max) == pytest.approx((2, 375.0, 500.0))
    assert (figures.gap_ms.count, figures.gap_ms.p50, figures.gap_ms.max) == pytest.approx((3, 100.0, 300.0))
    # Seven tokens: six after the first, in 400 ms.
    assert (figures.token_ms.count, figures.token_ms.p50) == pytest.approx((1, 400 / 6))
    assert figures.e2e_ms.p50 == pytest.approx(1000.0)
    assert (figures.requests, figures.output_tokens, figures.tokens_from, figures.prompt_tokens) == (2, 8, "usage", 15.0)
    assert figures.finish_reasons == {"length": 1, "stop": 1}
    assert sum(figures.gap_counts) == 3
    assert figures.gap_counts[0] == 1


def test_rates_are_those_of_the_time_when_all_streams_were_busy() -> None:
    """Of the third answer, half of the events lie within."""
    early = [outcome(0.0, [1.0, 2.0], 2.0, completion_tokens=20), outcome(2.0, [3.0, 10.0], 10.0, completion_tokens=20)]
    late = outcome(4.0, [6.0, 11.0], 12.0, completion_tokens=10)
    figures = figures_of(loaded(*early, late, busy_until=10.0, ended=12.0))
    assert figures.seconds == 10.0
    assert figures.output_tokens_per_second == pytest.approx((20 + 20 + 5) / 10)
    assert figures.requests_per_second == pytest.approx((1 + 1 + 0.5) / 10)


def test_rates_of_few_answers_are_those_of_the_whole_time() -> None:
    """Two streams, of which one had no second answer while both were busy."""
    answers = [outcome(0.0, [1.0, end], end, completion_tokens=20) for end in (3.0, 4.0, 9.0, 12.0)]
    figures = figures_of(loaded(*answers, busy_until=10.0, ended=12.0, streams=2))
    assert figures.seconds == 12.0
    assert figures.output_tokens_per_second == pytest.approx(80 / 12)
    assert figures.requests_per_second == pytest.approx(4 / 12)


def test_without_usage_events_count_and_it_is_said() -> None:
    assert figures_of(loaded(outcome(0, [1, 2, 3], 4))).tokens_from == "events"
    assert figures_of(loaded(outcome(0, [1, 2, 3], 4))).output_tokens == 3
    mixed = figures_of(loaded(outcome(0, [1, 2, 3], 4), outcome(0, [1], 4, completion_tokens=9)))
    assert (mixed.tokens_from, mixed.output_tokens) == ("usage and events", 12)


def test_failures_count_by_kind_and_in_nothing_else() -> None:
    bad = outcome(0, [1.0, 9.0], 9.5, failure=Failure("broken stream", "cut"), completion_tokens=50)
    busy = outcome(0, [], 0.1, failure=Failure("http", "503 overloaded"))
    figures = figures_of(loaded(bad, busy, busy, outcome(0, [1.0, 1.1], 2.0, completion_tokens=2)))
    assert figures.failed == {"broken stream: cut": 1, "http: 503 overloaded": 2}
    assert (figures.requests, figures.output_tokens) == (1, 2)
    assert figures.gap_ms is not None
    assert figures.gap_ms.max == pytest.approx(100.0)


def test_what_was_broken_off_gives_its_events_but_no_end() -> None:
    load = loaded(outcome(0, [1.0], 2.0, completion_tokens=1))
    load.open[1] = Outcome(1, 5.0, times=array("d", [6.0, 6.2]))
    figures = figures_of(load)
    assert (figures.requests, figures.unfinished, figures.output_tokens) == (1, 1, 3)
    assert figures.ttft_ms is not None
    assert figures.e2e_ms is not None
    assert (figures.ttft_ms.count, figures.e2e_ms.count) == (2, 1)


def test_a_load_without_any_answer_has_figures_too() -> None:
    figures = figures_of(loaded())
    assert (figures.requests, figures.output_tokens, figures.ttft_ms, figures.gap_ms) == (0, 0, None, None)
    assert figures.output_tokens_per_second == 0
