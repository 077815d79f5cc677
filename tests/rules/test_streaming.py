"""Rules 14 to 20: the bytes of a stream, from its first event to its last, and what happens when it cannot go on."""

import json
import socket
from collections.abc import Callable
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rules.conftest import Api, envelope

from ecocore.server.wire import Pace

# The bytes of characters with two, three and four, and what breaks them.
PIECES_OF_CHARACTERS = {str(byte): 100.0 for byte in {*"é€😀".encode(), ord("0")}}
CONSTANT = ("id", "created", "model", "system_fingerprint", "object")


def greedy_bytes(said: bytes) -> dict[str, Any]:
    """Fields that make the mock engine say these bytes, each of them once, at temperature 0: every draw costs a letter 2."""
    step = 1.9 / len(said)
    assert len(set(said)) == len(said)
    return {"logit_bias": {str(byte): 100 - step * place for place, byte in enumerate(said)}, "presence_penalty": 2}


# --- 14: characters are whole ---------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["é", "€", "😀", "ก", "\u07ff", "\U0010fffd"])
def test_rule_14_a_character_waits_until_it_is_whole(api: Api, character: str) -> None:
    encoded = character.encode()
    fields = greedy_bytes(encoded)
    assert api.pieces(**fields, max_tokens=len(encoded)) == [character]
    for cut in range(1, len(encoded)):
        assert api.pieces(**fields, max_tokens=cut) == ["\ufffd"] == [api.text(**fields, max_tokens=cut)]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    tokens=st.integers(1, 60),
    chosen=st.lists(st.sampled_from(["é", "€", "😀", "0", "00", "é0", "€€", "😀0", "\ufffd0"]), max_size=3),
)
def test_rule_14_a_stream_is_its_plain_answer(api: Api, seed: int, temperature: float, tokens: int, chosen: list[str]) -> None:
    """Random bytes: whole characters, halves of them, and strays."""
    fields: dict[str, Any] = {
        "logit_bias": PIECES_OF_CHARACTERS,
        "seed": seed,
        "temperature": temperature,
        "max_tokens": tokens,
        "stop": chosen,
    }
    plain, pieces = api.chat(**fields), api.pieces(**fields)
    assert "".join(pieces) == plain.choices[0].message.content
    assert all(pieces)
    if not chosen:
        entries = api.chat(**fields, logprobs=True).choices[0].logprobs
        assert entries is not None
        drawn = b"".join(bytes(entry.bytes or ()) for entry in entries.content or ())
        assert drawn.decode("utf-8", "replace") == plain.choices[0].message.content


# --- 15: the form of a stream ---------------------------------------------------------------------------


def test_rule_15_events_come_in_their_order_and_form(api: Api) -> None:
    *events, done = api.frames(max_tokens=4)
    assert done == "[DONE]"
    assert [event["choices"] for event in events] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]
        for delta, reason in [
            ({"role": "assistant", "content": ""}, None),
            *(({"content": letter}, None) for letter in api.text(max_tokens=4)),
            ({}, "length"),
        ]
    ]
    assert len({tuple(event[name] for name in CONSTANT) for event in events}) == 1
    assert all(list(event) == [*CONSTANT[:1], "object", "created", "model", "system_fingerprint", "choices"] for event in events)
    assert events[0]["id"].startswith("chatcmpl-")
    assert events[0]["object"] == "chat.completion.chunk"
    assert isinstance(events[0]["created"], int)


def test_rule_15_one_event_for_each_token(api: Api) -> None:
    assert api.pieces(max_tokens=200) == list(api.text(max_tokens=200))


def test_rule_15_the_stream_says_what_it_is(api: Api) -> None:
    response = api.post(stream=True, max_tokens=1)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.content.endswith(b'"finish_reason":"length"}]}\n\ndata: [DONE]\n\n')


def test_rule_15_what_a_model_says_cannot_break_an_event(api: Api) -> None:
    """Line ends, quotes, a backslash, NUL and DEL, in one answer."""
    said = '\n\r"\\\x00\x7f\u2028'
    fields = greedy_bytes(said.encode())
    limit = len(said.encode())
    assert api.text(**fields, max_tokens=limit) == said
    assert api.pieces(**fields, max_tokens=limit) == list(said)
    *events, _done = api.frames(**fields, max_tokens=limit)
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == said


# --- 16: usage in streams -------------------------------------------------------------------------------


def test_rule_16_usage_comes_last_and_alone_if_asked(api: Api) -> None:
    *events, usage, done = api.frames(max_tokens=4, stream_options={"include_usage": True})
    plain = api.chat(max_tokens=4).usage
    assert plain is not None
    assert done == "[DONE]"
    assert all(event["usage"] is None and len(event["choices"]) == 1 for event in events)
    assert usage["choices"] == []
    assert {name: usage["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")} == {
        "prompt_tokens": plain.prompt_tokens,
        "completion_tokens": 4,
        "total_tokens": plain.prompt_tokens + 4,
    }
    assert len({tuple(event[name] for name in CONSTANT) for event in [*events, usage]}) == 1


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None}], ids=str)
def test_rule_16_usage_does_not_come_unasked(api: Api, options: Any) -> None:
    *events, _done = api.frames(max_tokens=4, stream_options=options)
    assert all(len(event["choices"]) == 1 and "usage" not in event for event in events)


@pytest.mark.parametrize("stream", [False, None])
def test_rule_16_options_without_a_stream_are_told(api: Api, *, stream: bool | None) -> None:
    assert api.refusal(stream=stream, stream_options={"include_usage": True})["param"] == "stream_options"


# --- 17: errors in streams ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"temperature": 3}, 400), ({"model": "nobody"}, 404), ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 400)],
    ids=["range", "model", "context"],
)
def test_rule_17_before_the_first_token_an_error_has_its_status(api: Api, fields: dict[str, Any], status: int) -> None:
    response = api.post(stream=True, **fields)
    assert response.status_code == status
    envelope(response)


def test_rule_17_later_an_error_is_the_last_event(serving_with: Callable[..., Any]) -> None:
    """An answer that takes too long: its first events are out when it is given up."""
    with serving_with(tokens_per_second=20, pace=Pace(answer_seconds=0.4, tick_seconds=0.02)) as live:
        api = Api(live)
        *events, last = api.frames()
        assert [event["choices"][0]["delta"].get("content") for event in events][:2] == ["", api.text(max_tokens=1)]
        assert list(last) == ["error"]
        assert list(last["error"]) == ["message", "type", "param", "code"]
        assert (last["error"]["type"], last["error"]["code"]) == ("server_error", "overloaded")
        with pytest.raises(openai.APIError, match=r"longer than 0\.4 seconds"):
            api.chunks()
        api.client.close()


# --- 18: several choices --------------------------------------------------------------------------------


def test_rule_18_choices_interleave_by_index(api: Api) -> None:
    fields: dict[str, Any] = {"n": 3, "logit_bias": {"48": 100, "49": 100}, "temperature": 1, "seed": 5, "max_tokens": 30}
    plain = api.chat(**fields)
    *events, usage, done = api.frames(**fields, stream_options={"include_usage": True})
    assert done == "[DONE]"
    assert all(len(event["choices"]) == 1 for event in events)
    told = [event["choices"][0] for event in events]
    for choice in plain.choices:
        own = [one for one in told if one["index"] == choice.index]
        first, *middle, last = own
        assert first["delta"] == {"role": "assistant", "content": ""}
        assert "".join(one["delta"]["content"] for one in middle) == choice.message.content
        assert [one["finish_reason"] for one in own] == [None] * (len(own) - 1) + ["length"]
        assert last["delta"] == {}
    starts = [place for place, one in enumerate(told) if "role" in one["delta"]]
    ends = [place for place, one in enumerate(told) if one["finish_reason"]]
    assert max(starts) < min(ends)
    assert plain.usage is not None
    assert usage["usage"]["completion_tokens"] == plain.usage.completion_tokens == 90
    assert usage["usage"]["prompt_tokens"] == plain.usage.prompt_tokens
    assert [choice.index for choice in plain.choices] == [0, 1, 2]


def test_rule_18_the_prompt_is_counted_once(api: Api) -> None:
    one, three = api.chat(max_tokens=5).usage, api.chat(max_tokens=5, n=3).usage
    assert one is not None
    assert three is not None
    assert (three.prompt_tokens, three.completion_tokens) == (one.prompt_tokens, 15)
    assert three.total_tokens == one.prompt_tokens + 15


@pytest.mark.parametrize(
    ("n", "code"),
    [(0, "integer_below_min_value"), (9, "integer_above_max_value"), ("2", "invalid_type"), (True, "invalid_type")],
)
def test_rule_18_n_has_bounds(api: Api, n: Any, code: str) -> None:
    error = api.refusal(n=n)
    assert (error["param"], error["code"]) == ("n", code)


# --- 19: comments ---------------------------------------------------------------------------------------


def test_rule_19_a_silent_stream_has_comments_that_clients_skip(serving_with: Callable[..., Any]) -> None:
    with serving_with(tokens_per_second=4, pace=Pace(ping_seconds=0.05, tick_seconds=0.02)) as live:
        api = Api(live)
        body = api.post(stream=True, max_tokens=2).text
        blocks = body.removesuffix("\n\n").split("\n\n")
        assert {block for block in blocks if not block.startswith("data: ")} == {": ping"}
        assert next(json.loads(block[6:])["choices"][0]["delta"] for block in blocks if block.startswith("data: {"))["role"]
        assert "".join(api.pieces(max_tokens=2)) == api.text(max_tokens=2)
        api.client.close()


# --- 20: leaving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("n", [1, 3])
def test_rule_20_closing_the_socket_frees_the_work(slow: Any, *, stream: bool, n: int) -> None:
    at_rest = slow.runtime.stats()
    with slow.raw(slow.raw_chat(stream=stream, n=n)) as connection:
        assert slow.becomes_busy(n)
        if stream:
            assert connection.recv(12) == b"HTTP/1.1 200"
        connection.shutdown(socket.SHUT_RDWR)
    assert slow.becomes_idle(1.0)
    assert slow.eventually(lambda: slow.runtime.stats()["free_blocks"] == at_rest["free_blocks"], 1.0)


def test_rule_20_the_client_may_close_its_stream(slow: Any) -> None:
    api = Api(slow)
    stream = api.client.chat.completions.create(stream=True, **api.fields({}))
    next(iter(stream))
    assert slow.becomes_busy()
    stream.close()
    assert slow.becomes_idle(1.0)
    api.client.close()
