"""Answers that must fit a schema: drawn from random logits, judged by json and jsonschema."""

import contextlib
import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.sampling import tool_syntax
from tests.sampling.drawing import Drawing
from tests.sampling.vocabularies import byte_level

from ecocore import _core
from ecocore.errors import InvalidParameter
from ecocore.request import SamplingParams
from ecocore.sampling.grammar import MAX_CALLS, Grammars
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


def resident_bytes(which: str) -> int:
    """Of this process: "VmRSS" now, "VmHWM" at most since the peak was forgotten."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{which}:")]
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


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


# --- calls ------------------------------------------------------------------------------------------------

READERS = {"llama": tool_syntax.llama, "hermes": tool_syntax.hermes, "gemma": tool_syntax.gemma}
TAGS = ("<|tool_call>", "<tool_call|>", '<|"|>', "<|python_tag|>", "<|other|>")


@cache
def tagged_drawing() -> Drawing:
    tokenizer = byte_level(("<|end|>", *TAGS), words=("call:", "<tool_call>", '{"', '": "'))
    end = tokenizer.token_to_id("<|end|>")
    assert end is not None
    return Drawing(tokenizer, tokenizer.vocab_size + 5, [end], hurry=4.0)


@cache
def tagged_compiler() -> _core.GrammarCompiler:
    drawing = tagged_drawing()
    return _core.GrammarCompiler(drawing.tokenizer, drawing.tokenizer.vocab_size + 5, drawing.end_ids)


def simple(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """What every syntax can keep: no formats, no patterns for names."""
    arrays = st.tuples(inner, bounded("minItems", "maxItems", st.integers(0, 4))).map(
        lambda pair: {"type": "array", "items": pair[0], **pair[1]}
    )
    tuples = st.tuples(st.lists(inner, min_size=1, max_size=3), st.integers(0, 3), st.booleans()).map(
        lambda of: {"type": "array", "prefixItems": of[0], "items": of[2], "minItems": min(of[1], len(of[0]))}
    )
    return st.one_of(
        arrays, tuples, simple_objects(inner), st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
    )


@st.composite
def simple_objects(draw: st.DrawFn, inner: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(NAMES, inner, max_size=4))
    schema: Schema = {"type": "object", "properties": properties}
    schema["required"] = [name for name in properties if draw(st.booleans())]
    if draw(st.booleans()):
        schema["additionalProperties"] = draw(st.one_of(inner, st.booleans()))
    return schema


SIMPLE = st.recursive(LEAVES.filter(lambda schema: "format" not in schema), simple, max_leaves=6)


@pytest.mark.parametrize("syntax", READERS)
@seed(6)
@settings(max_examples=70, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(first=simple_objects(SIMPLE), second=simple_objects(SIMPLE), number=st.integers(0, 10**6))
def test_required_calls_fit_random_tools(syntax: str, first: Schema, second: Schema, number: int) -> None:
    tools = {"first-1": first, "second_2": second}
    given_tools = [(name, json.dumps(schema), False) for name, schema in tools.items()]
    grammar = tagged_compiler().tool_calls(syntax, given_tools, mode="required", max_calls=3)
    for text in tagged_drawing().texts(grammar, count=3, seed=number):
        calls = READERS[syntax](text)
        assert 1 <= len(calls) <= 3
        for name, arguments in calls:
            Draft202012Validator(tools[name]).validate(arguments)


@pytest.mark.parametrize("syntax", READERS)
def test_tools_may_refer_to_themselves(syntax: str) -> None:
    tree = json.dumps(RECURSIVE)
    grammar = tagged_compiler().tool_calls(syntax, [("grow", tree, True)], mode="named", max_calls=1)
    depths = set()
    for text in tagged_drawing().texts(grammar, count=12, seed=3):
        [(name, arguments)] = READERS[syntax](text)
        assert name == "grow"
        Draft202012Validator(RECURSIVE).validate(arguments)
        depths.add(str(arguments).count("next"))
    assert len(depths) > 1, "every tree was the same"


@pytest.mark.parametrize("syntax", READERS)
def test_a_tool_without_parameters_takes_an_empty_object(syntax: str) -> None:
    for parameters in ("", "{}", '{"type": "object", "properties": {}}', '{"properties": {}}'):
        grammar = tagged_compiler().tool_calls(syntax, [("ping", parameters, False)], mode="named", max_calls=1)
        [(name, arguments)] = READERS[syntax](tagged_drawing().texts(grammar)[0])
        assert name == "ping"
        assert isinstance(arguments, dict)
        assert parameters == "{}" or arguments == {}


def test_text_may_surround_calls_only_where_the_model_chooses() -> None:
    tools = [("ping", "", False)]
    free = tagged_compiler().tool_calls("hermes", tools, mode="auto", max_calls=2)
    texts = tagged_drawing().texts(free, count=40, seed=9)
    called = [text for text in texts if "<tool_call>" in text]
    assert 0 < len(called) < len(texts)
    body = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
    for text in called:
        assert text.count("<tool_call>") == text.count(body) <= 2, text
    assert any(not text.startswith("<tool_call>") for text in called)
    special = set("".join(texts).split("<|")) - {""}
    assert special, "other special tokens are free text"


def test_a_gemma_call_that_has_begun_must_fit() -> None:
    tools = [("ping", "", False)]
    free = tagged_compiler().tool_calls("gemma", tools, mode="auto", max_calls=1)
    texts = tagged_drawing().texts(free, count=40, seed=9)
    opened = [text for text in texts if "<|tool_call>" in text]
    assert 0 < len(opened) < len(texts)
    assert all(text.count("<|tool_call>") == text.count("<|tool_call>call:ping{}<tool_call|>") == 1 for text in opened)


def test_an_answer_that_begins_as_a_llama_call_is_one() -> None:
    drawing, tools = tagged_drawing(), [("ping", "", False), ("pong", "", False)]
    free = tagged_compiler().tool_calls("llama", tools, mode="auto", max_calls=2)
    start = list(b'{"name": "pong"')
    follow = drawing.forced(free, start)
    assert follow.startswith('{"name": "pong", "parameters": {}}')
    assert drawing.forced(free, list(b'{"name": "pang"')) != '{"name": "pang", "parameters": {}}'


@pytest.mark.parametrize("syntax", READERS)
def test_an_answer_is_calls_or_json_where_both_are_asked_for(syntax: str) -> None:
    schema = json.dumps({"type": "object", "properties": {"done": {"type": "boolean"}}, "required": ["done"]})
    grammar = tagged_compiler().tool_calls(syntax, [("ping", "", False)], mode="auto", max_calls=1, answer=(schema, False))
    drawing = tagged_drawing()
    assert json.loads(drawing.forced(grammar, list(b'{"done"')))["done"] in {True, False}
    opening = {"llama": b'{"name"', "hermes": b"<tool_call>", "gemma": b""}[syntax]
    assert READERS[syntax](drawing.forced(grammar, list(opening) or [drawing.tokenizer.token_to_id("<|tool_call>") or 0]))
    assert drawing.forced(grammar, list(b"Well")) != "Well"


# --- how it is drawn --------------------------------------------------------------------------------------


def test_an_answer_is_on_one_line_and_ends_with_its_last_brace() -> None:
    for text in byte_drawing().texts(byte_compiler().json_object(), count=30, seed=1):
        assert isinstance(json.loads(text), dict)
        assert text.startswith("{")
        assert text.endswith("}")
        outside = re.sub(r'"(\\.|[^"\\])*"', '""', text)
        assert not re.search(r"\s\s|[^:,]\s", outside), outside


def test_keys_come_in_the_order_of_the_schema() -> None:
    names = ["zulu", "alpha", "mike"]
    schema = {"type": "object", "properties": {name: {"type": "null"} for name in names}, "required": names[::-1]}
    [text] = byte_drawing().texts(byte_compiler().json_schema(json.dumps(schema)))
    assert list(json.loads(text)) == names


def test_objects_that_list_their_properties_are_closed() -> None:
    part = {"type": "object", "properties": {"a": {"type": "null"}}}
    closed = byte_compiler().json_schema(json.dumps(part))
    assert set(byte_drawing().texts(closed, count=20)) <= {"{}", '{"a":null}', '{"a": null}'}
    # Where one value is described in several places none of them may close it.
    composed = {"allOf": [part, {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}]}
    for text in byte_drawing().texts(byte_compiler().json_schema(json.dumps(composed)), count=5):
        assert "b" in judge(composed, text)
    open_object = byte_compiler().json_schema('{"type": "object"}', strict=True)
    assert set(byte_drawing().texts(open_object, count=5)) == {"{}"}


def test_company_and_preemption_change_no_token() -> None:
    schema = {"type": "array", "items": {"type": "string", "minLength": 40, "maxLength": 60}, "minItems": 3}
    grammar = byte_compiler().json_schema(json.dumps(schema))
    drawing = byte_drawing()
    alone = [drawing.answers(grammar, seed=number)[0] for number in range(6)]
    assert drawing.answers(grammar, count=6) == alone
    assert drawing.answers(grammar, count=6, num_blocks=12, max_tokens=700) == alone
    assert drawing.preemptions > 0, "there was room for all"


def test_end_tokens_wait_for_min_tokens_but_not_for_a_complete_grammar() -> None:
    drawing = byte_drawing()
    plain = drawing.answers(None, count=30, end_ids=drawing.end_ids, min_tokens=20)
    assert min(map(len, plain)) == 21
    short = byte_compiler().json_schema('{"enum": [true]}')
    assert drawing.texts(short, end_ids=drawing.end_ids, min_tokens=20) == ["true"]
    growing = byte_compiler().json_schema('{"type": "integer", "minimum": 1}')
    assert all(len(text) >= 8 for text in drawing.texts(growing, count=10, end_ids=drawing.end_ids, min_tokens=8))


def test_penalties_and_bias_stay_within_the_grammar() -> None:
    grammar = byte_compiler().json_schema('{"enum": ["aaaaaaaaaaaaaaaaaaaa"]}')
    params = {"frequency_penalty": 2.0, "logit_bias": {ord("b"): 100.0, BYTES_END: 100.0}, "top_k": 1}
    assert byte_drawing().texts(grammar, params=SamplingParams(**params)) == ['"aaaaaaaaaaaaaaaaaaaa"']


# --- what is refused --------------------------------------------------------------------------------------


def chain(length: int, end: Schema) -> Schema:
    links = {f"a{number}": {"$ref": f"#/$defs/a{number + 1}"} for number in range(length)}
    return {"$defs": {**links, f"a{length}": end}, "$ref": "#/$defs/a0"}


def deep(levels: int) -> Schema:
    schema: Schema = {"type": "null"}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


NODE = {"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]}
REFUSED: list[tuple[Any, str]] = [
    ({"not": {"type": "string"}}, "`not`"),
    ({"type": "array", "items": {"uniqueItems": True}}, "`uniqueItems` at items"),
    ({"if": {}, "then": {}}, "`if`"),
    ({"properties": {"a": {"contains": {}}}}, "`contains` at properties.a"),
    ({"nullable": True}, "`nullable`"),
    ({"type": "string", "format": "color"}, "`color`"),
    ({"type": "text"}, "type must be one or more of"),
    ({"enum": []}, "enum must be"),
    ({"anyOf": []}, "anyOf must not be empty"),
    ({"properties": []}, "properties must be an object"),
    ({"properties": {"a": 1}}, "properties.a must be an object or a boolean"),
    ({"required": "a"}, "required must be"),
    ({"minLength": -1}, "minLength must be a whole number"),
    ({"maxItems": 10**9}, "maxItems must be at most"),
    ({"type": "object", "minProperties": 5}, "minProperties can be kept up to 1"),
    ({"const": 2**60}, "2^53"),
    ({"multipleOf": 0}, "multipleOf must be above 0"),
    ({"$ref": "https://example.com/schema"}, "refers to"),
    ({"$ref": "#/default", "default": {"type": "string"}}, "refers to"),
    ({"$ref": "#/$defs/absent"}, "refers to"),
    (NODE, "no finite answer"),
    (chain(3, {"$ref": "#/$defs/a0"}), "no finite answer"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "no finite answer"),
    ({"type": "string", "pattern": "a" * 3000}, "pattern is longer than"),
    ({"properties": {"zip": {"pattern": "(?=a)b"}}}, "at properties.zip.pattern is no pattern that can be kept: look-around"),
    ({"items": {"pattern": "(a)\\1"}}, "at items.pattern is no pattern that can be kept: backreferences are not"),
    ({"pattern": "[a-"}, "at pattern is no pattern that can be kept: unclosed character class"),
    ({"pattern": "\\bword\\b"}, "at pattern is no pattern that can be kept: word boundaries"),
    ({"type": "object", "patternProperties": {"a**(": {}}}, "at patternProperties.a**( is no pattern"),
    ({"type": "string", "pattern": "(" * 1000 + ")" * 1000}, "at pattern is no pattern that can be kept: exceed"),
    ({"pattern": "a^b"}, "has a pattern with ^ or $ elsewhere than at its ends"),
    ({"type": "string", "pattern": "^a$", "minLength": 2}, "no answer that fits: a pattern contradicts itself or the lengths"),
    (
        {"properties": {"a": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}}},
        "overlap at properties.a.oneOf; make them differ by type or by a required constant, or send anyOf",
    ),
    ({"prefixItems": [{"oneOf": [{}, {}]}, {"oneOf": [{}, {}]}]}, "uses oneOf with options that overlap; make them differ"),
    ({"type": "object", "required": ["a"], "properties": {}}, "required property 'a' allows no value: schema is false"),
    (
        {
            "properties": {"a": {"properties": {"b": {"minimum": 5, "maximum": 3, "type": "integer"}}, "required": ["b"]}},
            "required": ["a"],
        },
        "no answer that fits: required property 'a' allows no value: required property 'b' allows no value: minimum (5) is",
    ),
    (False, "has no answer that fits: schema is false"),
    (deep(64), "deeper than 64"),
    ({"anyOf": [{"type": "null"}] * 5001}, "more than 5000"),
    ({"enum": ["x" * 99] * 3000}, "longer than"),
    ({"properties": {str(number): {} for number in range(1001)}}, "more than 1000 names"),
    ({"allOf": [{"anyOf": [{"properties": {f"a{i}{j}": {}}} for i in range(9)]} for j in range(7)]}, "cannot be followed"),
    ([], "must be an object or a boolean"),
]


@pytest.mark.parametrize(("schema", "expected"), REFUSED, ids=[expected for _, expected in REFUSED])
def test_what_cannot_be_kept_is_refused_by_name_and_soon(schema: Any, expected: str) -> None:
    start = time.monotonic()
    with pytest.raises(InvalidParameter) as caught:
        byte_compiler().json_schema(json.dumps(schema))
    assert time.monotonic() - start < 4
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_json_schema")
    assert expected in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("text", ["", "{", '{"a": NaN}', "[" * 200, '{"type": "string", "pattern": "\\ud800"}', "{} {}"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="not valid JSON") as caught:
        byte_compiler().json_schema(text)
    assert caught.value.code == "invalid_json_schema"


@pytest.mark.parametrize(
    "schema",
    [
        chain(4900, {"type": "null"}),
        deep(63),
        {"type": "object", "properties": {f"p{number}": {"type": "null"} for number in range(1000)}},
        {"type": "string", "pattern": "(a|aa|aaa){200}b"},
        {"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"},
        {"type": "string", "pattern": ".*a.{500}b.{500}c"},
        {"type": "array", "items": {"type": "array", "minItems": 5000, "items": {"type": "array", "maxItems": 9999}}},
        {"enum": [f"value {number}" for number in range(8000)]},
    ],
    ids=["references", "depth", "properties", "alternatives", "nested repetition", "counted", "counted items", "enum"],
)
def test_large_schemas_compile_within_the_deadline_or_are_refused(schema: Schema) -> None:
    start = time.monotonic()
    with contextlib.suppress(InvalidParameter):
        byte_compiler().json_schema(json.dumps(schema))
    assert time.monotonic() - start < 4


def test_a_thousand_optional_properties_can_be_followed() -> None:
    schema = {"type": "object", "properties": {f"p{number}": {"type": "null"} for number in range(1000)}}
    drawing = byte_drawing()
    texts = drawing.texts(byte_compiler().json_schema(json.dumps(schema)), count=2, seed=5)
    assert all(judge(schema, text) is not None for text in texts)


def test_an_answer_that_outgrows_the_limits_fails_alone() -> None:
    compiler, drawing = smollm2_compiler(), smollm2_drawing()
    hard = compiler.json_schema(json.dumps({"type": "string", "pattern": ".*a.{500}b.{500}c"}))
    easy = compiler.json_schema(json.dumps({"type": "string", "maxLength": 40, "minLength": 20}))
    assert drawing.run({0: hard, 1: easy}, max_tokens=120) == {0: "failed", 1: "finished"}
    alone = drawing.run({1: easy}, max_tokens=120)
    assert alone == {1: "finished"}


def hostile(number: int) -> Schema:
    """One of many schemas that compile in no time and whose masks cost all that they may."""
    if number % 2:
        return {"type": "string", "pattern": f"((.{{1,{70 + number}}}a){{1,100}}|(.{{1,90}}b){{1,90}})*z"}
    inner = {"anyOf": [{"type": "array", "items": {"const": other}} for other in range(900 + number)]}
    return {"type": "array", "minItems": 9999, "items": inner}


@pytest.mark.parametrize("tokenizer", ["bytes", "smollm2"])
def test_hostile_schemas_neither_hold_up_their_neighbour_nor_fill_the_memory(tokenizer: str) -> None:
    compiler = byte_compiler() if tokenizer == "bytes" else smollm2_compiler()
    drawing = byte_drawing() if tokenizer == "bytes" else smollm2_drawing()
    grammars = {number: compiler.json_schema(json.dumps(hostile(number))) for number in range(1, 33)}
    # Warm: the buffers of the drawing itself are no part of the figure.
    drawing.run(dict.fromkeys(range(33)), max_tokens=2)
    # The time of all threads together, since other programs take the cores as well: 5 s for two cores.
    forget_peak()
    memory, start = resident_bytes("VmRSS"), time.process_time()
    ends = drawing.run({0: None, **grammars}, max_tokens=100)
    assert time.process_time() - start < 10
    assert resident_bytes("VmHWM") - memory < 192 * 2**20
    assert ends[0] == "finished"
    assert len(drawing.drawn[0]) <= 100
    assert "failed" in ends.values()


def test_the_time_for_masks_grows_with_the_answer() -> None:
    """A counted string of thousands of characters costs more in all than a sequence has at its start."""
    schema = {"type": "string", "minLength": 4000, "maxLength": 4500}
    (text,) = byte_drawing().texts(byte_compiler().json_schema(json.dumps(schema)), max_tokens=20_000)
    assert judge(schema, text) is not None


def test_clients_cannot_reach_the_layout() -> None:
    schema = {"type": "object", "x-guidance": {"whitespace_flexible": True, "lenient": True}, "x-order": 1}
    for text in byte_drawing().texts(byte_compiler().json_schema(json.dumps(schema)), count=10, seed=8):
        assert not re.search(r"\s\s|[^:,]\s", re.sub(r'"(\\.|[^"\\])*"', '""', text))


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([("a", '{"type": "string"}', False)], "`a`: schema must describe an object"),
        ([("good", "", False), ("bad", '{"properties": {"x": {"not": {}}}}', False)], "`bad`: schema uses the keyword `not`"),
        (
            [("bad", '{"type": "object", "properties": {"x": {"pattern": "(?=a)"}}}', False), ("good", "", False)],
            "`bad`: schema at properties.x.pattern is no",
        ),
        (
            [("bad", '{"type": "object", "properties": {"x": {"oneOf": [{}, {}]}}}', False)],
            "`bad`: uses oneOf with options that overlap at p",
        ),
        ([("open", '{"type": "object", "additionalProperties": true}', True)], "under strict it must be false"),
        ([], "1 to 128 tools"),
        ([("x", "", False)] * 129, "1 to 128 tools"),
        ([("", "", False)], "names of 1 to"),
    ],
)
def test_tools_that_cannot_be_kept_are_refused_by_name(tools: list[tuple[str, str, bool]], expected: str) -> None:
    for syntax in READERS:
        with pytest.raises(InvalidParameter) as caught:
            tagged_compiler().tool_calls(syntax, tools, mode="auto", max_calls=4)
        assert caught.value.param == "tools"
        assert expected in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "string", "format": "date"}}},
        {"patternProperties": {"^x": {}}, "type": "object"},
        {"properties": {"a": {"type": "string", "pattern": "^a|b$"}}},
        {"properties": {"a": {"anyOf": [{"type": "null"}], "type": "null"}}},
    ],
)
def test_gemma_refuses_what_its_syntax_cannot_keep(schema: Schema) -> None:
    tools = [("f", json.dumps(schema), False)]
    tagged_compiler().tool_calls("hermes", tools, mode="named", max_calls=1)
    with pytest.raises(InvalidParameter, match="call syntax") as caught:
        tagged_compiler().tool_calls("gemma", tools, mode="named", max_calls=1)
    assert caught.value.code == "invalid_json_schema"
    with pytest.raises(InvalidParameter, match="lacks the tokens"):
        byte_compiler().tool_calls("gemma", [("f", "", False)], mode="named", max_calls=1)


# --- the door of a runtime --------------------------------------------------------------------------------


@dataclass
class Form:
    type: Any
    json_schema: Any = None


@dataclass
class Definition:
    definition: Schema
    strict: bool = False


@dataclass
class Function:
    name: str
    parameters: Schema | None = None
    strict: bool = False


@dataclass
class Choice:
    mode: Any
    names: tuple[str, ...] = ()


def grammars(**options: Any) -> Grammars:
    return Grammars(_core.Tokenizer.bytes_only(), 260, [BYTES_END], **options)


def test_equal_requests_share_one_grammar() -> None:
    door = grammars()
    assert door.response(None) is None
    assert door.response(Form("text")) is None
    one = door.response(Form("json_schema", Definition({"type": "null"})))
    assert one is door.response(Form("json_schema", Definition({"type": "null"})))
    assert one is not door.response(Form("json_schema", Definition({"type": "null"}, strict=True)))
    assert door.response(Form("json_object")) is door.response(Form("json_object"))
    tools = [Function("a"), Function("b", {"type": "object"})]
    assert door.calls("hermes", tools, Choice("none"), parallel=True) is None
    every = door.calls("hermes", tools, Choice("auto", ("a", "b")), parallel=True)
    assert every is door.calls("hermes", tools, Choice("auto", ("a", "b")), parallel=True)
    assert every is not door.calls("hermes", tools, Choice("auto", ("a",)), parallel=True)
    [text] = byte_drawing().texts(door.calls("hermes", tools, Choice("named", ("a",)), parallel=True))
    assert tool_syntax.hermes(text) == [("a", {})]
    some = byte_drawing().texts(door.calls("llama", tools[:1], Choice("required", ("a",)), parallel=False), count=9)
    assert {len(tool_syntax.llama(text)) for text in some} == {1}
    many = byte_drawing().texts(door.calls("llama", tools[:1], Choice("required", ("a",)), parallel=True), count=30)
    assert 1 < max(len(tool_syntax.llama(text)) for text in many) <= MAX_CALLS


def test_many_threads_wait_for_one_compilation_and_the_cache_is_bounded() -> None:
    door = grammars(cache_bytes=300_000)
    forms = [Form("json_schema", Definition({"const": number % 10})) for number in range(80)]
    with ThreadPoolExecutor(8) as pool:
        compiled = list(pool.map(door.response, forms))
    assert all(grammar is not None for grammar in compiled)
    assert door.held_bytes <= 300_000
    assert door.response(forms[-1]) is not None


def test_a_refused_schema_is_refused_again() -> None:
    door = grammars()
    for _ in range(2):
        with pytest.raises(InvalidParameter, match="`not`"):
            door.response(Form("json_schema", Definition({"not": {}})))
    with pytest.raises(InvalidParameter, match="plain JSON"):
        door.response(Form("json_schema", Definition({"const": float("nan")})))
