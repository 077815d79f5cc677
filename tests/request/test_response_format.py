"""The form that an answer is asked to have."""

from typing import Any

import pytest

from ecocore.errors import InvalidParameter
from ecocore.request import ChatRequest, ResponseFormat

SCHEMA = {"type": "object", "properties": {"b": {"enum": [None, 1]}, "a": {"default": None}}}


def parse(response_format: Any) -> ResponseFormat | None:
    fields = {"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": response_format}
    return ChatRequest.parse(fields).response_format


def json_schema(**fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": fields}


def test_the_three_forms() -> None:
    for kind in ("text", "json_object"):
        told = parse({"type": kind})
        assert told is not None
        assert (told.type, told.json_schema) == (kind, None)
    told = parse(json_schema(name="n", schema=SCHEMA, strict=True, description=None))
    assert told is not None
    assert told.json_schema is not None
    assert (told.json_schema.name, told.json_schema.strict) == ("n", True)
    assert repr(told.json_schema.definition) == repr(SCHEMA)


def test_an_object_may_bring_its_schema_along() -> None:
    told = parse({"type": "json_object", "schema": SCHEMA})
    assert told is not None
    assert told.json_schema is not None
    assert (told.type, told.json_schema.definition, told.json_schema.strict) == ("json_schema", SCHEMA, False)
    anything = parse({"type": "json_object", "schema": {}})
    assert anything is not None
    assert (anything.type, anything.json_schema) == ("json_object", None)


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_members_of_another_type_are_not_looked_at(kind: str) -> None:
    assert parse({"type": kind, "json_schema": 5}) == parse({"type": kind})
    assert parse({**json_schema(name="n", schema=SCHEMA), "schema": 5}) == parse(json_schema(name="n", schema=SCHEMA))


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("json", "invalid_type"),
        ({}, "missing_required_parameter"),
        ({"type": "xml"}, "invalid_value"),
        ({"type": "json_schema"}, "missing_required_parameter"),
        (json_schema(name="n"), "missing_required_parameter"),
        (json_schema(schema={}), "missing_required_parameter"),
        (json_schema(name="a b", schema={}), "invalid_value"),
        (json_schema(name="n", schema=[]), "invalid_type"),
        ({"type": "json_object", "schema": []}, "invalid_type"),
        (json_schema(name="n", schema={"a": {1, 2}}), "invalid_value"),
        (json_schema(name="n", schema={}, strict="yes"), "invalid_type"),
    ],
)
def test_a_broken_form_is_refused(sent: Any, code: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse(sent)
    assert (raised.value.param, raised.value.code) == ("response_format", code)
