"""One streamed chat: what its outcome tells, of good answers and of every kind of bad one."""

import json
from typing import Any

import pytest
from tests.bench.fake_server import DONE, event, usage

from ecocore.bench.answer import ChatAnswer, error_words
from ecocore.bench.http1 import Head
from ecocore.bench.outcome import Outcome

SSE = {"content-type": "text/event-stream"}


def hear(*pieces: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Outcome:
    """The outcome of an answer whose pieces arrive a second apart, the first at 1."""
    outcome = Outcome(0, due=0.0)
    answer = ChatAnswer(outcome, keep_text=True)
    answer.on_head(Head(status, SSE if headers is None else headers), 0.5)
    for number, piece in enumerate(pieces):
        answer.on_body(piece, 1.0 + number)
    answer.on_end()
    return outcome


def delta(**fields: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": fields, "finish_reason": None}]}).encode() + b"\n\n"


def test_a_good_answer_gives_times_text_and_usage() -> None:
    role = delta(role="assistant", content="")
    end = event(finish_reason="length", system_fingerprint="fp_1")
    outcome = hear(role, event("one ") + event("two "), event("three"), end + usage(9, 4) + DONE)
    assert outcome.failure is None
    assert list(outcome.times) == [2.0, 2.0, 3.0]
    assert "".join(outcome.text or ()) == "one two three"
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (9, 4)
    assert (outcome.finish_reason, outcome.fingerprint, outcome.head, outcome.status) == ("length", "fp_1", 0.5, 200)


@pytest.mark.parametrize(
    "fields",
    [
        {"content": "x"},
        {"reasoning_content": "x"},
        {"reasoning": "x"},
        {"refusal": "x"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
    ],
)
def test_whatever_a_reader_gets_to_see_counts(fields: dict[str, Any]) -> None:
    assert list(hear(delta(**fields), DONE).times) == [1.0]


@pytest.mark.parametrize("fields", [{}, {"role": "assistant"}, {"content": ""}, {"content": None}, {"tool_calls": []}])
def test_an_event_without_content_is_no_token(fields: dict[str, Any]) -> None:
    assert list(hear(delta(**fields), DONE).times) == []


def test_an_event_cut_in_two_arrives_with_its_end() -> None:
    whole = event("one")
    assert list(hear(whole[:20], whole[20:], DONE).times) == [2.0]


@pytest.mark.parametrize(
    ("pieces", "failure"),
    [
        ([event("a")], "no [DONE]: the stream ended without data: [DONE]"),
        ([], "no [DONE]: the stream ended without data: [DONE]"),
        ([event("a"), b'data: {"error": {"message": "m", "code": "engine_error"}}\n\n'], "error event: engine_error"),
        ([b'data: {"error": {"message": "m", "code": null, "type": "server_error"}}\n\n', DONE], "error event: server_error"),
        ([b'data: {"error": "out of memory"}\n\n', DONE], "error event: out of memory"),
        ([b"data: {\n\n", DONE], "malformed: an event is no JSON object: b'{'"),
        ([b"data: [1]\n\n", DONE], "malformed: an event is no JSON object: b'[1]'"),
        ([b'data: {"choices": [5]}\n\n', DONE], "malformed: an event is no chunk of a chat: "),
        ([b'data: {"choices": 5}\n\n', DONE], "malformed: an event is no chunk of a chat: "),
        ([b'data: {"choices": [], "usage": {"total_tokens": 5}}\n\n', DONE], "malformed: an event is no chunk of a chat: "),
    ],
)
def test_a_stream_that_goes_wrong_says_how(pieces: list[bytes], failure: str) -> None:
    told = str(hear(*pieces).failure)
    assert told.startswith(failure) if failure.endswith(": ") else told == failure


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (503, b'{"error": {"message": "m", "type": "server_error", "code": "overloaded"}}', "http: 503 overloaded"),
        (500, b'{"error": {"message": "m", "type": "server_error", "code": null}}', "http: 500 server_error"),
        (429, b'{"object": "error", "message": "slow down", "code": 42901}', "http: 429 42901"),
        (404, b'{"detail": "Not Found"}', "http: 404"),
        (502, b"<html>bad gateway</html>", "http: 502"),
        (302, b"", "http: 302"),
    ],
)
def test_a_refusal_is_told_by_status_and_code(status: int, body: bytes, failure: str) -> None:
    outcome = hear(body[:7], body[7:], status=status, headers={"retry-after": "2"}) if body else hear(status=status)
    assert str(outcome.failure) == failure
    assert outcome.retry_after == ("2" if body else None)
    assert not outcome.times


def test_an_answer_that_is_no_stream_is_malformed() -> None:
    outcome = hear(b'{"choices": []}', headers={"content-type": "application/json"})
    assert str(outcome.failure) == "malformed: the answer is application/json, not text/event-stream"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "no\\n such", "param": "ignore_eos", "code": "c"}}', "no such ignore_eos c"),
        (b'{"error": "plain words"}', "plain words"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>\n bad", "<html> bad"),
    ],
)
def test_the_words_of_an_error_are_found_in_any_envelope(body: bytes, words: str) -> None:
    assert error_words(body) == words
