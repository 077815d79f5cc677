"""docs/chat-completions.md is complete: every field with its range and default, every code, every header."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from tests.live_server import Live

from ecocore.request import ChatRequest
from ecocore.request.chat import _REFUSED, TEMPLATE_KWARGS
from ecocore.server.error_table import TABLE
from ecocore.server.openapi_answers import ANSWERS

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "ecocore"
PAGE = (ROOT / "docs" / "chat-completions.md").read_text("utf-8")
PARAMETERS = PAGE[PAGE.index("## Parameters") : PAGE.index("### Refused by name")]
ROWS = {match[1]: match[0] for match in re.finditer(r"^\| `(\w+)` \|.*$", PARAMETERS, re.MULTILINE)}
FIELDS: dict[str, Any] = ChatRequest.model_json_schema()["properties"]


def cells(field: str) -> list[str]:
    return [cell.strip() for cell in ROWS[field].strip("|").split("|")]


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_has_a_row(field: str) -> None:
    name, allowed, _, effect = cells(field)
    assert name == f"`{field}`"
    assert allowed
    assert effect


def bounds(schema: Any) -> Iterator[int | float]:
    """Every bound that a schema names."""
    if isinstance(schema, dict):
        for key, value in schema.items():
            if key in ("minimum", "maximum", "exclusiveMinimum", "maxItems", "maxLength", "maxProperties"):
                yield value
            else:
                yield from bounds(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from bounds(value)


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "modalities"])
def test_a_row_tells_the_range(field: str) -> None:
    numbers = set(re.findall(r"-?\d+", cells(field)[1]))
    assert {str(bound) for bound in bounds(FIELDS[field])} <= numbers


@pytest.mark.parametrize("field", [field for field, schema in FIELDS.items() if schema.get("default") is not None])
def test_a_row_tells_the_default(field: str) -> None:
    assert cells(field)[2] == json.dumps(FIELDS[field]["default"])


def test_a_row_is_a_field() -> None:
    assert ROWS.keys() == FIELDS.keys()


def test_every_field_of_the_official_client_is_documented() -> None:
    fields = set(CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert {field for field in fields if f"`{field}`" not in PAGE} == set()


@pytest.mark.parametrize("name", [*TEMPLATE_KWARGS, *_REFUSED])
def test_what_is_refused_and_what_a_template_may_be_told_is_named(name: str) -> None:
    assert f"`{name}`" in PAGE


# --- answers --------------------------------------------------------------------------------------------


def members(schema: dict[str, Any]) -> Iterator[str]:
    """Every name that an answer of this schema may have."""
    if "$ref" in schema:
        yield from members(ANSWERS[schema["$ref"].rpartition("/")[2]])
    for name, inner in schema.get("properties", {}).items():
        yield name
        yield from members(inner)
    for inner in [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else ())]:
        yield from members(inner)


def test_every_member_of_an_answer_is_documented() -> None:
    names = set(members(ANSWERS["ChatCompletion"]))
    assert {"id", "reasoning_content", "cached_tokens", "arguments"} <= names
    told = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("## Answers") : PAGE.index("## Streams")]))
    assert names - told == set()


def test_the_page_calls_thoughts_as_the_writer_does() -> None:
    streams = PAGE[PAGE.index("## Streams") : PAGE.index("## Headers")]
    writer = (ROOT / "rust" / "src" / "sse" / "answer.rs").read_text("utf-8")
    (name,) = set(re.findall(r'"(reasoning\w*)":', writer))
    assert f"comes as `{name}`" in streams


# --- codes ----------------------------------------------------------------------------------------------

# Which argument of each call is a code.
CODES = {
    "fault": 0,
    "InvalidParameter": 2,
    "InvalidRequest": 2,
    "UnsupportedParameter": 2,
    "EngineFailure": 0,
    "_fail": 1,
    "fail": 1,
}


def codes_in(source: str) -> Iterator[str]:
    """Codes that stand in Python: as arguments where errors are made, and as the `code` of a class."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            place = CODES.get(called)
            found = node.args[place : place + 1] if place is not None else []
            found += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
        elif isinstance(node, ast.Assign) and any(getattr(target, "id", "") == "code" for target in node.targets):
            found = [node.value]
        else:
            continue
        for value in found:
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield value.value


def every_code() -> set[str]:
    elsewhere = {"accounts", "bench"}
    rooms = [path for path in PACKAGE.rglob("*.py") if elsewhere.isdisjoint(path.parts) and path.name != "cli.py"]
    codes = {code for path in rooms for code in codes_in(path.read_text("utf-8"))}
    codes |= {row.code for row in TABLE.values() if row.code}
    codes |= {f"{number}_{side}_value" for number in ("integer", "decimal") for side in ("below_min", "above_max")}
    core = "".join(path.read_text("utf-8") for path in (ROOT / "rust" / "src").rglob("*.rs"))
    return codes | set(re.findall(r'GRAMMAR_LOST: [^=]*=\s*\("(\w+)"', core))


def test_every_code_is_documented() -> None:
    codes = every_code()
    assert len(codes) > 20
    told = set(re.findall(r"`(\w+)`", PAGE[PAGE.index("## Errors") : PAGE.index("## Where this differs")]))
    assert codes - told == set()


# --- headers --------------------------------------------------------------------------------------------


def test_every_header_is_documented(live: Live) -> None:
    told = set(re.findall(r"^\| `([\w-]+)` \|", PAGE[PAGE.index("## Headers") : PAGE.index("## Errors")], re.MULTILINE))
    with live.http() as http:
        answers = [
            live.chat(max_tokens=1),
            live.chat(max_tokens=1, stream=True),
            live.chat(temperature=9),
            live.chat(model="nobody"),
            http.get("/v1/chat/completions"),
            http.post("/v1/chat/completions", headers={"authorization": "Bearer x"}),
            http.post("/v1/chat/completions", content=b"x", headers={"content-encoding": "gzip"}),
        ]
    assert [answer.status_code for answer in answers] == [200, 200, 400, 404, 405, 401, 415]
    sent = {name for answer in answers for name in answer.headers}
    assert sent - told == set()
    assert told - sent <= {"retry-after", "retry-after-ms", "x-should-retry", "connection", "idempotent-replayed"}
