"""Numbers in answers that must fit a schema: drawn from noise that likes them long, judged by json and jsonschema."""

import json
import math
import re
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.sampling import tool_syntax
from tests.sampling.drawing import Drawing
from tests.sampling.vocabularies import byte_level

from ecocore import _core

Schema = dict[str, Any]


def finite(text: str) -> Any:
    """What json reads, if every number in it is finite in every reader."""

    def number(digits: str) -> float:
        value = float(digits)
        assert math.isfinite(value), digits
        return value

    return json.loads(text, parse_float=number, parse_int=number, parse_constant=pytest.fail)


UNBOUNDED: list[Schema] = [
    {"type": "number"},
    {"type": "integer"},
    {},
    {"type": ["number", "null"]},
    {"type": ["integer", "string"], "maxLength": 3},
    {"type": ["number", "array"], "items": {"type": ["integer", "number"]}},
    {"anyOf": [{"type": "number"}, {"type": "integer"}, {"type": "null"}]},
    {"minLength": 1},
    {"type": "number", "minimum": 0},
    {"type": "integer", "exclusiveMaximum": -7},
    {"type": "number", "multipleOf": 0.25},
    {"allOf": [{"type": ["number", "null"]}, {"type": ["null", "number"]}]},
    {"type": "array", "minItems": 3},
    {"type": "object", "additionalProperties": {"type": ["null", "number"]}, "required": ["b"]},
    {"type": "object", "additionalProperties": True, "required": ["b"]},
]


TAGS = ("<|end|>", "<|tool_call>", "<tool_call|>", '<|"|>')
READERS = {"llama": tool_syntax.llama, "hermes": tool_syntax.hermes, "gemma": tool_syntax.gemma}


@cache
def drawing() -> Drawing:
    """Noise that likes digits and exponents, and is slow to end a number."""
    tokenizer = byte_level(TAGS, words=("call:", "<tool_call>"))
    end = tokenizer.token_to_id("<|end|>")
    assert end is not None
    noise = Drawing(tokenizer, tokenizer.vocab_size, [end], hurry=2.0)
    noise.favor("0123456789", 4.0)
    noise.favor("eE", 5.0)
    return noise


@cache
def compiler() -> _core.GrammarCompiler:
    return _core.GrammarCompiler(drawing().tokenizer, drawing().tokenizer.vocab_size, drawing().end_ids)


@pytest.mark.parametrize("schema", UNBOUNDED, ids=str)
def test_numbers_are_finite_in_every_reader(schema: Schema) -> None:
    whole = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    grammar = compiler().json_schema(json.dumps(whole))
    for text in drawing().texts(grammar, count=100, seed=11):
        Draft202012Validator(whole).validate(finite(text))
    for syntax in READERS if "allOf" not in schema else ("llama", "hermes"):
        calls = compiler().tool_calls(syntax, [("f", json.dumps(whole), False)], mode="named", max_calls=1)
        for text in drawing().texts(calls, count=10, seed=11):
            [(_, arguments)] = READERS[syntax](text)
            finite(json.dumps(arguments, allow_nan=False))


def test_numbers_of_any_object_are_finite() -> None:
    texts = drawing().texts(compiler().json_object(), count=100, seed=12)
    assert any(re.search(r"\d[eE]", text) for text in texts)
    for text in texts:
        finite(text)
