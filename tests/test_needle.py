"""The needle test in small; `make soak` runs 200 trials of it."""

import random

import pytest
from tests.needle import Trial, outcomes


@pytest.mark.weights
def test_company_pool_cache_and_depth_change_no_bit() -> None:
    seen = list(outcomes(trials=6, seed=5, most_companions=12))
    assert [one for one in seen if one.difference is not None] == []
    # The trials are worth what they reach.
    assert any(one.preemptions for one in seen)
    assert any(one.cached_tokens for one in seen)
    assert {one.trial.depth for one in seen} == {1, 2}


def test_trials_repeat_at_their_seed_and_reach_everything() -> None:
    def drawn(seed: int) -> list[Trial]:
        rng = random.Random(seed)
        return [Trial.drawn(rng, number, 64) for number in range(200)]

    trials = drawn(1)
    assert trials == drawn(1) != drawn(2)
    for choices in ({0, 1, 2, 3}, {True, False}, {1, 2}):
        fields = ("needle", "small_pool", "warm", "depth")
        assert any({getattr(trial, name) for trial in trials} == choices for name in fields)
    assert {trial.companions for trial in trials} >= set(range(5, 60, 20)) or max(trial.companions for trial in trials) > 60
