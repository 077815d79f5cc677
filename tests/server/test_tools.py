"""Tools, formats and several choices over HTTP: what streams say is what the plain answer says."""

import json
from typing import Any

import openai
import pytest
from tests.live_server import MODEL, Live

HELLO: Any = [{"role": "user", "content": "hello"}]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"town": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": SCHEMA, "strict": True}},
    {"type": "function", "function": {"name": "now"}},
]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}


def whole(client: openai.OpenAI, **asked: Any) -> list[tuple[Any, ...]]:
    """Every choice of a plain answer: text, calls, reason."""
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, **asked)
    told = []
    for choice in answer.choices:
        calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or []]
        told.append((choice.message.content or "", calls, choice.finish_reason))
    return told


def streamed(client: openai.OpenAI, **asked: Any) -> list[tuple[Any, ...]]:
    """The same, put together from a stream; the form of each delta is checked on the way."""
    texts: dict[int, str] = {}
    calls: dict[int, list[list[str]]] = {}
    reasons: dict[int, str] = {}
    for chunk in client.chat.completions.create(model=MODEL, messages=HELLO, stream=True, **asked):
        (choice,) = chunk.choices
        assert choice.index not in reasons, "nothing follows the end of a choice"
        texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        own = calls.setdefault(choice.index, [])
        for delta in choice.delta.tool_calls or []:
            assert delta.function is not None
            if delta.index == len(own):
                assert delta.id
                assert (delta.type, delta.function.arguments) == ("function", "")
                own.append([delta.function.name or "", ""])
            else:
                assert (delta.id, delta.type, delta.function.name) == (None, None, None)
                own[delta.index][1] += delta.function.arguments or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    return [(texts[number], [tuple(call) for call in calls[number]], reasons[number]) for number in sorted(texts)]


@pytest.mark.parametrize(
    "asked",
    [
        {"tools": TOOLS, "tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
        {"tools": TOOLS, "tool_choice": NAMED, "n": 3},
        {"tools": TOOLS, "tool_choice": "required", "max_tokens": 40},
        {"tools": TOOLS, "max_tokens": 60},
        {"tools": TOOLS, "tool_choice": "none", "max_tokens": 60},
        {"response_format": FORMAT, "n": 3},
        {"response_format": {"type": "json_object"}, "max_tokens": 60},
        {"tools": TOOLS, "response_format": FORMAT, "max_tokens": 200},
        {"n": 8, "max_tokens": 30},
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_stream_says_what_the_plain_answer_says(live: Live, asked: dict[str, Any], seed: int) -> None:
    with live.client() as client:
        plain = whole(client, seed=seed, **asked)
        assert streamed(client, seed=seed, **asked) == plain
    assert len(plain) == asked.get("n", 1)


def test_calls_have_no_content_and_ids_of_their_own(live: Live) -> None:
    with live.client() as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, tools=TOOLS, tool_choice=NAMED, n=2, seed=1)
    ids = set()
    for choice in answer.choices:
        assert choice.message.content is None
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls or []
        assert call.type == "function"
        ids.add(call.id)
        assert list(json.loads(call.function.arguments)) == ["town", "days"]
    assert len(ids) == 2


def test_a_conversation_goes_on_after_a_call(live: Live) -> None:
    with live.client() as client:
        asked: dict[str, Any] = {"model": MODEL, "tools": TOOLS, "seed": 1}
        first = client.chat.completions.create(messages=HELLO, tool_choice=NAMED, **asked).choices[0].message
        (call,) = first.tool_calls or []
        turns: list[Any] = [*HELLO, first, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
        answer = client.chat.completions.create(messages=turns, tool_choice="none", max_tokens=5, **asked)
        assert answer.choices[0].finish_reason == "length"
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(messages=turns[:2], max_tokens=5, **asked)
    assert refused.value.param == "messages"


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format", "missing_required_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "odd"}}}},
            "response_format",
            "invalid_json_schema",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools", "unsupported_parameter"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"audio": {"voice": "alloy", "format": "mp3"}}, "audio", "unsupported_parameter"),
        ({"chat_template_kwargs": {"documents": []}}, "chat_template_kwargs", "unknown_parameter"),
        ({"stop_token_ids": [9999]}, "stop_token_ids", "invalid_value"),
    ],
)
def test_what_cannot_be_done_is_named(live: Live, fields: dict[str, Any], param: str, code: str) -> None:
    response = live.chat(**fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


def test_a_client_that_leaves_ends_all_its_choices(slow: Live) -> None:
    connection = slow.raw(slow.raw_chat(stream=True, n=8, max_tokens=5000))
    assert slow.becomes_busy(8)
    connection.close()
    assert slow.becomes_idle()
