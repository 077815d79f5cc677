"""What a request holds while its answer is on its way: nothing of itself."""

import gc
import json
from contextlib import ExitStack
from typing import Any

import pytest

from ecocore.request import ChatRequest
from ecocore.server.completions import CompletionRequest
from ecocore.server.guard import Limits
from ecocore.server.responses import ResponsesRequest

MODEL = "some-maker/some-model"
HELLO = [{"role": "user", "content": "hello"}]
ENDPOINTS = pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 5000}),
        ("/v1/completions", {"prompt": "hello", "echo": True, "max_tokens": 5000}),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 5000}),
    ],
    ids=["chat", "completions", "responses"],
)


def body(**fields: Any) -> bytes:
    return json.dumps({"model": MODEL, "temperature": 0, "stream": True, **fields}).encode()


@ENDPOINTS
def test_the_room_for_large_bodies_is_free_while_answers_are_told(serving_with: Any, path: str, fields: dict[str, Any]) -> None:
    """Five bodies, of which four fill the room: none of the five slow answers holds its own."""
    limits = Limits(small_body_bytes=1000, large_bodies_bytes=42_000)
    large = body(**fields, vendor_extra="x" * 10_000)
    with serving_with(tokens_per_second=50.0, limits=limits, grace=0.2) as live, live.http() as http, ExitStack() as answers:
        # An iterator that nobody holds closes its answer.
        going_on = []
        for _ in range(5):
            answer = answers.enter_context(http.stream("POST", path, content=large))
            assert answer.status_code == 200
            going_on.append(answer.iter_bytes())
            assert next(going_on[-1])
        assert live.runtime.stats()["open"] == 5


@ENDPOINTS
def test_a_request_is_let_go_once_its_answer_begins(slow: Any, path: str, fields: dict[str, Any]) -> None:
    with slow.http() as http, http.stream("POST", path, content=body(**fields, seed=424242)) as answer:
        pieces = answer.iter_bytes()
        assert next(pieces)
        gc.collect()
        alive = [thing for thing in gc.get_objects() if type(thing) in (ChatRequest, CompletionRequest, ResponsesRequest)]
        requests = [getattr(thing, "request", thing) for thing in alive]
        assert [request for request in requests if request.seed == 424242] == []
        assert slow.runtime.stats()["open"] == 1
