"""What an error says: our own words, for whatever was sent, with the place and the whole choice that there was."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.request.test_chat import BASE

from ecocore.errors import InvalidRequest
from ecocore.request import ChatRequest, SamplingParams
from ecocore.server.completions import CompletionRequest
from ecocore.server.responses import ResponsesRequest

# Words of the validator, names of Python's types, tags of unions: none of them means anything to a client.
FOREIGN = re.compile(
    r"Tuple|List\b|Dict|dictionary|after validation|[Ss]tring should|Input should|[Kk]eys should|Field required|Value error|#"
    r"|\bstr\b|list\[|\bdict\b|tuple|NoneType|is not valid"
)

VALUES: tuple[Any, ...] = (
    3,
    -3,
    10**30,
    1.5,
    -0.5,
    True,
    "",
    "x",
    "x" * 2000,
    "\ud800",
    [],
    [3],
    [None],
    [""],
    [[]],
    [{}],
    [{"type": 3}],
    ["x"] * 5000,
    {},
    {"x": 1},
    {"type": "x"},
    {"type": 3},
    {"type": "function"},
    {"type": "function", "function": 3},
    {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
    {"type": "json_schema", "json_schema": {"name": ""}},
    {"1": 1000},
    {str(number): 0 for number in range(2000)},
    {"format": 3},
    {"effort": 3},
    float("nan"),
)


def said(parse: Any, fields: dict[str, Any]) -> str:
    try:
        parse(fields)
    except InvalidRequest as error:
        return str(error)
    return ""


def with_it_everywhere(value: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Requests that hold `value` in one place each, and who judges them."""
    for name in ChatRequest.model_json_schema()["properties"]:
        yield ChatRequest.parse, BASE | {name: value}
    for name in ("role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning"):
        yield ChatRequest.parse, BASE | {"messages": [{"role": "assistant", "content": "x", name: value}]}
    for part in ({"type": "text", "text": value}, {"type": "image_url", "image_url": {"url": value, "detail": value}}):
        yield ChatRequest.parse, BASE | {"messages": [{"role": "user", "content": [part]}]}
    for function in (value, {"name": value}, {"name": "f", "parameters": value}, {"name": "f", "description": value}):
        yield ChatRequest.parse, BASE | {"tools": [{"type": "function", "function": function}]}
    for name in ("input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "stream_options", "store"):
        yield ResponsesRequest.parse, {"model": "m", "input": "x", name: value}
    for name in ("prompt", "logprobs", "best_of", "echo", "suffix"):
        yield CompletionRequest.parse, {"model": "m", "prompt": "x", name: value}
    for name in ("history", "prompt", "mask", "temperature"):
        yield lambda fields: SamplingParams(**fields), {name: value}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_no_error_speaks_the_language_of_the_validator(value: Any) -> None:
    errors = [error for parse, fields in with_it_everywhere(value) if (error := said(parse, fields))]
    assert len(errors) > 20
    assert [error for error in errors if FOREIGN.search(error)] == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"messages": []}, "messages: must hold at least 1 item"),
        ({"messages": [BASE["messages"][0]] * 4097}, "messages: must hold at most 4096 items"),
        ({"cache_salt": ""}, "cache_salt: must not be empty"),
        ({"cache_salt": "x" * 257}, "cache_salt: must have at most 256 characters"),
        ({"temperature": 3}, "temperature: must be at most 2"),
        ({"temperature": -1}, "temperature: must be at least 0"),
        ({"typical_p": 0}, "typical_p: must be above 0"),
        ({"stop": 3}, "stop: must be a string or an array of strings"),
        ({"stop": [3]}, "stop[0]: must be a string"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content: must be a string or an array of parts"),
        (
            {"messages": [{"role": "x", "content": ""}]},
            "messages[0].role: must be 'system', 'developer', 'user', 'assistant' or 'tool'",
        ),
        ({"tool_choice": 3}, "tool_choice: must be 'none', 'auto', 'required' or an object"),
        ({"tool_choice": {"type": "x"}}, "tool_choice: must be of type 'function' or 'allowed_tools', not 'x'"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}] * 2}, "tools[1].function.name: 'f' is there twice"),
        ({"metadata": {"a": 1}}, "metadata.a: must be a string"),
    ],
)
def test_an_error_names_the_place_and_what_is_allowed(fields: dict[str, Any], words: str) -> None:
    assert said(ChatRequest.parse, BASE | fields) == words
