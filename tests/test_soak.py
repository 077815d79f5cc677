"""The soak in small: a bounded number of requests on the embedded model, and its own judgement of memory."""

import json

import pytest
from tests.soak import Tally, alone, blocks_missing, catalogue, crowd, growth
from tests.soak_server import served
from tests.soak_server import soak as soak_server

from ecocore.runtime import Runtime


@pytest.mark.weights
def test_a_crowd_with_cancellations_changes_no_answer(smollm2: Runtime) -> None:
    asks = catalogue(seed=5, size=6, max_tokens=(6, 16))
    answers = list(alone(smollm2, asks))

    def go_on(tally: Tally) -> bool:
        return tally.kept < 24 or tally.cancelled < 12

    tally = crowd(smollm2, asks, answers, streams=8, seed=5, go_on=go_on)
    assert tally.violations == []
    assert blocks_missing(smollm2) is None


def test_a_catalogue_repeats_at_its_seed_and_covers_the_parameters() -> None:
    asks = catalogue(seed=1)
    assert asks == catalogue(seed=1) != catalogue(seed=2)
    used = {name for ask in asks for name in ask.params}
    assert used >= {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "frequency_penalty",
        "presence_penalty",
        "stop",
    }


@pytest.mark.parametrize(("slope", "told"), [(0.0, 0.0), (2.5, 2.5), (-1.0, -1.0)])
def test_growth_is_judged_after_the_warm_up(slope: float, told: float) -> None:
    warm_up = [(float(second), 500.0 + 50 * second) for second in range(120)]
    steady = [(float(second), 7000.0 + slope * second / 60) for second in range(120, 300)]
    assert growth(warm_up + steady) == pytest.approx(told)


def test_growth_may_be_judged_after_so_many_seconds() -> None:
    steep = [(float(second), 10.0 * second) for second in range(100)]
    steady = [(float(second), 1000.0 + second / 60) for second in range(100, 200)]
    assert growth(steep + steady, 99.5) == pytest.approx(1.0)


def test_a_short_run_judges_no_memory() -> None:
    assert growth([(float(second), 100.0 * second) for second in range(50)]) is None


@pytest.mark.weights
def test_a_served_crowd_leaves_nothing_behind() -> None:
    told: list[str] = []
    with served() as server:
        assert soak_server(server, minutes=0.1, embedded=1, mock=6, seed=3, tell=told.append) == []
    answers = json.loads(told[-1])
    assert {name.split()[0] for name in answers} >= {"streamed", "plain", "left"}
