"""Errors of other servers, in their own words: whose fault they are, and what a client hears of them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocore.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter
from ecocore.regions.refusal import MAX_MESSAGE, Discretion, refusal

KEY = "k-3f9a2b7c1d"
DISCRETION = Discretion((KEY, "inference.internal"), {"org/model-v2": "model"})


def told(status: int, error: Any) -> InvalidRequest | None:
    body = error if isinstance(error, bytes) else json.dumps(error).encode()
    return refusal(status, body, DISCRETION)


def envelope(message: Any = "no", **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (
            400,
            envelope("temperature: must be small", param="temperature", code="x_y"),
            (InvalidRequest, "temperature", "must be small", "x_y"),
        ),
        (400, envelope("messages[0].content: no", param="messages"), (InvalidRequest, "messages", "no", None)),
        (422, envelope("must be small", param="stop[0]", code=400), (InvalidRequest, "stop", "must be small", None)),
        (413, envelope("too large"), (InvalidRequest, None, "too large", None)),
        (415, envelope(""), (InvalidRequest, None, "the request was refused", None)),
        (
            400,
            envelope(code="context_length_exceeded", param="prompt"),
            (ContextLengthExceeded, "prompt", "no", "context_length_exceeded"),
        ),
        (400, envelope(code="unsupported_parameter", param="n"), (UnsupportedParameter, "n", "no", "unsupported_parameter")),
        # vLLM's two spellings, and FastAPI's own.
        (
            400,
            {
                "object": "error",
                "message": "This model's maximum context length is 9 tokens.",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            },
            (ContextLengthExceeded, "messages", "This model's maximum context length is 9 tokens.", "context_length_exceeded"),
        ),
        (
            400,
            {"error": {"message": "no", "type": "BadRequestError", "param": "top_k", "code": 400}},
            (InvalidRequest, "top_k", "no", None),
        ),
        (
            422,
            {"detail": [{"loc": ["body", "n"], "msg": "not a number", "type": "x"}]},
            (InvalidRequest, "n", "not a number", None),
        ),
        (422, {"detail": [{"loc": [], "msg": "no"}]}, (InvalidRequest, None, "no", None)),
        # What they call a field or a code may be anything.
        (400, envelope(param="a b", code="a b"), (InvalidRequest, "a", "no", None)),
        (400, envelope(param={"a": 1}, code=["b"]), (InvalidRequest, None, "no", None)),
    ],
)
def test_what_is_the_clients_is_raised_as_if_it_were_judged_here(status: int, error: Any, expected: tuple[Any, ...]) -> None:
    again = told(status, error)
    assert again is not None
    assert (type(again), again.param, again.message, again.code) == expected


def test_the_place_in_a_field_is_said_once() -> None:
    again = told(400, envelope("messages[3].content[0]: is empty", param="messages"))
    assert str(again) == "messages[3].content[0]: is empty"


@pytest.mark.parametrize("status", [301, 401, 402, 403, 404, 405, 408, 409, 429, 500, 502, 503, 504])
def test_every_other_status_is_for_another_region(status: int) -> None:
    assert told(status, envelope()) is None


@pytest.mark.parametrize(
    "error",
    [
        envelope(code="model_not_found"),
        envelope(param="model"),
        envelope(code="invalid_api_key"),
        envelope(None),
        {"error": "no"},
        {"detail": "no"},
        {"detail": []},
        {},
        [],
        b"",
        b"<html>The plain HTTP request was sent to HTTPS port</html>",
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_so_is_what_no_server_of_this_api_says_of_a_request(error: Any) -> None:
    assert told(400, error) is None


@pytest.mark.parametrize(
    ("words", "heard"),
    [
        (f"wrong key {KEY}!", "wrong key [...]!"),
        ("see https://user:pass@10.0.0.7:8000/x?key=1 for more", "see [...] for more"),
        ("cannot reach 10.0.0.7:8000 or 192.168.1.1", "cannot reach [...] or [...]"),
        ("cannot reach [2001:db8::1]:443 here", "cannot reach [...] here"),
        ("node gpu-7.cluster.local:9000 and localhost:1 failed", "node [...] and [...] failed"),
        ("host inference.internal is full", "host [...] is full"),
        ("file /usr/lib/python3/x.py line 3", "file [...] line 3"),
        ("Authorization: Bearer abc.def failed", "Authorization: [...] failed"),
        ("key sk-proj-abcd1234 and eco_0123456789", "key [...] and [...]"),
        ("The model `org/model-v2` is small", "The model `model` is small"),
        ("one\nline\x00\x1b[31m", "one line  [31m"),
        (
            "temperature must be between 0 and 2: 3.5 is not, and/or n",
            "temperature must be between 0 and 2: 3.5 is not, and/or n",
        ),
    ],
)
def test_places_and_keys_stay_out_of_what_a_client_hears(words: str, heard: str) -> None:
    again = told(400, envelope(words))
    assert again is not None
    assert again.message == heard


@given(before=st.text(max_size=2 * MAX_MESSAGE), after=st.text(max_size=20))
def test_whatever_surrounds_it_the_key_is_not_heard_and_the_line_is_short(before: str, after: str) -> None:
    again = told(400, envelope(before + KEY + after))
    assert again is not None
    assert KEY not in str(again)
    assert len(again.message) <= MAX_MESSAGE
    assert again.message.isprintable()


def test_it_takes_no_longer_for_hostile_words() -> None:
    for words in ("a-" * 500_000, "a." * 500_000, ":" * 1_000_000, "/a" * 500_000, "1." * 500_000):
        again = told(400, envelope(words))
        assert again is not None
        assert len(again.message) <= MAX_MESSAGE


def test_discretion_does_not_show_what_it_hides() -> None:
    assert KEY not in repr(DISCRETION)
