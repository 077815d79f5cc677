"""A request that is told again, to another process: whatever was sent, an equal one is read there."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecocore.request import ChatRequest
from ecocore.request.sampling import SamplingParams

HELLO: list[Any] = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"b": {"default": None, "enum": [None, 1e300, -0.0, 10**40]}, "a": True}}
TOOL = {"extra": {"z": [1, None]}, "type": "function", "function": {"parameters": SCHEMA, "name": "f", "strict": True, "odd": 1}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
SENT: dict[str, dict[str, Any]] = {
    "least": {},
    "messages": {
        "messages": [
            {"role": "system", "content": "be \u20ac"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://x/y"}}],
            },
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "hm"},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "refusal": "no", "name": "x"},
            {"role": "user", "content": [{"type": "text", "text": "go on"}]},
        ]
    },
    "sampling": {
        "n": 3,
        "temperature": 0.1,
        "top_p": 1,
        "top_k": 5,
        "seed": -(2**63),
        "logit_bias": {"7": -100, "8": 0.5},
        "stop": "x",
        "stop_token_ids": [1, 2],
        "logprobs": True,
        "top_logprobs": 20,
        "max_tokens": 4,
        "max_completion_tokens": 7,
        "min_tokens": 2,
        "ignore_eos": True,
    },
    "tools": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "parallel_tool_calls": False},
    "some tools": {
        "tools": [TOOL],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}]},
        },
    },
    "schema": {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": SCHEMA, "strict": True, "description": "d"},
        }
    },
    "loose schema": {"response_format": {"type": "json_object", "schema": SCHEMA}},
    "any object": {"response_format": {"type": "json_object"}},
    "the rest": {
        "stream": True,
        "stream_options": {"include_usage": True},
        "chat_template_kwargs": {"enable_thinking": False, "date_string": "today"},
        "cache_salt": "mine",
        "priority": 3,
        "reasoning_effort": "low",
        "metadata": {"a": "b"},
        "modalities": ["text"],
        "prediction": {"type": "content", "content": None},
        "user": "u",
        "service_tier": "auto",
        "unknown": [1, {"nobody": None}],
    },
    "nulls": {"seed": None, "stop": None, "tools": None, "response_format": None, "logit_bias": None},
}


def again(request: ChatRequest) -> ChatRequest:
    return ChatRequest.parse(json.loads(json.dumps(request.told_again(), ensure_ascii=False)))


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT.keys())
def test_it_is_equal_and_says_the_same(sent: dict[str, Any]) -> None:
    request = ChatRequest.parse({"model": "m", "messages": HELLO, **sent})
    second = again(request)
    assert second == request
    # The order in which a tool was written is what the model is shown.
    assert [json.dumps(tool.as_sent()) for tool in second.tools] == [json.dumps(tool.as_sent()) for tool in request.tools]
    assert second.tool_choice == request.tool_choice
    assert second.sampling().model_dump() == request.sampling().model_dump()


def test_every_field_is_among_those_that_were_tried() -> None:
    tried = {name for sent in SENT.values() for name in ("model", "messages", *sent)}
    rest = {field.alias or name for name, field in ChatRequest.model_fields.items()} - tried
    # All of them are numbers, hints or texts that are kept as they came.
    assert rest <= {
        *SamplingParams.model_fields,
        "add_generation_prompt",
        "continue_final_message",
        "moderation",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "store",
        "verbosity",
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


# The first use on a machine makes the tables of all characters, which takes seconds.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(schema=st.dictionaries(TEXT, JSON, max_size=4), text=TEXT, number=st.floats(0, 2))
def test_whatever_is_in_it(schema: dict[str, Any], text: str, number: float) -> None:
    sent = {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        "temperature": number,
        "prediction": schema,
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {**schema, "type": "object"}}}],
    }
    request = ChatRequest.parse(sent)
    assert again(request) == request
    assert json.dumps(again(request).told_again()) == json.dumps(request.told_again())
