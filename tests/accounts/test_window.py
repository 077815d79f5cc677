"""The sliding window: what a list of timestamps would say, within a tenth of a second, and never too much."""

import random
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from ecocore.accounts.window import GRAIN_SECONDS, WINDOW_SECONDS, Window

# Times are multiples of this, so that sums of them are exact.
TICK = 1 / 1024


@dataclass
class Timestamps:
    """The obvious window: every amount with its time. `grain`: how much longer each may count."""

    grain: float = 0.0
    entries: list[tuple[float, int]] = field(default_factory=list)

    def used(self, now: float) -> int:
        return sum(amount for time, amount in self.entries if time + WINDOW_SECONDS + self.grain > now)

    def add(self, amount: int, now: float) -> None:
        self.entries.append((now, amount))


STEPS = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 200), st.integers(0, 70 * 1024)),  # ticks that pass
        st.integers(1, 12),  # what is asked for
        st.booleans(),  # whether it must fit
    ),
    max_size=60,
)


@given(STEPS, st.integers(12, 40))
def test_it_never_holds_less_than_the_timestamps_and_hardly_more(steps: list[tuple[int, int, bool]], limit: int) -> None:
    window, least, most = Window(), Timestamps(), Timestamps(grain=GRAIN_SECONDS)
    now = 0.0
    for ticks, amount, must_fit in steps:
        now += ticks * TICK
        assert least.used(now) <= window.used(now) <= most.used(now)
        if not must_fit or window.wait(amount, limit, now) == 0:
            for counting in (window, least, most):
                counting.add(amount, now)
        else:
            assert most.used(now) + amount > limit
        window.check_integrity()


@given(STEPS, st.integers(12, 40))
def test_what_waits_as_long_as_it_was_told_fits_and_not_earlier(steps: list[tuple[int, int, bool]], limit: int) -> None:
    window = Window()
    now = 0.0
    for ticks, amount, must_fit in steps:
        now += ticks * TICK
        wait = window.wait(amount, limit, now)
        if must_fit:
            if wait:
                assert window.wait(amount, limit, now + wait - TICK) > 0
            now += wait
            assert window.wait(amount, limit, now) == 0
        window.add(amount, now)


@given(STEPS)
def test_after_its_reset_nothing_counts(steps: list[tuple[int, int, bool]]) -> None:
    window = Window()
    now = 0.0
    for ticks, amount, _ in steps:
        now += ticks * TICK
        window.add(amount, now)
        assert window.reset(now) == WINDOW_SECONDS
    if steps:
        assert window.used(now + WINDOW_SECONDS - TICK) >= 1
    assert window.used(now + WINDOW_SECONDS) == 0
    assert window.reset(now + WINDOW_SECONDS) == 0


def test_ten_thousand_calls_stay_within_the_limit_in_every_minute() -> None:
    rng = random.Random(6)
    window, limit, now = Window(), 500, 0.0
    taken: list[float] = []
    for _ in range(10_000):
        now += rng.expovariate(20)
        if window.wait(1, limit, now) == 0:
            window.add(1, now)
            taken.append(now)
    window.check_integrity()
    oldest = 0
    for index, time in enumerate(taken):
        while taken[oldest] + WINDOW_SECONDS <= time:
            oldest += 1
        assert index - oldest < limit
    # Twenty come in a second: there was hardly a minute that did not use its limit up.
    assert len(taken) >= limit * int(now / (WINDOW_SECONDS + 1))


def test_a_minute_takes_no_more_room_than_its_tenths_of_seconds() -> None:
    window = Window()
    for tick in range(120 * 1024):
        window.add(1, tick * TICK)
    assert len(window._entries) <= WINDOW_SECONDS / GRAIN_SECONDS + 1
    window.check_integrity()


def test_what_is_taken_back_counts_no_more() -> None:
    window = Window()
    window.add(3, 0.0)
    entry = window.add(4, 0.05)
    window.add(5, 1.0)
    window.take_back(entry, 4)
    assert (window.used(1.0), window.reset(1.0)) == (8, 60.0)
    window.check_integrity()
    window.take_back(window.add(1, 2.0), 1)
    assert (window.used(2.0), window.reset(2.0)) == (8, 59.0)
    window.check_integrity()


def test_what_left_by_itself_is_not_taken_back_again() -> None:
    window = Window()
    entry = window.add(4, 0.0)
    window.add(5, 30.0)
    assert window.used(60.0) == 5
    window.take_back(entry, 4)
    assert window.used(60.0) == 5
    window.check_integrity()
