"""How long a plan takes, by what two short chats took."""

import pytest

from ecocore.bench.endpoint import Endpoint
from ecocore.bench.plan import Plan
from ecocore.bench.probe import Target
from ecocore.bench.run import _duration, _spoken

# 100 tokens are 100 words, which take a second to read; a token takes 0.1 s to write.
TARGET = Target(
    Endpoint.parse("http://x"), "m", tokens_of_a_word=1.0, seconds_of_a_word=0.01, seconds_of_a_token=0.1, counts=True
)


@pytest.mark.parametrize(
    ("plan", "least", "most"),
    [
        # Warming up reads a prompt and writes four tokens: 1.4 s. An answer of ten takes 2 s.
        (Plan((1,), 10, count=5, prompt_tokens=100), 1.4 + 5 * 2, 1.4 + 5 * 2),
        (Plan((1,), 10, seconds=10, prompt_tokens=100), 1.4 + 10 + 1, 1.4 + 10 + 1),
        # Less requests than streams: each stream asks once.
        (Plan((8,), 10, count=5, prompt_tokens=100), 1.4 + 2, 8 * (1.4 + 2)),
        (Plan((8,), 10, seconds=10, prompt_tokens=100), 1.4 + 10 + 1, 8 * 1.4 + 10 + 8),
        # An answer that takes longer than the level is waited for.
        (Plan((1,), 1000, seconds=10, prompt_tokens=100), 1.4 + 101, 1.4 + 101),
        (Plan((1, 8), 10, count=8, rounds=3, prompt_tokens=100), 3 * (1.4 + 16 + 1.4 + 2), 3 * (1.4 + 16 + 8 * 3.4)),
        (Plan((1,), 10, count=1, prompt="five words of a prompt"), 0.45 + 1.05, 0.45 + 1.05),
    ],
)
def test_a_plan_takes_as_long_as_its_answers(plan: Plan, least: float, most: float) -> None:
    assert plan.seconds_for([TARGET]) == pytest.approx((least, most))
    assert plan.seconds_for([TARGET, TARGET]) == pytest.approx((2 * least, 2 * most))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.01, "1 s"), (41.7, "42 s"), (119, "120 s"), (121, "2 min"), (754, "13 min"), (7199, "120 min"), (10_000, "2.8 h")],
)
def test_a_time_is_said_as_people_say_it(seconds: float, words: str) -> None:
    assert _spoken(seconds) == words


def test_two_times_that_are_said_alike_are_said_once() -> None:
    assert _duration(40.1, 40.4).startswith("this takes about 40 s; ")
    assert _duration(40, 400).startswith("this takes 40 s to 6.7 min, ")
