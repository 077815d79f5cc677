"""The budget of prompts: what it learns, and what it allows."""

import pytest

from ecocore.budget import ENOUGH, PromptBudget


def test_nothing_is_limited_before_anything_is_known() -> None:
    budget = PromptBudget(0.2)
    assert budget.limit() is None
    budget.observe(prompt_tokens=0, decode_rows=3, seconds=0.1)
    assert budget.limit() is None
    budget.observe(prompt_tokens=100, decode_rows=0, seconds=0.1)
    assert budget.limit() == 100  # half of the gap is for the rows, and a token takes 1 ms


@pytest.mark.parametrize(
    ("per_token", "decoding", "expected"), [(1e-3, 0.05, 150), (1e-4, 0.1, 1000), (1e-2, 0.19, 1), (1e-3, 0.5, 0)]
)
def test_a_step_fits_the_gap(per_token: float, decoding: float, expected: int) -> None:
    budget = PromptBudget(0.2)
    for _ in range(200):
        budget.observe(prompt_tokens=0, decode_rows=8, seconds=decoding)
        budget.observe(prompt_tokens=128, decode_rows=8, seconds=decoding + 128 * per_token)
    limit = budget.limit()
    assert limit is not None
    assert abs(limit - expected) <= 1 + expected // 100


def test_what_costs_next_to_nothing_is_limited_to_what_a_scheduler_takes() -> None:
    budget = PromptBudget(1e9)
    budget.observe(prompt_tokens=1, decode_rows=1, seconds=1e-12)
    assert budget.limit() == ENOUGH


def test_it_follows_a_machine_that_becomes_slower() -> None:
    budget = PromptBudget(0.2)
    for seconds in (0.1, 0.4):
        for _ in range(100):
            budget.observe(prompt_tokens=100, decode_rows=1, seconds=seconds)
    limit = budget.limit()
    assert limit is not None
    assert 49 <= limit <= 51


def test_other_work_takes_as_long_as_a_step_of_streams_and_never_longer_than_a_gap() -> None:
    budget = PromptBudget(0.2)
    assert budget.between() == 0.2
    budget.observe(prompt_tokens=100, decode_rows=0, seconds=0.05)
    assert budget.between() == 0.2
    budget.observe(prompt_tokens=0, decode_rows=3, seconds=0.03)
    assert budget.between() == 0.03
    for _ in range(100):
        budget.observe(prompt_tokens=0, decode_rows=3, seconds=0.9)
    assert budget.between() == 0.2
