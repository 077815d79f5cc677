"""A dozen of the rules on SmolLM2, whose tokens are words and parts of characters."""

import json
import math
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from tests.live_server import Live, serving
from tests.rules.conftest import Api, calls_of

from ecocore.runtime import Runtime

pytestmark = pytest.mark.weights

TOKENS = 16
STORY: dict[str, Any] = {"messages": [{"role": "user", "content": "Tell me about the sea."}], "max_tokens": TOKENS}
CAPITAL: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"type": "string", "enum": ["c", "f"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, smollm2: Runtime) -> Iterator[Live]:
    with serving(tmp_path_factory.mktemp("smollm2"), model=smollm2) as server:
        yield server


@pytest.fixture(scope="module")
def api(embedded: Live) -> Iterator[Api]:
    asking = Api(embedded, embedded.runtime.model_id)
    with asking.client:
        yield asking


@pytest.fixture(scope="module")
def story(api: Api) -> str:
    """What the model says at temperature 0."""
    return api.text(**STORY)


def test_rule_03_greedy_needs_no_seed(api: Api, story: str) -> None:
    assert api.text(**STORY, seed=5, top_p=0.2) == story == api.text(**STORY, temperature=1.5, top_p=0)


def test_rule_04_a_seed_repeats_and_choices_differ(api: Api) -> None:
    asked: dict[str, Any] = {**STORY, "temperature": 1, "seed": 12, "n": 3}
    choices = api.chat(**asked).choices
    assert len({choice.message.content for choice in choices}) == 3
    assert api.chat(**asked).choices == choices


def test_rule_05_neighbours_and_prefix_hits_change_no_bit(api: Api, story: str) -> None:
    asked: dict[str, Any] = {**STORY, "logprobs": True, "top_logprobs": 2}
    alone = api.chat(**asked).choices
    neighbours = [
        threading.Thread(
            target=api.text,
            kwargs={"messages": [{"role": "user", "content": f"{number} " * 5 * number}], "max_tokens": 8, "temperature": 1},
        )
        for number in range(5)
    ]
    for thread in neighbours:
        thread.start()
    crowded = api.chat(**asked).choices
    for thread in neighbours:
        thread.join()
    assert crowded == alone
    assert alone[0].message.content == story


def test_rule_06_a_ban_is_kept(api: Api, story: str) -> None:
    words = {entry.token for entry in api.chat(**STORY, logprobs=True).choices[0].logprobs.content}  # type: ignore[union-attr]
    banned = api.live.runtime.tokenizer.encode(" the")
    assert len(banned) == 1
    assert " the" in words
    assert " the" not in {
        entry.token
        for entry in api.chat(**STORY, logprobs=True, logit_bias={str(banned[0]): -100}).choices[0].logprobs.content  # type: ignore[union-attr]
    }


def test_rule_08_the_models_end_token_is_a_stop_and_counts(api: Api) -> None:
    answer = api.chat(**CAPITAL)
    assert answer.usage is not None
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == "The capital of France is Paris."
    told = api.chat(**CAPITAL, logprobs=True).choices[0].logprobs
    assert told is not None
    assert answer.usage.completion_tokens == len(told.content or ()) + 1


def test_rule_10_a_stop_string_spans_tokens_and_begins_inside_one(api: Api, story: str) -> None:
    words = story.split()
    stop = f"{words[3][1:]} {words[4][:1]}"
    assert api.text(**STORY, stop=[stop]) == story.partition(stop)[0] == "".join(api.pieces(**STORY, stop=[stop]))


def test_rule_14_a_stream_is_its_plain_answer(api: Api) -> None:
    emoji = {"messages": [{"role": "user", "content": "Reply with many emoji: 🌊🔥🌱 日本語"}], "max_tokens": 24}
    for fields in ({"seed": 3, "temperature": 1.2}, {"temperature": 0}):
        assert "".join(api.pieces(**emoji, **fields)) == api.text(**emoji, **fields)


def test_rule_16_a_stream_counts_as_its_plain_answer(api: Api) -> None:
    usage = api.chunks(**STORY, stream_options={"include_usage": True})[-1].usage
    plain = api.chat(**STORY).usage
    assert usage is not None
    assert plain is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (plain.prompt_tokens, plain.completion_tokens)


def test_rule_21_sampling_moves_no_logprob(api: Api) -> None:
    """At the first position, where all answers have the same past."""
    told = [
        api.chat(**{**STORY, "max_tokens": 1}, logprobs=True, top_logprobs=20, **fields).choices[0].logprobs.content[0]  # type: ignore[union-attr, index]
        for fields in ({"temperature": 0}, {"temperature": 1.7, "top_p": 0.3, "seed": 1}, {"frequency_penalty": 1.0})
    ]
    first = told[0].top_logprobs
    assert all(entry.top_logprobs == first for entry in told)
    assert all(entry.logprob == next(top.logprob for top in first if top.token == entry.token) for entry in told)
    assert 0.2 < sum(math.exp(top.logprob) for top in first) <= 1 + 1e-6


def test_rule_22_joined_bytes_are_the_content(api: Api) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Write 🌊 and 海."}], "max_tokens": 20, "seed": 4}
    choice = api.chat(**asked, temperature=1.3, logprobs=True, top_logprobs=3).choices[0]
    assert choice.logprobs is not None
    joined = b"".join(bytes(entry.bytes or ()) for entry in choice.logprobs.content or ())
    assert joined.decode("utf-8", "replace") == choice.message.content


def test_rule_23_a_required_call_fits_its_schema(api: Api) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER, "strict": True}}
    fields: dict[str, Any] = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [tool],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 80,
    }
    choice = api.chat(**fields).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = calls_of(choice)
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER)


def test_rule_30_a_schema_is_kept(api: Api) -> None:
    schema = {"name": "weather", "schema": WEATHER, "strict": True}
    choice = api.chat(**CAPITAL, max_tokens=60, response_format={"type": "json_schema", "json_schema": schema}).choices[0]
    assert choice.finish_reason == "stop"
    told = json.loads(choice.message.content or "")
    jsonschema.validate(told, WEATHER)
    assert list(told) == ["city", "unit"]


def test_rule_32_a_developer_is_heard(api: Api) -> None:
    turns = [{"role": "user", "content": "hello"}]
    as_developer = api.text(messages=[{"role": "developer", "content": "You are a pirate."}, *turns], max_tokens=8)
    as_system = api.text(messages=[{"role": "system", "content": "You are a pirate."}, *turns], max_tokens=8)
    assert as_developer == as_system != api.text(messages=turns, max_tokens=8)


def test_rule_33_a_text_model_refuses_images(api: Api) -> None:
    turns = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}]
    assert api.refusal(messages=turns)["param"] == "messages"
