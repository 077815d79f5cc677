"""Events reach everybody who wants them, and nobody else."""

import logging

import pytest

from ecocore._core import EventBatch, EventDecoder
from ecocore.regions.subscribers import Subscribers


def some_events() -> EventBatch:
    return EventDecoder(1, 1).fail("some_code", "some words")


def test_one_that_fails_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    subscribers = Subscribers()
    heard: list[EventBatch] = []

    def fail(_events: EventBatch) -> None:
        raise ValueError("no")

    subscribers.subscribe(fail)
    end = subscribers.subscribe(heard.append)
    events = some_events()
    with caplog.at_level(logging.ERROR):
        subscribers.tell(events)
    assert heard == [events]
    assert "a subscriber of a region's events failed" in caplog.text
    end()
    end()
    subscribers.tell(events)
    assert heard == [events]


def test_nothing_is_told_to_nobody() -> None:
    subscribers = Subscribers()
    heard: list[EventBatch] = []
    subscribers.subscribe(heard.append)
    subscribers.tell(EventDecoder(1, 0).fail("some_code", "nobody is left"))
    assert heard == []
