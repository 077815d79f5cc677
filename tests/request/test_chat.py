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


@pytest.mark.parametrize("field", ["chat_template_kwargs", "metadata", "logit_bias"])
def test_null_is_absent_inside_objects_too(field: str) -> None:
    value = {"enable_thinking": True} if field == "chat_template_kwargs" else {"1": 1 if field == "logit_bias" else "a"}
    absent = {"date_string": None} if field == "chat_template_kwargs" else {"2": None}
    assert getattr(parse(**{field: {**value, **absent}}), field) == getattr(parse(**{field: value}), field)
    assert not getattr(parse(**{field: absent}), field)


def test_the_newer_limit_wins() -> None:
    assert parse(max_tokens=5, max_completion_tokens=7).sampling().max_tokens == 7


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
        ({"logit_bias": {"1": 1, "01": 5}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {1: 1, "1": 1}}, "logit_bias", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["x" * 1025]}, "stop", "string_above_max_length"),
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
        ({"messages": [BASE["messages"][0]] * 4097}, "messages", "array_above_max_length"),
        ({"model": 5}, "model", "invalid_type"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 9}, "n", "integer_above_max_value"),
        ({"n": 10**9}, "n", "integer_above_max_value"),
        ({"top_k": -1}, "top_k", "integer_below_min_value"),
        ({"min_p": 1.5}, "min_p", "decimal_above_max_value"),
        ({"typical_p": 0.0}, "typical_p", "decimal_below_min_value"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "decimal_below_min_value"),
        ({"min_tokens": -1}, "min_tokens", "integer_below_min_value"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "invalid_value"),
        ({"ignore_eos": 1}, "ignore_eos", "invalid_type"),
        ({"stop_token_ids": 5}, "stop_token_ids", "invalid_type"),
        ({"stop_token_ids": [-1]}, "stop_token_ids", "integer_below_min_value"),
        ({"stop_token_ids": [0] * 65}, "stop_token_ids", "array_above_max_length"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "invalid_type"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "unknown_parameter"),
        ({"chat_template_kwargs": {"enable_thinking": 1}}, "chat_template_kwargs", "invalid_type"),
        ({"chat_template_kwargs": {"date_string": "x" * 65}}, "chat_template_kwargs", "string_above_max_length"),
        ({"cache_salt": ""}, "cache_salt", "invalid_value"),
        ({"continue_final_message": True}, "continue_final_message", "invalid_value"),
        ({"add_generation_prompt": "no"}, "add_generation_prompt", "invalid_type"),
        ({"metadata": {"a": 1}}, "metadata", "invalid_type"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata", "array_above_max_length"),
        ({"metadata": {"a" * 65: ""}}, "metadata", "string_above_max_length"),
        ({"metadata": {"a": "b" * 513}}, "metadata", "string_above_max_length"),
        ({"user": "u" * 513}, "user", "string_above_max_length"),
        ({"safety_identifier": "s" * 513}, "safety_identifier", "string_above_max_length"),
        ({"prompt_cache_key": "k" * 513}, "prompt_cache_key", "string_above_max_length"),
        ({"prompt_cache_retention": "x" * 65}, "prompt_cache_retention", "string_above_max_length"),
        ({"service_tier": "x" * 65}, "service_tier", "string_above_max_length"),
        ({"verbosity": "x" * 65}, "verbosity", "string_above_max_length"),
        ({"store": "yes"}, "store", "invalid_type"),
        ({"prediction": {"a": float("inf")}}, "prediction", "invalid_value"),
    ],
)
def test_bad_values_name_their_field(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse(**fields)
    assert (raised.value.param, raised.value.code) == (param, code)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"audio": {"voice": "alloy"}}, "audio"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"max_output_tokens": 5}, "max_output_tokens"),
        ({"guided_json": {"type": "object"}}, "guided_json"),
        ({"echo": True}, "echo"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter) as raised:
        parse(**fields)
    assert (raised.value.param, raised.value.code) == (param, "unsupported_parameter")


def test_neutral_forms_and_unknown_fields_pass() -> None:
    neutral = {"n": 1, "tools": [], "modalities": ["text"], "functions": [], "function_call": "none", "vendor_extra": 1}
    assert parse(**neutral) == parse()


def test_hints_and_bookkeeping_are_accepted() -> None:
    parse(
        store=True,
        metadata={"a": "b"},
        user="u",
        safety_identifier="s",
        prompt_cache_key="k",
        prompt_cache_retention="24h",
        service_tier="default",
        prediction={"type": "content", "content": "x"},
        verbosity="low",
        reasoning_effort="high",
        moderation={"input": False},
    )


def test_the_books_may_be_full() -> None:
    metadata = {f"{number:>64}": "é" * 512 for number in range(16)}
    assert parse(metadata=metadata, user="é" * 512).metadata == metadata


def test_a_continuation_needs_text_of_the_assistant_at_the_end() -> None:
    turns = [*BASE["messages"], {"role": "assistant", "content": "The"}]
    assert parse(messages=turns, continue_final_message=True).continue_final_message
    with pytest.raises(InvalidParameter, match="add_generation_prompt"):
        parse(messages=turns, continue_final_message=True, add_generation_prompt=True)


@pytest.mark.parametrize(
    "form", [{"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}]
)
def test_a_continuation_cannot_be_held_to_json(form: Any) -> None:
    turns = [*BASE["messages"], {"role": "assistant", "content": '{"a":'}]
    with pytest.raises(InvalidParameter, match="response_format") as raised:
        parse(messages=turns, continue_final_message=True, response_format=form)
    assert (raised.value.param, raised.value.code) == ("continue_final_message", "invalid_value")
    assert parse(messages=turns, continue_final_message=True, response_format={"type": "text"}).continue_final_message


def test_an_error_says_where_and_what_in_the_words_of_the_api() -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse(messages=[*BASE["messages"], {"role": "user", "content": [{"type": "text", "text": 5}]}])
    assert str(raised.value) == "messages[1].content[0].text: must be a string"


@pytest.mark.parametrize("field", sorted(ChatRequest.model_json_schema()["properties"]))
def test_an_error_quotes_little(field: str) -> None:
    for value in ({"x" * 5000: {"y" * 5000: "{z}" * 5000}}, ["x" * 100_000], "x" * 100_000, 10**400):
        said = ""
        try:
            parse(**{field: value})
        except InvalidRequest as error:
            said = str(error)
        assert len(said) < 400
        assert "x" * 201 not in said


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
