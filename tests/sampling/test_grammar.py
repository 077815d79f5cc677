"""Answers that must fit a schema: drawn from random logits, judged by json and jsonschema."""

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.sampling.drawing import Drawing

from ecocore import _core
from ecocore.errors import InvalidParameter
from ecocore.weights.embedded import embedded_model_path

Schema = dict[str, Any]

BYTES_END = 256


@cache
def byte_drawing() -> Drawing:
    return Drawing(_core.Tokenizer.bytes_only(), 260, [BYTES_END], hurry=4.0)


@cache
def byte_compiler() -> _core.GrammarCompiler:
    return _core.GrammarCompiler(_core.Tokenizer.bytes_only(), 260, [BYTES_END])


@cache
def smollm2_drawing() -> Drawing:
    return Drawing(_core.Tokenizer.from_file(str(embedded_model_path())), 49152, [2, 0], hurry=6.0)


@cache
def smollm2_compiler() -> _core.GrammarCompiler:
    return _core.GrammarCompiler(smollm2_drawing().tokenizer, 49152, [2, 0])


# --- schemas ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["name", "a", "b", "größe", "with space", 'quo"te', "back\\slash", "new\nline", "", "a.b/c"])


def bounded(low: str, high: str, numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    pair = st.tuples(numbers, numbers).map(sorted)
    return pair.flatmap(lambda ends: st.fixed_dictionaries({}, optional={low: st.just(ends[0]), high: st.just(ends[1])}))


STRINGS = st.one_of(
    bounded("minLength", "maxLength", st.integers(0, 12)),
    st.sampled_from(["^[a-z]{2,5}$", "^\\d+-\\d+$", "[A-F]", "^(yes|no)$", "^é+$"]).map(lambda pattern: {"pattern": pattern}),
    st.sampled_from(["date", "uuid", "ipv4", "email"]).map(lambda name: {"format": name}),
).map(lambda rest: {"type": "string", **rest})
INTEGERS = st.one_of(
    bounded("minimum", "maximum", st.integers(-1000, 10**6)),
    bounded("exclusiveMinimum", "maximum", st.integers(-50, 50).map(lambda number: number * 3)).filter(
        lambda bounds: bounds.get("exclusiveMinimum", -999) < bounds.get("maximum", 999)
    ),
    st.just({"multipleOf": 5}),
).map(lambda rest: {"type": "integer", **rest})
NUMBERS = bounded("minimum", "maximum", st.decimals(-100, 100, places=2).map(float)).map(lambda rest: {"type": "number", **rest})
CONSTANTS = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.sampled_from(["red", 'a "b"', "été", "\n"]))
LEAVES = st.one_of(
    STRINGS,
    INTEGERS,
    NUMBERS,
    st.sampled_from(["null", "boolean"]).map(lambda name: {"type": name}),
    st.lists(CONSTANTS, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    CONSTANTS.map(lambda value: {"const": value}),
    st.just({"type": ["integer", "null"]}),
    st.just({"const": {"b": [1, "x"], "a": None}}),
)


def nested(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    arrays = st.tuples(inner, bounded("minItems", "maxItems", st.integers(0, 4))).map(
        lambda pair: {"type": "array", "items": pair[0], **pair[1]}
    )
    tuples = st.lists(inner, min_size=1, max_size=3).map(
        lambda items: {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    )
    return st.one_of(arrays, tuples, objects(inner), st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}))


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(NAMES, inner, max_size=4))
    schema: Schema = {"type": "object", "properties": properties}
    if draw(st.booleans()):
        schema["required"] = [name for name in properties if draw(st.booleans())]
    match draw(st.integers(0, 3)):
        case 0:
            schema["additionalProperties"] = draw(inner)
        case 1:
            schema["additionalProperties"] = draw(st.booleans())
        case 2:
            schema["patternProperties"] = {"^x_[a-z]+$": draw(inner)}
    return schema


SCHEMAS = st.recursive(LEAVES, nested, max_leaves=8)

RECURSIVE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"value": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
            "required": ["value", "next"],
            "additionalProperties": False,
        }
    },
}


def judge(schema: Schema, text: str) -> Any:
    value = json.loads(text)
    Draft202012Validator(schema).validate(value)
    return value


# --- what is drawn fits -----------------------------------------------------------------------------------


@seed(4)
@settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, number=st.integers(0, 10**6))
def test_what_is_drawn_fits_a_random_schema(schema: Schema, number: int) -> None:
    Draft202012Validator.check_schema(schema)
    grammar = byte_compiler().json_schema(json.dumps(schema))
    for text in byte_drawing().texts(grammar, count=3, seed=number):
        judge(schema, text)


@seed(5)
@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(schema=SCHEMAS, number=st.integers(0, 10**6))
def test_tokens_of_many_bytes_fit_as_well(schema: Schema, number: int) -> None:
    grammar = smollm2_compiler().json_schema(json.dumps(schema))
    for text in smollm2_drawing().texts(grammar, count=2, seed=number):
        judge(schema, text)
