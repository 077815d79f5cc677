"""Rules 23 to 28: calls are forced, parsed, streamed and remembered as the API says.

The model here says what a test tells it, or noise that only a grammar keeps in order.
"""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rules.conftest import Api, calls_of
from tests.rules.speaker import Speaker, speaking

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"type": "string", "enum": ["c", "f"]}},
    "required": ["city"],
    "additionalProperties": False,
}


def tool(name: str, parameters: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A tool, as requests spell it."""
    schema = {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, "description": f"About {name}.", **schema, **fields}}


ZONE = {"type": "object", "properties": {"zone": {"type": "string", "maxLength": 9}}}
TOOLS = [tool("get_weather", WEATHER), tool("get_time", ZONE)]


def called(name: str, arguments: str = '{"city": "Paris"}') -> bytes:
    """A call as the mock engine's family spells it."""
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'.encode()


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


# --- 23: when tools are used ----------------------------------------------------------------------------


def test_rule_23_tools_alone_are_auto(api: Api, speaker: Speaker) -> None:
    for choice in ({}, {"tool_choice": "auto"}, {"tool_choice": None}):
        speaker.says = b"It is sunny."
        answer = api.chat(tools=TOOLS, **choice).choices[0]
        assert (answer.message.content, answer.message.tool_calls, answer.finish_reason) == ("It is sunny.", None, "stop")
        speaker.says = called("get_weather")
        answer = api.chat(tools=TOOLS, **choice).choices[0]
        assert [call.function.name for call in calls_of(answer)] == ["get_weather"]
        assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize("fields", [{}, {"tools": []}, {"tools": None}, {"tools": None, "tool_choice": "none"}], ids=str)
def test_rule_23_no_tools_are_none(api: Api, speaker: Speaker, fields: dict[str, Any]) -> None:
    speaker.says = called("get_weather")
    answer = api.chat(**fields).choices[0]
    assert (answer.message.content, answer.message.tool_calls) == (called("get_weather").decode(), None)
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize(
    "choice",
    [
        "required",
        {"type": "function", "function": {"name": "get_weather"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_weather"}}]},
        },
    ],
    ids=["required", "named", "allowed"],
)
def test_rule_23_a_forced_call_needs_its_tool(api: Api, choice: Any) -> None:
    none_at_all: tuple[Any, ...] = (None, [])
    for tools in none_at_all:
        assert api.refusal(tools=tools, tool_choice=choice)["param"] == "tool_choice"
    if choice != "required":
        assert api.refusal(tools=[tool("another")], tool_choice=choice)["param"] == "tool_choice"


@pytest.mark.parametrize("choice", ["sometimes", 7, {}, {"type": "function"}, {"type": "function", "function": {}}, []], ids=str)
def test_rule_23_an_unknown_choice_is_told(api: Api, choice: Any) -> None:
    assert api.refusal(tools=TOOLS, tool_choice=choice)["param"] == "tool_choice"


SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": WEATHER,
    "nothing": {"type": "object", "properties": {}, "additionalProperties": False},
    "numbers": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": -5, "maximum": 5}, "b": {"type": "boolean"}, "c": {"type": "null"}},
        "required": ["a", "b", "c"],
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "points": {
                "type": "array",
                "minItems": 1,
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "properties": {"x": {"enum": [1, 2, "three", None]}},
                    "required": ["x"],
                    "additionalProperties": False,
                },
            }
        },
        "required": ["points"],
        "additionalProperties": False,
    },
    "either": {
        "type": "object",
        "properties": {"v": {"anyOf": [{"type": "string", "maxLength": 3}, {"type": "boolean"}]}},
        "required": ["v"],
        "additionalProperties": False,
    },
}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(sorted(SCHEMAS)), named=st.booleans())
def test_rule_23_forced_calls_fit_their_schema_whatever_the_model_wants(
    room: tuple[Api, Speaker], *, seed: int, name: str, named: bool
) -> None:
    """The model is noise, and may end whenever the grammar lets it."""
    api, speaker = room
    speaker.says = b""
    choice: Any = {"type": "function", "function": {"name": name}} if named else "required"
    tools = [tool(other, schema, strict=True) for other, schema in SCHEMAS.items()]
    answer = api.chat(tools=tools, tool_choice=choice, temperature=1, seed=seed, max_tokens=4000).choices[0]
    assert answer.finish_reason == "tool_calls"
    calls = answer.message.tool_calls
    assert calls
    assert answer.message.content is None
    assert not named or len(calls) == 1
    for call in calls:
        assert call.type == "function"
        assert call.function.name == name or not named
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rule_23_strict_holds_under_auto_once_a_call_has_begun(room: tuple[Api, Speaker], seed: int) -> None:
    api, speaker = room
    speaker.says = b'<tool_call>\n{"name": "numbers", "arguments": '
    tools = [tool("numbers", SCHEMAS["numbers"], strict=True)]
    answer = api.chat(tools=tools, temperature=1, seed=seed, max_tokens=2000, parallel_tool_calls=False).choices[0]
    (call,) = calls_of(answer)
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS["numbers"])
    assert answer.finish_reason == "tool_calls"


def test_rule_13_stop_strings_do_not_cut_a_forced_call(api: Api, speaker: Speaker) -> None:
    speaker.says = called("get_weather")
    answer = api.chat(tools=TOOLS, tool_choice="required", stop=["name", "city", "}", '"'], parallel_tool_calls=False).choices[0]
    (call,) = calls_of(answer)
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert answer.finish_reason == "tool_calls"


# --- 24: the plain answer -------------------------------------------------------------------------------


def test_rule_24_the_form_of_a_call(api: Api, speaker: Speaker) -> None:
    speaker.says = called("get_weather") + b"\n" + called("get_time", "{}")
    choice = api.post(tools=TOOLS).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert list(first) == ["id", "type", "function"]
    assert (first["type"], first["function"]) == ("function", {"name": "get_weather", "arguments": '{"city": "Paris"}'})
    assert second["function"] == {"name": "get_time", "arguments": "{}"}
    assert first["id"] != second["id"]
    again = api.post(tools=TOOLS).json()["choices"][0]["message"]["tool_calls"]
    assert len({call["id"] for call in (first, second, *again)}) == 4


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "function": {"name": "get_weather"}}], ids=str)
def test_rule_24_every_way_ends_in_tool_calls_and_a_cut_one_in_length(api: Api, speaker: Speaker, choice: Any) -> None:
    speaker.says = called("get_weather")
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
    whole = api.chat(**asked)
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.usage is not None
    cut = api.chat(**asked, max_tokens=whole.usage.completion_tokens - 20)
    assert cut.choices[0].finish_reason == "length"
    assert cut.usage is not None
    assert cut.usage.completion_tokens == whole.usage.completion_tokens - 20


def test_rule_24_text_before_a_call_is_content(api: Api, speaker: Speaker) -> None:
    speaker.says = b"Let me look." + called("get_weather")
    answer = api.chat(tools=TOOLS).choices[0]
    assert (answer.message.content, answer.finish_reason) == ("Let me look.", "tool_calls")
    assert len(answer.message.tool_calls or ()) == 1


# --- 25: the stream -------------------------------------------------------------------------------------


def test_rule_25_a_call_streams_as_a_header_and_then_arguments_alone(api: Api, speaker: Speaker) -> None:
    speaker.says = called("get_weather") + b"\n" + called("get_time", '{"zone": "here"}')
    *events, done = api.frames(tools=TOOLS)
    assert done == "[DONE]"
    first, *middle, last = [event["choices"][0] for event in events]
    assert first["delta"]["role"] == "assistant"
    assert (last["delta"], last["finish_reason"]) == ({}, "tool_calls")
    deltas = [delta for one in middle for delta in one["delta"]["tool_calls"]]
    assert all(list(one["delta"]) == ["tool_calls"] and one["finish_reason"] is None for one in middle)
    for index, (name, arguments) in enumerate([("get_weather", '{"city": "Paris"}'), ("get_time", '{"zone": "here"}')]):
        header, *rest = [delta for delta in deltas if delta["index"] == index]
        assert header.keys() == {"index", "id", "type", "function"}
        assert (header["type"], header["function"]) == ("function", {"name": name, "arguments": ""})
        assert all(delta.keys() == {"index", "function"} and delta["function"].keys() == {"arguments"} for delta in rest)
        assert "".join(delta["function"]["arguments"] for delta in rest) == arguments
        assert len(rest) > 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), forced=st.booleans())
def test_rule_25_a_stream_of_calls_is_its_plain_answer(room: tuple[Api, Speaker], *, seed: int, forced: bool) -> None:
    api, speaker = room
    speaker.says = b"" if forced else b"Well." + called("get_weather", '{"city": "\\u00e9 ü }{ <"}')
    choice = "required" if forced else "auto"
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "temperature": 1, "seed": seed, "max_tokens": 1500}
    plain = api.chat(**asked).choices[0]
    chunks = [chunk.choices[0] for chunk in api.chunks(**asked)]
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for delta in chunk.delta.tool_calls or ():
            assert delta.function is not None
            if delta.function.name is not None:
                calls[delta.index] = [delta.function.name, ""]
            calls[delta.index][1] += delta.function.arguments or ""
    told = [[call.function.name, call.function.arguments] for call in calls_of(plain)]
    assert [calls[index] for index in sorted(calls)] == told
    assert "".join(chunk.delta.content or "" for chunk in chunks) == (plain.message.content or "")
    assert chunks[-1].finish_reason == plain.finish_reason


# --- 26: how many, and which ----------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_rule_26_without_parallel_calls_there_is_at_most_one(api: Api, speaker: Speaker, choice: str) -> None:
    speaker.says = b"\n".join([called("get_weather")] * 3)
    several = api.chat(tools=TOOLS, tool_choice=choice).choices[0]
    assert len(several.message.tool_calls or ()) == 3
    one = api.chat(tools=TOOLS, tool_choice=choice, parallel_tool_calls=False).choices[0]
    assert len(one.message.tool_calls or ()) == 1
    assert one.finish_reason == "tool_calls"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_rule_26_a_line_end_after_the_last_call_asks_for_no_more(api: Api, speaker: Speaker, choice: str) -> None:
    speaker.says = b"\n".join([called("get_weather")] * 2) + b"\n"
    answer = api.chat(tools=TOOLS, tool_choice=choice).choices[0]
    assert (len(answer.message.tool_calls or ()), answer.message.content) == (2, None)


def test_rule_26_a_loop_of_required_calls_ends(api: Api, speaker: Speaker) -> None:
    speaker.says = b"\n".join([called("get_weather")] * 80)
    answer = api.chat(tools=TOOLS, tool_choice="required").choices[0]
    assert answer.finish_reason == "tool_calls"
    assert 1 <= len(answer.message.tool_calls or ()) < 80


def test_rule_26_allowed_tools_narrow_and_the_prompt_stays(api: Api, speaker: Speaker) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "get_time"}}]}
    asked: dict[str, Any] = {"tools": TOOLS, "parallel_tool_calls": False}
    speaker.says = called("get_weather")
    free = api.chat(**asked)
    narrowed = api.chat(**asked, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}, max_tokens=500)
    assert [call.function.name for call in calls_of(narrowed.choices[0])] == ["get_time"]
    assert free.usage is not None
    assert narrowed.usage is not None
    assert narrowed.usage.prompt_tokens == free.usage.prompt_tokens


def test_rule_26_none_means_text_and_the_prompt_stays(api: Api, speaker: Speaker) -> None:
    speaker.says = b"No call."
    free, none = api.chat(tools=TOOLS), api.chat(tools=TOOLS, tool_choice="none")
    assert (none.choices[0].message.content, none.choices[0].message.tool_calls) == ("No call.", None)
    assert free.usage is not None
    assert none.usage is not None
    speaker.says = called("get_weather")
    told = api.chat(tools=TOOLS, tool_choice="none").choices[0]
    assert (told.message.tool_calls, told.finish_reason) == (None, "stop")


# --- 27: history ----------------------------------------------------------------------------------------


def call_turn(identity: str = "call_1", arguments: str = '{"city": "Reykjavik"}') -> dict[str, Any]:
    call = {"id": identity, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def result_turn(identity: str = "call_1", content: Any = "stormy, 3 degrees") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def test_rule_27_calls_and_results_are_remembered(api: Api, speaker: Speaker) -> None:
    speaker.says = b"Take a coat."
    for number, tools in enumerate(({"tools": TOOLS}, {})):
        first = [{"role": "system", "content": f"27 {number}"}, {"role": "user", "content": "What shall I wear?"}]
        assert api.text(messages=[*first, call_turn(), result_turn()], **tools) == "Take a coat."
        for word in ("get_weather", "city", "Reykjavik", "stormy, 3 degrees"):
            assert word in speaker.heard
        assert '\\"city\\"' not in speaker.heard, "arguments are an object, not a string of JSON in JSON"


def test_rule_27_results_may_be_parts_and_several(api: Api, speaker: Speaker) -> None:
    speaker.says = b"Fine."
    calls = {"role": "assistant", "tool_calls": [*call_turn("a")["tool_calls"], *call_turn("b", "{}")["tool_calls"]]}
    parts = [{"type": "text", "text": "cold"}, {"type": "text", "text": "wet"}]
    turns = [{"role": "user", "content": "27b"}, calls, result_turn("b"), result_turn("a", parts)]
    assert api.text(messages=turns) == "Fine."
    assert "cold\nwet" in speaker.heard


@pytest.mark.parametrize(
    "turns",
    [
        [result_turn()],
        [call_turn(), result_turn("call_2")],
        [call_turn(), {"role": "tool", "content": "x"}],
        [call_turn(), result_turn(), {"role": "user", "content": "and"}, result_turn()],
        [{"role": "assistant", "content": "no call"}, result_turn()],
        [{"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}],
        [{"role": "assistant", "tool_calls": "call"}],
        [{"role": "assistant"}],
    ],
    ids=["no call", "another id", "no id", "later", "text only", "no function", "no list", "nothing at all"],
)
def test_rule_27_a_result_without_its_call_is_told(api: Api, turns: list[dict[str, Any]]) -> None:
    assert api.refusal(messages=[{"role": "user", "content": "x"}, *turns])["param"] == "messages"


# --- 28: what a tool may be -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A-z_09", "x" * 64])
def test_rule_28_names_that_are_fine(api: Api, speaker: Speaker, name: str) -> None:
    speaker.says = called(name, "{}")
    (call,) = calls_of(api.chat(tools=[tool(name)]).choices[0])
    assert (call.function.name, call.function.arguments) == (name, "{}")


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a.b", "é", "a\n", None, 7], ids=str)
def test_rule_28_names_that_are_not(api: Api, name: Any) -> None:
    assert api.refusal(tools=[{"type": "function", "function": {"name": name}}])["param"] == "tools"


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "no such type"},
        {"type": "object", "properties": []},
        {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}},
        {"type": "object", "required": "a"},
        "object",
        [1],
    ],
    ids=str,
)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_rule_28_a_bad_schema_is_told(api: Api, parameters: Any, choice: str) -> None:
    assert api.refusal(tools=[tool("f", parameters, strict=True)], tool_choice=choice)["param"] == "tools"


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_rule_28_missing_parameters_are_an_empty_object(room: tuple[Api, Speaker], seed: int) -> None:
    api, speaker = room
    speaker.says = b""
    asked: dict[str, Any] = {"temperature": 1, "seed": seed, "max_tokens": 300, "parallel_tool_calls": False}
    answer = api.chat(tools=[tool("ping")], tool_choice="required", **asked).choices[0]
    (call,) = calls_of(answer)
    assert json.loads(call.function.arguments) == {}


@pytest.mark.parametrize("kind", [{"type": "custom", "custom": {"name": "f"}}, {"type": "web_search"}, {"function": {}}, 7, None])
def test_rule_28_other_kinds_of_tools_are_told(api: Api, kind: Any) -> None:
    assert api.refusal(tools=[kind])["param"] == "tools"


def test_rule_28_tools_are_never_dropped_from_the_prompt(api: Api, speaker: Speaker) -> None:
    """The mock engine's template knows no tools."""
    speaker.says = b"ok"
    api.text(messages=[{"role": "system", "content": "28: Be brief."}, {"role": "user", "content": "x"}], tools=TOOLS)
    for word in ("Be brief.", "get_weather", "About get_weather.", "city", "get_time"):
        assert word in speaker.heard
