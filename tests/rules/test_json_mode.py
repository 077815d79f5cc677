"""Rules 29 to 31: JSON where JSON was asked for, from a model that is noise."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rules.conftest import Api, calls_of
from tests.rules.speaker import Speaker, speaking
from tests.rules.test_tools import SCHEMAS, TOOLS, called

OBJECT = {"type": "json_object"}


def schema_format(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True, **fields}}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Speaker]]:
    with speaking(tmp_path_factory.mktemp("speaker")) as api_and_speaker:
        yield api_and_speaker


@pytest.fixture
def api(room: tuple[Api, Speaker]) -> Api:
    return room[0]


@pytest.fixture
def speaker(room: tuple[Api, Speaker]) -> Speaker:
    room[1].says = b""
    return room[1]


# --- 29: json_object ------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.sampled_from([20, 200, 2000]))
def test_rule_29_an_object_or_a_cut_one(room: tuple[Api, Speaker], seed: int, limit: int) -> None:
    """No message needs to say "json"."""
    api, speaker = room
    speaker.says = b""
    asked: dict[str, Any] = {"response_format": OBJECT, "temperature": 1, "seed": seed, "max_tokens": limit}
    choice = api.chat(**asked).choices[0]
    content = choice.message.content or ""
    assert "".join(api.pieces(**asked)) == content
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(content), dict)
    else:
        assert choice.finish_reason == "length"
        assert content.startswith("{")


def test_rule_29_what_the_model_wants_to_say_is_said_if_it_may_be(api: Api, speaker: Speaker) -> None:
    speaker.says = b'{"summary": "\\u00e9 \\ud83d\\ude00 \\"\\n\\\\", "more": [1, 2.5e3, true, null, {"a": {}}]}'
    choice = api.chat(response_format=OBJECT).choices[0]
    assert (choice.message.content, choice.finish_reason) == (speaker.says.decode(), "stop")


def test_rule_01_the_grammar_comes_before_top_k_and_temperature(api: Api, speaker: Speaker) -> None:
    """The model's own choice is forbidden at every step; were it counted, top_k 1 would leave nothing to draw."""
    speaker.says = b"<" * 400
    for fields in ({"top_k": 1, "temperature": 1}, {"top_p": 0.01, "temperature": 1}, {"min_p": 1, "temperature": 1}, {}):
        content = (
            api.chat(response_format=schema_format(SCHEMAS["numbers"]), max_tokens=2000, **fields).choices[0].message.content
        )
        jsonschema.validate(json.loads(content or ""), SCHEMAS["numbers"])


def test_rule_21_a_grammar_moves_the_draw_and_not_its_logprob(api: Api, speaker: Speaker) -> None:
    speaker.says = b"<" * 10
    told = api.chat(response_format=OBJECT, logprobs=True, top_logprobs=1, max_tokens=1).choices[0]
    assert told.logprobs is not None
    assert told.logprobs.content is not None
    (entry,) = told.logprobs.content
    assert entry.token == told.message.content == "{"
    assert entry.logprob == pytest.approx(-30, abs=1e-5)
    assert entry.top_logprobs[0].token == "<"


# --- 30: json_schema ------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(SCHEMAS)), strict=st.booleans())
def test_rule_30_an_answer_fits_its_schema_and_ends_right_after(
    room: tuple[Api, Speaker], *, seed: int, name: str, strict: bool
) -> None:
    api, speaker = room
    speaker.says = b""
    form = schema_format(SCHEMAS[name], strict=strict)
    choice = api.chat(response_format=form, temperature=1, seed=seed, max_tokens=4000).choices[0]
    content = choice.message.content or ""
    told = json.loads(content)
    jsonschema.validate(told, SCHEMAS[name])
    assert choice.finish_reason == "stop"
    assert content[0] == "{"
    assert content[-1] == "}"
    wanted = [key for key in SCHEMAS[name]["properties"] if key in told]
    assert list(told) == wanted


def test_rule_30_white_space_is_bounded(api: Api, speaker: Speaker) -> None:
    """A model that wants nothing but blanks still comes to its end."""
    for blank in (b" ", b"\n", b"\t"):
        speaker.says = blank * 5000
        choice = api.chat(response_format=schema_format(SCHEMAS["numbers"]), max_tokens=3000).choices[0]
        assert choice.finish_reason == "stop"
        assert len(choice.message.content or "") < 300
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMAS["numbers"])


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {}},
        {"type": "json_schema", "json_schema": {"name": "a"}},
        {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
        {"type": "json_schema", "json_schema": {"name": "a b", "schema": {"type": "object"}}},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": "object"}},
        {"type": "grammar"},
        {"type": None},
        {},
        "json_object",
        schema_format({"type": "no such type"}),
        schema_format({"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}),
        schema_format({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
        schema_format({"type": "object", "unevaluatedProperties": False, "properties": {}}),
        schema_format({"not": {"type": "string"}}),
        schema_format({"type": "array", "uniqueItems": True, "items": {"type": "integer"}}),
    ],
    ids=str,
)
def test_rule_30_what_cannot_be_kept_is_told(api: Api, form: Any) -> None:
    assert api.refusal(response_format=form)["param"] == "response_format"


def test_rule_30_text_is_a_format_too(api: Api, speaker: Speaker) -> None:
    speaker.says = b"plain"
    assert api.text(response_format={"type": "text"}) == "plain"


# --- 31: with tools -------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}], ids=str)
def test_rule_31_a_forced_call_wins_over_the_format(api: Api, speaker: Speaker, choice: Any) -> None:
    speaker.says = called("get_weather")
    answer = api.chat(tools=TOOLS, tool_choice=choice, response_format=OBJECT, parallel_tool_calls=False).choices[0]
    (call,) = calls_of(answer)
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert (answer.message.content, answer.finish_reason) == (None, "tool_calls")


def test_rule_31_without_calls_the_format_holds(api: Api, speaker: Speaker) -> None:
    speaker.says = called("get_weather")
    form = schema_format(SCHEMAS["numbers"])
    answer = api.chat(tools=TOOLS, tool_choice="none", response_format=form, max_tokens=500).choices[0]
    assert answer.message.tool_calls is None
    jsonschema.validate(json.loads(answer.message.content or ""), SCHEMAS["numbers"])


def test_rule_31_each_choice_keeps_the_format(api: Api, speaker: Speaker) -> None:
    form = schema_format(SCHEMAS["numbers"])
    choices = api.chat(response_format=form, n=4, temperature=1, seed=2, max_tokens=500).choices
    for choice in choices:
        jsonschema.validate(json.loads(choice.message.content or ""), SCHEMAS["numbers"])
    assert len({choice.message.content for choice in choices}) == 4
