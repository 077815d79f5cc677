"""Tools and the choice between them."""

from typing import Any

import pytest

from ecocore.errors import InvalidRequest
from ecocore.request import ChatRequest, ToolChoice


def tool(name: str, **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [named(name) for name in names]}}


def parse(**fields: Any) -> ChatRequest:
    return ChatRequest.parse({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields})


TWO = [tool("one"), tool("two")]


@pytest.mark.parametrize(
    ("tools", "choice", "expected"),
    [
        (None, None, ToolChoice(mode="none")),
        ([], "auto", ToolChoice(mode="none")),
        ([], "none", ToolChoice(mode="none")),
        (TWO, None, ToolChoice(mode="auto", names=("one", "two"))),
        (TWO, "auto", ToolChoice(mode="auto", names=("one", "two"))),
        (TWO, "none", ToolChoice(mode="none")),
        (TWO, "required", ToolChoice(mode="required", names=("one", "two"))),
        (TWO, named("two"), ToolChoice(mode="named", names=("two",))),
        (TWO, allowed("auto", "two"), ToolChoice(mode="auto", names=("two",))),
        (TWO, allowed("required", "two", "one"), ToolChoice(mode="required", names=("one", "two"))),
    ],
)
def test_a_choice_means(tools: Any, choice: Any, expected: ToolChoice) -> None:
    request = parse(tools=tools, tool_choice=choice)
    assert request.tool_choice == expected
    assert tuple(one.name for one in request.callable_tools) == expected.names


def test_a_tool_keeps_what_was_sent_in_its_order() -> None:
    schema = {"required": ["b", "a"], "type": "object", "properties": {"b": {"default": None}, "a": {}}}
    sent = {"function": {"strict": True, "parameters": schema, "name": "f", "description": None, "x": 1}, "type": "function"}
    (one,) = parse(tools=[sent]).tools
    assert (one.name, one.description, one.strict) == ("f", None, True)
    assert one.parameters == schema
    assert repr(one.as_sent()) == repr({"function": {"parameters": schema, "name": "f", "x": 1}, "type": "function"})
    assert sent["function"]["strict"] is True  # type: ignore[index]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": {}}, "tools", "invalid_type"),
        ({"tools": ["f"]}, "tools", "invalid_type"),
        ({"tools": [tool("f")] * 2}, "tools", "invalid_value"),
        ({"tools": [tool(f"f{n}") for n in range(129)]}, "tools", "array_above_max_length"),
        ({"tools": [tool("")]}, "tools", "invalid_value"),
        ({"tools": [tool("a b")]}, "tools", "invalid_value"),
        ({"tools": [tool("f\n")]}, "tools", "invalid_value"),
        ({"tools": [tool("f" * 65)]}, "tools", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools", "missing_required_parameter"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"tools": [tool("f", parameters=[])]}, "tools", "invalid_type"),
        ({"tools": [tool("f", parameters={"type": "string"})]}, "tools", "invalid_json_schema"),
        ({"tools": [tool("f", parameters=nested(65))]}, "tools", "invalid_value"),
        ({"tools": [tool("f", parameters={"x": float("nan")})]}, "tools", "invalid_value"),
        ({"tools": [tool(f"f{n}", parameters={"x": "y" * 90_000}) for n in range(3)]}, "tools", "invalid_value"),
        ({"tools": [tool("f", description="d" * 300_000)]}, "tools", "invalid_value"),
        ({"tools": [tool("f", extra="x" * 300_000)]}, "tools", "invalid_value"),
        ({"tools": [tool("f", extra=object())]}, "tools", "invalid_value"),
        ({"tools": [tool("f", extra={"a": [float("inf")]})]}, "tools", "invalid_value"),
        ({"tools": [{**tool("f"), "extra": "half \ud83d"}]}, "tools", "invalid_value"),
        ({"tools": [{**tool("f"), "half \ud83d": 1}]}, "tools", "invalid_value"),
        ({"tools": [tool("f", extra={5: 1})]}, "tools", "invalid_value"),
        ({"tools": [tool("f", strict="yes")]}, "tools", "invalid_type"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tool_choice": named("f")}, "tool_choice", "invalid_value"),
        ({"tool_choice": "any", "tools": TWO}, "tool_choice", "invalid_value"),
        ({"tool_choice": 5, "tools": TWO}, "tool_choice", "invalid_type"),
        ({"tool_choice": named("three"), "tools": TWO}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "function"}, "tools": TWO}, "tool_choice", "missing_required_parameter"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "x"}}, "tools": TWO}, "tool_choice", "invalid_value"),
        ({"tool_choice": allowed("auto"), "tools": TWO}, "tool_choice", "empty_array"),
        ({"tool_choice": allowed("none", "one"), "tools": TWO}, "tool_choice", "invalid_value"),
        ({"tool_choice": allowed("auto", "one", "three"), "tools": TWO}, "tool_choice", "invalid_value"),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls", "invalid_type"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(**fields)
    assert (raised.value.param, raised.value.code) == (param, code)
