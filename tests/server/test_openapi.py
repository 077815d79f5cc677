"""The description of the API: valid, complete, and true of the answers; the pages need nothing from elsewhere."""

import json
import re
from typing import Any, cast

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from ecocore.accounts.keys import KeyStore
from ecocore.request import ChatRequest
from ecocore.server.account import AccountPages
from ecocore.server.app import Service, create_app
from ecocore.server.guard import Limits
from ecocore.server.openapi import document
from ecocore.server.wire import Pace

MODEL = "some-maker/some-model"
HELLO = [{"role": "user", "content": "hello"}]


def validator(name: str) -> Draft202012Validator:
    """Of one schema of the document."""
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document()["components"]})


def test_the_document_is_valid_openapi_and_is_what_the_server_gives(live: Any) -> None:
    OpenAPIV31SpecValidator(document()).validate()
    response = httpx.get(f"{live.url}/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(document()))


def test_every_route_is_described_and_nothing_else(keys: KeyStore) -> None:
    account: Any = AccountPages(cast("Any", None), cast("Any", None))
    app = create_app(Service((), keys, Pace(), account=account), Limits())
    routes = {
        (re.sub(r":\w+\}", "}", route.path), method.lower(), route.policy.value == "key")  # type: ignore[attr-defined]
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    described = {
        (path, method, bool(item[method]["security"]))
        for path, item in document()["paths"].items()
        for method in item.keys() & {"get", "post"}
    }
    assert described == routes


def test_every_parameter_of_a_chat_is_described() -> None:
    properties = document()["components"]["schemas"]["ChatRequest"]["properties"]
    names = {field.alias or name for name, field in ChatRequest.model_fields.items()}
    assert properties.keys() == names


@pytest.mark.parametrize(
    ("path", "schema", "body"),
    [
        ("/v1/chat/completions", "ChatCompletion", {"messages": HELLO, "max_tokens": 3}),
        ("/v1/chat/completions", "ChatCompletion", {"messages": HELLO, "max_tokens": 3, "logprobs": True, "top_logprobs": 2}),
        ("/v1/completions", "Completion", {"prompt": "a", "max_tokens": 3, "logprobs": 2}),
        ("/v1/completions", "Completion", {"prompt": ["a", "b"], "max_tokens": 3, "echo": True}),
        ("/v1/responses", "Response", {"input": "a", "max_output_tokens": 3}),
        ("/v1/responses", "Response", {"input": "a", "logit_bias": {"256": 100}, "user": "u", "metadata": {"a": "b"}}),
        ("/tokenize", "Tokens", {"prompt": "a"}),
        ("/detokenize", "DetokenizedText", {"tokens": [97]}),
    ],
)
def test_an_answer_fits_its_schema(live: Any, path: str, schema: str, body: dict[str, Any]) -> None:
    with live.http() as http:
        response = http.post(path, json={"model": MODEL, **body})
        wrong = http.post(path, json={"model": MODEL, "n": "x"})
    assert response.status_code == 200
    validator(schema).validate(response.json())
    assert wrong.status_code == 400
    validator("Error").validate(wrong.json())


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("/v1/models", "ModelList"),
        (f"/v1/models/{MODEL}", "Model"),
        ("/health", "Status"),
        ("/nowhere", "Error"),
        ("/v1/balance", "Balance"),
        ("/v1/usage?days=3", "UsageList"),
        ("/v1/usage?days=x", "Error"),
    ],
)
def test_what_is_read_fits_its_schema(live: Any, path: str, schema: str) -> None:
    with live.http() as http:
        validator(schema).validate(http.get(path).json())


@pytest.mark.parametrize(
    ("schema", "body", "fits"),
    [
        ("ChatRequest", {"model": "m", "messages": HELLO}, True),
        ("ChatRequest", {"model": "m", "messages": HELLO, "temperature": None, "stop": None, "tools": None}, True),
        ("ChatRequest", {"model": "m", "messages": HELLO, "stop": "a", "logit_bias": {"1": 2}, "foo": 1}, True),
        ("ChatRequest", {"model": "m", "messages": []}, False),
        ("ChatRequest", {"model": "m", "messages": HELLO, "temperature": 3}, False),
        ("ChatRequest", {"model": "m", "messages": HELLO, "stop": [""]}, False),
        ("ChatRequest", {"model": "m", "messages": HELLO, "logit_bias": {"a": 2}}, False),
        ("ChatRequest", {"messages": HELLO}, False),
        ("CompletionRequest", {"model": "m", "prompt": [[1, 2], [3]], "temperature": None}, True),
        ("CompletionRequest", {"model": "m", "prompt": []}, False),
        ("CompletionRequest", {"prompt": "a"}, False),
        ("ResponseRequest", {"model": "m", "input": [{"role": "user", "content": "a"}]}, True),
        ("ResponseRequest", {"model": "m"}, False),
    ],
)
def test_the_schemas_of_requests_say_what_is_taken(schema: str, body: dict[str, Any], *, fits: bool) -> None:
    assert validator(schema).is_valid(body) is fits


def test_the_pages_are_small_and_load_nothing_from_elsewhere(live: Any) -> None:
    total = 0
    waiting, seen = {"/", "/docs"}, set()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        response = httpx.get(live.url + path)
        assert response.status_code == 200, path
        assert "default-src 'none'" in response.headers["content-security-policy"]
        total += len(response.content)
        assert not re.search(r"https?://|innerHTML|eval\(", response.text), path
        found = re.findall(r'(?:src|href)="([^"]+)"', response.text) if path in ("/", "/docs") else []
        assert all(link.startswith("/") for link in found)
        waiting |= {link for link in found if link.startswith("/static/")} - seen
    assert seen >= {"/", "/docs", "/static/docs.css", "/static/docs.js", "/static/index.js"}
    assert total < 60_000
