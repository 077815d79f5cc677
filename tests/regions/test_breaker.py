"""The breaker opens and closes by the clock it is given, and by nothing else."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ecocore.regions.breaker import FAILURES, PROBES, REST_SECONDS, WINDOW_SECONDS, Breaker, State


class Clock:
    """Time as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def closed() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    breaker.probed(answered=True)
    assert breaker.state is State.CLOSED
    return breaker, clock


def test_a_server_that_never_answered_a_probe_gets_no_request() -> None:
    breaker = Breaker(Clock())
    assert breaker.state is State.HALF_OPEN
    assert not breaker.is_closed
    breaker.probed(answered=False)
    assert not breaker.is_closed


def test_five_failures_within_ten_seconds_open_it() -> None:
    breaker, clock = closed()
    for _ in range(FAILURES):
        assert breaker.is_closed
        breaker.failed()
        clock.now += WINDOW_SECONDS / (FAILURES - 1)
    assert not breaker.is_closed


def test_five_failures_over_a_longer_time_do_not() -> None:
    breaker, clock = closed()
    for _ in range(10 * FAILURES):
        breaker.failed()
        clock.now += WINDOW_SECONDS / (FAILURES - 1) + 0.01
    assert breaker.is_closed


def test_it_rests_and_then_one_good_probe_closes_it() -> None:
    breaker, clock = closed()
    for _ in range(FAILURES):
        breaker.failed()
    clock.now += REST_SECONDS - 0.01
    states = []
    for answered, seconds in ((True, 0.02), (False, 0.0), (True, 0.0)):
        breaker.probed(answered=answered)
        states.append(breaker.state)
        clock.now += seconds
    assert states == [State.OPEN, State.HALF_OPEN, State.CLOSED]


def test_what_failed_before_it_opened_does_not_open_it_again() -> None:
    breaker, clock = closed()
    for _ in range(FAILURES):
        breaker.failed()
    # Whoever was on the way when it opened.
    breaker.failed()
    clock.now += REST_SECONDS
    breaker.probed(answered=True)
    for _ in range(FAILURES - 2):
        breaker.failed()
    assert breaker.is_closed


def test_three_probes_in_a_row_open_it_and_say_that_waiting_is_vain() -> None:
    breaker, _ = closed()
    for _ in range(PROBES - 1):
        breaker.probed(answered=False)
    breaker.probed(answered=True)
    for _ in range(PROBES - 1):
        breaker.probed(answered=False)
        assert breaker.is_closed
        assert not breaker.is_silent
    breaker.probed(answered=False)
    assert not breaker.is_closed
    assert breaker.is_silent
    breaker.probed(answered=True)
    assert not breaker.is_silent


class Flapping(RuleBasedStateMachine):
    """Whatever happens, it closes by a good probe alone, and never within its rest."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.clock = closed()
        self.opened_at = -1e9
        self.was_closed = True

    @rule(seconds=st.floats(0, 20))
    def passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(answered=st.booleans())
    def probe(self, answered: bool) -> None:  # noqa: FBT001  # hypothesis names it
        self.breaker.probed(answered=answered)
        if self.breaker.is_closed and not self.was_closed:
            assert answered
            assert self.clock.now - self.opened_at >= REST_SECONDS

    @rule()
    def failure(self) -> None:
        self.breaker.failed()
        assert self.was_closed or not self.breaker.is_closed

    @invariant()
    def agrees(self) -> None:
        if self.was_closed and not self.breaker.is_closed:
            self.opened_at = self.clock.now
        self.was_closed = self.breaker.is_closed
        assert self.breaker.is_closed == (self.breaker.state is State.CLOSED)


TestFlapping = Flapping.TestCase
TestFlapping.settings = settings(max_examples=100, deadline=None)
