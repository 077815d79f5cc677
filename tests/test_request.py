"""The request model: every field checked, the field at fault named, nothing silently dropped."""

from typing import Any

import numpy as np
import pytest

from ecocore.errors import InvalidParameter, InvalidRequest, UnsupportedParameter
from ecocore.request import ChatRequest, SamplingParams

BASE: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def parse(**fields: Any) -> ChatRequest:
    return ChatRequest.parse({**BASE, **fields})


def test_defaults_are_the_api_pages() -> None:
    params = parse().sampling()
    assert (params.temperature, params.top_p, params.max_tokens, params.seed) == (1.0, 1.0, None, None)


def test_null_is_absent() -> None:
    assert parse(temperature=None, stop=None, seed=None, stream_options=None) == parse()


def test_the_newer_limit_wins() -> None:
    assert parse(max_tokens=5, max_completion_tokens=7).sampling().max_tokens == 7


def test_text_parts_are_joined_by_a_newline() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert parse(messages=[{"role": "user", "content": parts}]).messages[0].content == "a\nb"


def test_logit_bias_takes_the_ids_that_json_spells_as_strings() -> None:
    assert parse(logit_bias={"42": -100, "7": 0.5}).logit_bias == {42: -100.0, 7: 0.5}


def test_one_stop_string_is_a_list_of_one() -> None:
    assert parse(stop="END").stop == ("END",)
    assert parse(stop=["a", "b"]).stop == ("a", "b")
    assert parse(stop=[]).stop == ()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": -0.1}, "temperature", "decimal_below_min_value"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"temperature": float("nan")}, "temperature", "invalid_value"),
        ({"top_p": 1.01}, "top_p", "decimal_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": 2**31}, "max_tokens", "integer_above_max_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": True}, "max_completion_tokens", "invalid_type"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "decimal_above_max_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["x" * 1025]}, "stop", "invalid_value"),
        ({"stop": ["x"] * 17}, "stop", "array_above_max_length"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": "\ud800"}, "stop", "invalid_value"),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, "messages", "invalid_value"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "integer_above_max_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages", "invalid_type"),
        ({"model": 5}, "model", "invalid_type"),
        ({"n": 9}, "n", "integer_above_max_value"),
    ],
)
def test_bad_values_name_their_field(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse(**fields)
    assert (raised.value.param, raised.value.code) == (param, code)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_what_this_version_cannot_answer_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        parse(**fields)
    assert raised.value.param == param


def test_neutral_forms_of_unsupported_fields_pass() -> None:
    assert parse(n=1, tools=[], tool_choice="none", response_format={"type": "text"}, vendor_extra=1) == parse()


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_required_fields_are_named(missing: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        ChatRequest.parse({name: value for name, value in BASE.items() if name != missing})
    assert (raised.value.param, raised.value.code) == (missing, "missing_required_parameter")


def test_sampling_params_refuse_unknown_names() -> None:
    with pytest.raises(InvalidParameter) as raised:
        SamplingParams(temprature=1.0)
    assert (raised.value.param, raised.value.code) == ("temprature", "unknown_parameter")


def test_sampling_params_take_history_prompt_and_mask() -> None:
    params = SamplingParams(history=[1, 2], prompt=np.array([3]), mask=np.array([True, False]))
    assert params.history == (1, 2)
    assert params.mask is not None
    assert params.mask.dtype == np.bool_
