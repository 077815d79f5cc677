"""Bodies of requests to other processes."""

import io
import json
import threading
from typing import Any

import pytest
from tests.regions.heard import request

from ecocore.regions.body import SHORT_BYTES, SHORT_CHARACTERS, SHORT_MESSAGES, in_pieces, is_short, spelled

HELLO = {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("fields", "short"),
    [
        ({}, True),
        ({"messages": [HELLO] * SHORT_MESSAGES}, True),
        ({"messages": [HELLO] * (SHORT_MESSAGES + 1)}, False),
        ({"messages": [{"role": "user", "content": "x" * SHORT_CHARACTERS}]}, True),
        ({"messages": [{"role": "user", "content": "x" * SHORT_CHARACTERS}, HELLO]}, False),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}, False),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, False),
        ({"response_format": {"type": "json_object"}}, False),
    ],
)
def test_what_is_short(fields: dict[str, Any], short: bool) -> None:  # noqa: FBT001  # one of the parameters
    assert is_short(request(**fields)) is short


async def test_only_what_is_short_is_spelled_on_the_event_loop() -> None:
    threads: list[threading.Thread] = []

    def fields() -> dict[str, Any]:
        threads.append(threading.current_thread())
        return {"a": "\u20ac", "b": (1,)}

    bodies = [await spelled(fields, short=short) for short in (True, False)]
    assert bodies[0] == bodies[1]
    assert json.loads(bodies[0]) == {"a": "\u20ac", "b": [1]}
    assert [thread is threading.main_thread() for thread in threads] == [True, False]


def test_a_long_body_is_sent_in_pieces() -> None:
    assert in_pieces(None) is None
    assert in_pieces(b"x" * SHORT_BYTES) == b"x" * SHORT_BYTES
    assert isinstance(in_pieces(b"x" * (SHORT_BYTES + 1)), io.BytesIO)
