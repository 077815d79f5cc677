"""Schemas and tools that mean harm: CVE-2025-48942 to 48944, CVE-2025-32381, CVE-2025-57809 and their kin.

Each is refused as a 400 that names its field, or kept, within a few seconds; and the engine goes on for everybody else.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.abuse.target import Answer, Target, attacked

SECONDS = 5.0


def schema_format(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True, **fields}}


def tool(parameters: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters, **fields}}


def nested(depth: int, inner: dict[str, Any]) -> dict[str, Any]:
    for _ in range(depth):
        inner = {"type": "object", "properties": {"a": inner}, "required": ["a"]}
    return inner


def borne(answer: Answer, begun: float, field: str) -> None:
    assert time.monotonic() - begun < SECONDS
    assert answer.status in (200, 400)
    if answer.status == 400:
        # A schema that is kept may still be too long for the context, since tools are written into the prompt.
        assert answer.error["param"] in (field, None) or answer.error["code"] == "context_length_exceeded"


HOSTILE: dict[str, Any] = {
    "nothing": {},
    "no type": {"type": "nothing"},
    "a number": {"type": 5},
    "false": {"not": {}},
    "empty enum": {"enum": []},
    "refers to itself": {"$ref": "#"},
    "refers in a circle": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    "refers to nowhere": {"$ref": "#/$defs/nowhere"},
    "refers to a file": {"$ref": "file:///secrets.json"},
    "refers to this machine": {"$ref": "http://127.0.0.1:1/schema.json"},
    "is its own parent": {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    "deep": nested(14, {"type": "string"}),
    "wide": {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(6000)}},
    "wide and required": {
        "type": "object",
        "properties": {f"p{number}": {"type": "integer"} for number in range(4000)},
        "required": [f"p{number}" for number in range(4000)],
    },
    "many choices": {"enum": [f"choice {number}" for number in range(20_000)]},
    "one long choice": {"const": "x" * 200_000},
    "many ways": {"anyOf": [{"type": "object", "properties": {f"a{number}": {"type": "string"}}} for number in range(2000)]},
    "ways of ways": {"anyOf": [{"anyOf": [{"anyOf": [{"type": "string"}] * 12}] * 12}] * 12},
    "all of all": {"allOf": [{"anyOf": [{"required": [f"a{number}"]}, {"required": [f"b{number}"]}]} for number in range(40)]},
    "long string": {"type": "string", "minLength": 10**9},
    "longer than long": {"type": "string", "minLength": 5, "maxLength": 2},
    "many items": {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
    "items of items": {
        "type": "array",
        "minItems": 1000,
        "maxItems": 1000,
        "items": {"type": "array", "minItems": 1000, "maxItems": 1000, "items": {"type": "integer"}},
    },
    "many properties": {"type": "object", "minProperties": 10**6},
    "huge bounds": {"type": "integer", "minimum": -(10**60), "maximum": 10**60},
    "no number between": {"type": "integer", "minimum": 5, "maximum": 4},
    "endless digits": {"type": "number", "multipleOf": 1e-300},
    "pattern that backtracks": {"type": "string", "pattern": "^(a+)+$"},
    "pattern that counts": {"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"},
    "pattern that explodes": {"type": "string", "pattern": "(x|y)*x" + "(x|y)" * 200},
    "pattern that looks back": {"type": "string", "pattern": "(a)\\1(?<=x)(?=y)"},
    "pattern that is none": {"type": "string", "pattern": "(((("},
    "deep pattern": {"type": "string", "pattern": "(" * 1000 + "a" + ")" * 1000},
    "long pattern": {"type": "string", "pattern": "a" * 100_000},
    "all of unicode": {"type": "string", "pattern": "^\\p{L}{0,1000}[^\\p{N}]{0,1000}$"},
    "patterns for names": {"type": "object", "patternProperties": {"^(a|aa)+$": {"type": "string"}, "(b*)*$": {}}},
    "unknown format": {"type": "string", "format": "x" * 1000},
    "unknown words": {"type": "string", "x-evil": {"$ref": "#"}, "$dynamicRef": "#x"},
    "names of python": {"type": "object", "properties": {"__class__": {"type": "string"}, "\0": {}, "\u202e": {}}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_schema_kills_or_stalls(target: Target, name: str) -> None:
    schema = HOSTILE[name]
    begun = time.monotonic()
    borne(target.chat(response_format=schema_format(schema), max_tokens=500), begun, "response_format")
    begun = time.monotonic()
    for choice in ("auto", "required"):
        answer = target.chat(tools=[tool(schema)], tool_choice=choice, max_tokens=500)
        borne(answer, begun, "tools")
        begun = time.monotonic()


@pytest.mark.parametrize("schema", [5, "x", [], None, True, [{}], "{" * 1000])
def test_what_is_no_schema_is_refused(target: Target, schema: Any) -> None:
    answer = target.chat(response_format=schema_format(schema))
    assert (answer.status, answer.error["param"]) == (400, "response_format")
    answer = target.chat(response_format={"type": "json_schema", "json_schema": schema})
    assert (answer.status, answer.error["param"]) == (400, "response_format")


def test_a_schema_deeper_than_json_may_be_is_refused_as_json(target: Target) -> None:
    deep = nested(40, {"type": "string"})
    assert target.chat(response_format=schema_format(deep)).status == 400
    raw = json.dumps(schema_format({})).replace("{}", '{"items":' * 5000 + "{}" + "}" * 5000)
    body = b'{"model": "x", "messages": [{"role": "user", "content": "x"}], "response_format": ' + raw.encode() + b"}"
    assert target.ask(body).status == 400


def test_a_hundred_different_schemas_leave_nothing_behind(target: Target) -> None:
    """What is remembered of compiled grammars is bounded in bytes."""
    memory = target.memory()
    for number in range(100):
        schema = {"type": "object", "properties": {f"p{number}_{index}": {"type": "string"} for index in range(200)}}
        assert target.chat(response_format=schema_format(schema), max_tokens=3).status in (200, 400)
    assert target.memory() <= memory + 128 * 2**20


def costly(number: int) -> dict[str, Any]:
    """Compiles in no time; half of them cost while text is taken in, half while rules are followed. No two are equal."""
    if number % 2:
        return {"type": "string", "pattern": f"((.{{1,{70 + number}}}a){{1,100}}|(.{{1,90}}b){{1,90}})*z"}
    inner = {"anyOf": [{"type": "array", "items": {"const": other}} for other in range(600 + number)]}
    return {"type": "array", "minItems": 9999, "items": inner}


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Target]:
    """A server that gives an answer the time it takes, so that a delay is seen and not cut off."""
    with attacked(tmp_path) as target:
        yield target


def test_everybody_else_is_answered_while_costly_schemas_are_drawn(patient: Target) -> None:
    """A step waits for the slowest mask of its batch; one of such patterns once held a neighbour up for 12 s."""
    assert patient.is_well()
    memory = patient.memory()

    def drawn(number: int) -> Answer:
        return patient.chat(response_format=schema_format(costly(number)), n=4, temperature=1, seed=number, max_tokens=500)

    with ThreadPoolExecutor(8) as crowd:
        asked = [crowd.submit(drawn, number) for number in range(8)]
        while not all(one.done() for one in asked):
            begun = patient.computed()
            answer = patient.chat(max_tokens=100)
            assert (answer.status, answer.json["usage"]["completion_tokens"]) == (200, 100)
            # What the server computed meanwhile, for other programs take the cores too: 5 s for two cores.
            assert patient.computed() - begun < 2 * SECONDS
    for one in asked:
        answer = one.result()
        assert answer.status in (200, 400)
        assert answer.status == 200 or answer.error["code"] == "invalid_json_schema"
    assert patient.memory() <= memory + 128 * 2**20


@pytest.mark.parametrize(
    "tools",
    [
        [{}],
        [None],
        ["f"],
        [{"type": "function"}],
        [{"type": "function", "function": {}}],
        [{"type": "function", "function": {"name": ""}}],
        [{"type": "function", "function": {"name": "f\0"}}],
        [{"type": "function", "function": {"name": "f", "parameters": []}}],
        [{"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}],
        [{"type": "code_interpreter"}],
        [{"type": "custom", "custom": {"name": "f", "format": {"type": "grammar", "definition": "((("}}}],
        [tool({}), tool({})],
        [tool({}, name=f"f{number}") for number in range(129)],
        [tool({"type": "object", "description": "x" * 3000}, name=f"f{number}") for number in range(128)],
    ],
    ids=lambda tools: json.dumps(tools)[:50],
)
def test_tools_that_are_none_are_refused(target: Target, tools: Any) -> None:
    """CVE-2025-48944: a bad type in a tool killed the engine."""
    answer = target.chat(tools=tools)
    assert (answer.status, answer.error["param"]) == (400, "tools")


def test_histories_of_calls_that_never_were_are_refused(target: Target) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}
    for messages in (
        [{"role": "tool", "content": "x"}],
        [{"role": "tool", "tool_call_id": "c", "content": "x"}],
        [{"role": "assistant", "tool_calls": [call]}],
        [{"role": "assistant", "tool_calls": [call, call]}, {"role": "tool", "tool_call_id": "c", "content": "x"}],
        [{"role": "assistant", "tool_calls": [call] * 129}],
        [{"role": "assistant", "tool_calls": [{**call, "id": "x" * 10_000}]}],
        [{"role": "assistant", "tool_calls": "x"}],
    ):
        answer = target.chat(messages=messages)
        assert (answer.status, answer.error["param"]) == (400, "messages")
    arguments = "[" * 100_000
    broken = {**call, "function": {"name": "f", "arguments": arguments}}
    answer = target.chat(
        messages=[{"role": "assistant", "tool_calls": [broken]}, {"role": "tool", "tool_call_id": "c", "content": "x"}]
    )
    assert answer.status == 400
