"""Every number, list and name of a request beyond its bound: told as a 400, before any of it costs anything."""

import time
from typing import Any

import pytest
from tests.abuse.server import BLIND
from tests.abuse.target import Target

HUGE = [10**9, 2**31, 2**63, 2**64, 10**300, -1, -(10**9), -(2**63) - 1, 1e308, 1.5, "1", True, [], {}, [1]]

FIELDS = ["n", "max_tokens", "max_completion_tokens", "top_k", "top_logprobs", "seed", "min_tokens"]


@pytest.mark.parametrize("field", FIELDS)
def test_no_number_is_taken_at_its_word(target: Target, field: str) -> None:
    """CVE-2026-34756: n = 10^9 made as many copies before the queue."""
    for value in HUGE:
        begun = time.monotonic()
        answer = target.chat(**{field: value, "logprobs": True} if field == "top_logprobs" else {field: value})
        if answer.status == 200:
            assert (field, value) in {("seed", 10**9), ("seed", 2**31), ("seed", -1), ("seed", -(10**9)), ("top_k", 10**9)} or (
                field in ("max_tokens", "max_completion_tokens") and value == 10**9
            )
            continue
        assert (answer.status, answer.error["param"]) == (400, field)
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": 10**300},
        {"top_p": -0.1},
        {"top_p": 1.1},
        {"min_p": 2},
        {"typical_p": 0},
        {"repetition_penalty": 0},
        {"repetition_penalty": -1},
        {"frequency_penalty": 2.1},
        {"presence_penalty": -2.1},
        {"logit_bias": {"1": 101}},
        {"logit_bias": {"-1": 1}},
        {"logit_bias": {"1e3": 1}},
        {"logit_bias": {"99999999999999999999": 1}},
        {"logit_bias": {"4294967296": 1}},
        {"logit_bias": {str(number): 1 for number in range(1025)}},
        {"logit_bias": [1]},
        {"stop": ["x"] * 17},
        {"stop": ["x" * 1025]},
        {"stop": [""]},
        {"stop": [1]},
        {"stop": {"a": 1}},
        {"stop": [["x"]]},
        {"messages": []},
        {"messages": {}},
        {"messages": "x"},
        {"messages": [[]]},
        {"messages": [{"role": "user", "content": "x"}] * 4097},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 257}]},
        {"messages": [{"role": "user", "content": "x" * 1_000_000}]},
        {"messages": [{"role": "user", "content": 1}]},
        {"messages": [{"role": "user", "content": {"type": "text"}}]},
        {"messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "file:///etc/passwd"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "x" * 10_000}]}]},
        {"messages": [{"role": "root", "content": "x"}]},
        {"model": ""},
        {"model": "x" * 100_000},
        {"model": "../../../secrets"},
        {"model": ["x"]},
        {"model": 1},
        {"stream": "yes"},
        {"stream": 1},
        {"stream_options": {"include_usage": True}},
        {"logprobs": 5},
        {"top_logprobs": 5},
        {"response_format": {"type": "xml"}},
        {"response_format": {"type": "json_schema"}},
        {"response_format": "json"},
        {"tools": [{"type": "function", "function": {"name": "a"}}] * 129},
        {"tools": [{"type": "function", "function": {"name": "a" * 65}}]},
        {"tools": [{"type": "function", "function": {"name": "a b"}}]},
        {"tools": [{"type": "system"}]},
        {"tools": "x"},
        {
            "tools": [
                {"type": "function", "function": {"name": "a", "parameters": {"type": "object", "description": "x" * 300_000}}}
            ]
        },
        {"tool_choice": "required"},
        {"tool_choice": {"type": "function", "function": {"name": "absent"}}},
        {"chat_template_kwargs": {"chat_template": "{% for x in range(10**9) %}{% endfor %}"}},
        {"chat_template_kwargs": {"tokenize": True}},
        {"chat_template_kwargs": {"__class__": "x"}},
        {"audio": {"voice": "x"}},
        {"modalities": ["audio"]},
        {"web_search_options": {}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_what_is_out_of_bounds_names_its_field(target: Target, fields: dict[str, Any]) -> None:
    begun = time.monotonic()
    answer = target.chat(**fields)
    (field,) = fields
    assert (answer.status, answer.error["param"]) in ((400, field), (404, field))
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    "field",
    ["chat_template", "documents", "n_discard", "lora", "cache_prompt", "add_special_tokens"],
)
def test_what_other_servers_obey_is_ignored(target: Target, field: str) -> None:
    """A template of the client's own never runs: CVE-2025-61620, and CVE-2026-21869's n_discard."""
    for value in ("{% for x in range(10**9) %}{% for y in range(10**9) %}{% endfor %}{% endfor %}", -(10**9), [{"x": 1}]):
        assert target.chat(**{field: value}).status == 200


@pytest.mark.parametrize("field", ["guided_json", "guided_regex", "guided_choice", "guided_grammar"])
def test_a_grammar_of_the_clients_own_never_runs(target: Target, field: str) -> None:
    values: tuple[Any, ...] = ("(a+)+$" * 1000, -(10**9), [{"x": 1}], {})
    for value in values:
        answer = target.chat(**{field: value})
        assert (answer.status, answer.error["param"], answer.error["code"]) == (400, field, "unsupported_parameter")


def test_a_text_model_takes_no_images(target: Target) -> None:
    part = {"type": "image_url", "image_url": {"url": "https://127.0.0.1/"}}
    answer = target.chat(model=BLIND, messages=[{"role": "user", "content": [part]}])
    assert (answer.status, answer.error["param"]) == (400, "messages")


def test_every_field_may_be_any_json(target: Target) -> None:
    """Wrong kinds in every place: no value of any field is a 500."""
    values: list[Any] = [None, True, -1, 0.5, "x", "", [], [[]], {}, {"a": {}}, [None], "\0", 2**70]
    fields = [
        *FIELDS,
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "stop",
        "logit_bias",
        "logprobs",
        "tools",
    ]
    fields += [
        "tool_choice",
        "response_format",
        "parallel_tool_calls",
        "user",
        "metadata",
        "store",
        "modalities",
        "reasoning_effort",
    ]
    fields += ["chat_template_kwargs", "continue_final_message", "ignore_eos", "stop_token_ids", "functions", "function_call"]
    for field in fields:
        for value in values:
            assert target.chat(**{field: value}).status in (200, 400, 404)
    for key in ("role", "content", "name", "tool_calls", "tool_call_id"):
        for value in values:
            assert target.chat(messages=[{"role": "user", "content": "x", key: value}]).status in (200, 400)
