"""Limits per key: counted by a clock that never jumps, for each key alone, and forgotten when it is silent."""

import random
import time
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocore.accounts.limits import Counted, KeyCounts, Standing, Verdict

REQUESTS, TOKENS = Counted.REQUESTS, Counted.TOKENS


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Elsewhere:
    """What other processes counted, as `SharedCounts`. Says what it was told to say."""

    verdict: Verdict | None = None
    taken: list[tuple[str, int]] = field(default_factory=list)
    added: list[tuple[str, int]] = field(default_factory=list)
    lost: bool = False

    def connected(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def take(self, name: str, amount: int, limit: int) -> Verdict | None:
        self.taken.append((name, amount))
        return self.verdict

    async def standing(self, name: str, limit: int) -> Standing | None:
        return None if self.verdict is None else self.verdict.standing

    def add(self, name: str, amount: int) -> None:
        self.added.append((name, amount))


async def test_as_many_requests_as_the_limit_are_taken_in_a_minute() -> None:
    clock = Clock()
    limits = KeyCounts(clock=clock)
    verdicts = [await limits.take(1, REQUESTS, 1, 3) for _ in range(5)]
    assert [verdict.admitted for verdict in verdicts] == [True, True, True, False, False]
    assert [verdict.standing.remaining for verdict in verdicts] == [2, 1, 0, 0, 0]
    assert verdicts[3].wait == 60
    clock.now += 60
    assert (await limits.take(1, REQUESTS, 1, 3)).standing == Standing(3, 2, 60)


async def test_keys_and_kinds_have_windows_of_their_own() -> None:
    limits = KeyCounts(clock=Clock())
    assert (await limits.take(1, REQUESTS, 1, 1)).admitted
    assert (await limits.take(2, REQUESTS, 1, 1)).admitted
    assert (await limits.take(1, TOKENS, 1, 1)).admitted
    assert not (await limits.take(1, REQUESTS, 1, 1)).admitted


async def test_a_prompt_larger_than_the_limit_is_never_taken_and_counts_nothing() -> None:
    limits = KeyCounts(clock=Clock())
    assert await limits.take(1, TOKENS, 11, 10) == Verdict(Standing(10, 10, 0), None)
    assert (await limits.take(1, TOKENS, 10, 10)).admitted


async def test_tokens_that_were_used_count_above_the_limit_and_the_next_prompt_waits() -> None:
    clock = Clock()
    limits = KeyCounts(clock=clock)
    assert (await limits.take(1, TOKENS, 80, 100)).admitted
    clock.now += 10
    limits.add(1, TOKENS, 500)
    assert await limits.standing(1, TOKENS, 100) == Standing(100, 0, 60)
    assert (await limits.take(1, TOKENS, 1, 100)).wait == 60
    clock.now += 60
    assert (await limits.take(1, TOKENS, 100, 100)).admitted


async def test_a_limit_that_is_changed_holds_for_what_was_counted_before() -> None:
    limits = KeyCounts(clock=Clock())
    for _ in range(5):
        assert (await limits.take(1, REQUESTS, 1, 5)).admitted
    assert (await limits.take(1, REQUESTS, 1, 6)).admitted
    assert (await limits.take(1, REQUESTS, 1, 2)).standing == Standing(2, 0, 60)


async def test_asking_where_a_key_stands_counts_and_remembers_nothing() -> None:
    limits = KeyCounts(clock=Clock())
    for _ in range(10):
        assert await limits.standing(1, REQUESTS, 2) == Standing(2, 2, 0)
    assert limits.remembered() == 0


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_wall_clock_that_jumps_changes_nothing(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    limits = KeyCounts()
    assert (await limits.take(1, REQUESTS, 1, 2)).admitted
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + hours * 3600)
    assert (await limits.take(1, REQUESTS, 1, 2)).admitted
    refused = await limits.take(1, REQUESTS, 1, 2)
    assert refused.wait is not None
    assert 50 < refused.wait <= 60


@given(st.lists(st.tuples(st.sampled_from([0, 5, 20, 61]), st.integers(1, 3), st.integers(1, 10)), max_size=80))
async def test_every_verdict_is_that_of_a_list_of_timestamps(calls: list[tuple[int, int, int]]) -> None:
    """In whole seconds, where the window is exact."""
    clock = Clock()
    limits = KeyCounts(clock=clock)
    naive: list[tuple[float, int, int]] = []
    for seconds, key, amount in calls:
        clock.now += seconds
        used = sum(was for time, whose, was in naive if whose == key and time > clock.now - 60)
        verdict = await limits.take(key, TOKENS, amount, 15)
        assert verdict.admitted is (used + amount <= 15)
        if verdict.admitted:
            naive.append((clock.now, key, amount))
        assert verdict.standing.remaining == 15 - used - (amount if verdict.admitted else 0)


async def test_ten_thousand_calls_of_many_keys_stay_within_their_limits() -> None:
    rng = random.Random(13)
    clock = Clock()
    limits = KeyCounts(clock=clock)
    taken: dict[int, list[float]] = {key: [] for key in range(5)}
    for _ in range(10_000):
        clock.now += rng.expovariate(10)
        key = rng.randrange(5)
        if (await limits.take(key, REQUESTS, 1, 60)).admitted:
            taken[key].append(clock.now)
    for times in taken.values():
        assert len(times) > 500
        assert all(later - earlier >= 60 for earlier, later in zip(times, times[60:], strict=False))


async def test_silent_keys_are_forgotten() -> None:
    clock = Clock()
    limits = KeyCounts(clock=clock)
    for key in range(10_000):
        await limits.take(key, REQUESTS, 1, 5)
    assert limits.remembered() == 10_000
    clock.now += 61
    for _ in range(5_001):
        await limits.take(10_001, REQUESTS, 1, 10**6)
    assert limits.remembered() == 1


def test_no_more_requests_than_places_run_at_once() -> None:
    limits = KeyCounts()
    assert [limits.enter(1, 2) for _ in range(3)] == [True, True, False]
    assert limits.enter(2, 1)
    limits.leave(1)
    assert limits.enter(1, 2)
    for key in (1, 1, 2):
        limits.leave(key)
    assert limits.remembered() == 0


async def test_what_others_counted_counts_too() -> None:
    elsewhere = Elsewhere(Verdict(Standing(10, 4, 90), 0))
    limits = KeyCounts(elsewhere, Clock())
    assert await limits.take(1, REQUESTS, 1, 10) == Verdict(Standing(10, 4, 90), 0)
    assert await limits.standing(1, REQUESTS, 10) == Standing(10, 4, 90)
    limits.add(1, TOKENS, 7)
    assert elsewhere.taken == [("0000000000000001:requests", 1)]
    assert elsewhere.added == [("0000000000000001:tokens", 7)]


async def test_what_others_refuse_does_not_count_here() -> None:
    elsewhere = Elsewhere(Verdict(Standing(2, 0, 90), 12.5))
    limits = KeyCounts(elsewhere, Clock())
    for _ in range(5):
        assert (await limits.take(1, REQUESTS, 1, 2)).wait == 12.5
    elsewhere.verdict = None
    assert (await limits.take(1, REQUESTS, 1, 2)).standing == Standing(2, 1, 60)


async def test_others_are_not_asked_for_what_is_refused_here() -> None:
    elsewhere = Elsewhere(Verdict(Standing(1, 0, 60), 0))
    limits = KeyCounts(elsewhere, Clock())
    verdicts = [await limits.take(1, REQUESTS, 1, 1) for _ in range(100)]
    assert sum(verdict.admitted for verdict in verdicts) == 1
    assert len(elsewhere.taken) == 1


async def test_when_others_are_lost_the_count_of_this_process_goes_on_without_a_gap() -> None:
    elsewhere = Elsewhere(Verdict(Standing(3, 1, 60), 0))
    limits = KeyCounts(elsewhere, Clock())
    assert (await limits.take(1, REQUESTS, 1, 3)).admitted
    assert (await limits.take(1, REQUESTS, 1, 3)).admitted
    elsewhere.verdict, elsewhere.lost = None, True
    assert limits.shared_is_lost
    assert [(await limits.take(1, REQUESTS, 1, 3)).admitted for _ in range(2)] == [True, False]


def test_where_nothing_is_shared_nothing_is_lost() -> None:
    assert KeyCounts().shared_is_lost is None
