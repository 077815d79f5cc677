"""GET /openapi.json: the API described in OpenAPI 3.1.

Takes the models that check requests and the schemas of the answers, gives one document, made when first asked for.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from ecocore import __version__
from ecocore.request import ChatRequest
from ecocore.request.sampling import MAX_STOP_BYTES, MAX_STOPS
from ecocore.server.account import DEFAULT_DAYS, MAX_DAYS
from ecocore.server.completions import SHARED as COMPLETION_SHARED
from ecocore.server.completions import CompletionParameters
from ecocore.server.openapi_answers import ANSWERS, Schema, ref
from ecocore.server.responses import SHARED as RESPONSE_SHARED
from ecocore.server.responses import ResponseParameters
from ecocore.server.tokenize import DetokenizeParameters, TokenizeParameters

# Statuses that an endpoint that takes a body may answer beside 200; "default" stands for all that any may.
_BODY_ERRORS: Final = ("400", "401", "404", "408", "413", "415", "503")
_RUN_ERRORS: Final = ("402", "409", "429")
_HEADERS: Final = {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", "openai-processing-ms")}

_STOP: Final[Schema] = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES},
        {"type": "array", "maxItems": MAX_STOPS, "items": {"type": "string", "minLength": 1, "maxLength": MAX_STOP_BYTES}},
        {"type": "null"},
    ]
}

_STREAM: Final = "Server-sent events."
_EXAMPLE: Final = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64}


async def answer(_request: Request) -> Response:
    """GET /openapi.json."""
    return Response(_text(), media_type="application/json")


@cache
def _text() -> bytes:
    return json.dumps(document(), ensure_ascii=False, separators=(",", ":")).encode()


def document() -> dict[str, Any]:
    """The whole document. `/metrics` is in it though a port of its own may show it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ecocore",
            "version": __version__,
            "description": "Chat models behind the OpenAI API. Fields that are not described are ignored; null means absent.",
        },
        "servers": [{"url": "/"}],
        "paths": _paths(),
        "components": {
            "schemas": {**_requests(), **ANSWERS},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key: eco_..."}},
            "headers": {
                "x-request-id": {"description": "Names the exchange in the server's log.", "schema": {"type": "string"}},
                "openai-processing-ms": {
                    "description": "From the head of the request to that of the answer.",
                    "schema": {"type": "string"},
                },
            },
        },
    }


def _paths() -> dict[str, Any]:
    return {
        "/v1/chat/completions": _post("Answer a conversation", "ChatRequest", "ChatCompletion", _EXAMPLE, streams=True),
        "/v1/completions": _post(
            "Continue a text", "CompletionRequest", "Completion", {"prompt": "Once upon a time", "max_tokens": 32}, streams=True
        ),
        "/v1/responses": _post(
            "Answer items, without a memory",
            "ResponseRequest",
            "Response",
            {"input": "Hello!", "max_output_tokens": 64},
            streams=True,
        ),
        "/v1/models": _get("List the models", "ModelList", key=True),
        "/v1/models/{model_id}": {
            **_get("Describe a model", "Model", key=True, errors=("401", "404")),
            "parameters": [
                {
                    "name": "model_id",
                    "in": "path",
                    "required": True,
                    "description": "A slash in it may be plain or %2F.",
                    "schema": {"type": "string", "minLength": 1},
                }
            ],
        },
        "/v1/balance": _get("What the account of the key has", "Balance", key=True, errors=("401", "503")),
        "/v1/usage": {
            **_get("What the account used, by day and model", "UsageList", key=True, errors=("400", "401", "503")),
            "parameters": [
                {
                    "name": "days",
                    "in": "query",
                    "description": "How many days, today (UTC) included.",
                    "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DAYS, "default": DEFAULT_DAYS},
                }
            ],
        },
        "/tokenize": _post("Tokens of a text", "TokenizeParameters", "Tokens", {"prompt": "Hello!"}),
        "/detokenize": _post("Text of tokens", "DetokenizeParameters", "DetokenizedText", {"tokens": [72, 105]}),
        "/health": _get("Whether this process answers", "Status"),
        "/ready": _get("Whether a request would be taken now", "Status", errors=("503",)),
        "/metrics": _get("What was done, for Prometheus", media="text/plain"),
        "/openapi.json": _get("This document", media="application/json"),
        "/docs": _get("A page to read and try this", media="text/html"),
        "/": _get("Where to go from here", media="text/html"),
        "/static/{name}": {
            **_get("A file of the pages", media="*/*", errors=("404",)),
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}],
        },
    }


def _get(
    summary: str, answer: str | None = None, *, key: bool = False, media: str = "application/json", errors: tuple[str, ...] = ()
) -> dict[str, Any]:
    content = {media: {"schema": ref(answer)} if answer else {}}
    return {"get": _operation(summary, content, key=key, errors=errors or (("401",) if key else ()))}


def _post(summary: str, asked: str, answer: str, example: Mapping[str, Any], *, streams: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": ref(answer)}}
    if streams:
        content["text/event-stream"] = {"schema": {"description": _STREAM}}
    errors = (*_BODY_ERRORS, *(_RUN_ERRORS if streams else ()))
    body = {"required": True, "content": {"application/json": {"schema": ref(asked), "example": {"model": "MODEL", **example}}}}
    return {"post": {**_operation(summary, content, key=True, errors=errors), "requestBody": body}}


def _operation(summary: str, content: Mapping[str, Any], *, key: bool, errors: tuple[str, ...]) -> dict[str, Any]:
    error = {"description": "An error.", "headers": _HEADERS, "content": {"application/json": {"schema": ref("Error")}}}
    return {
        "summary": summary,
        "security": [{"key": []}] if key else [],
        "responses": {
            "200": {"description": "The answer.", "headers": _HEADERS, "content": content},
            **dict.fromkeys((*errors, "default"), error),
        },
    }


# --- requests -------------------------------------------------------------------------------------------


def _requests() -> dict[str, Schema]:
    models = (ChatRequest, CompletionParameters, ResponseParameters, TokenizeParameters, DetokenizeParameters)
    _, made = models_json_schema([(model, "validation") for model in models], ref_template="#/components/schemas/{model}")
    schemas: dict[str, Schema] = {name: _tidy(schema) for name, schema in made["$defs"].items()}
    chat = next(schema for name, schema in schemas.items() if name.endswith("ChatRequest"))
    chat["properties"]["stop"] = _STOP
    chat["properties"]["logit_bias"]["anyOf"][0]["propertyNames"] = {"pattern": "^[0-9]{1,10}$"}
    own = schemas.pop("CompletionParameters")
    schemas["CompletionRequest"] = _with_shared(own, chat, COMPLETION_SHARED)
    own = schemas.pop("ResponseParameters")
    schemas["ResponseRequest"] = _with_shared(own, chat, RESPONSE_SHARED)
    return schemas


def _with_shared(own: Schema, chat: Schema, shared: tuple[str, ...]) -> Schema:
    """A request whose shared fields are those of a chat."""
    borrowed = {name: chat["properties"][name] for name in shared}
    required = [name for name in chat["required"] if name in shared]
    return {
        **own,
        "properties": {**borrowed, **own["properties"]},
        "required": [*required, *(name for name in own["required"] if name not in required)],
    }


def _tidy(schema: Schema) -> Schema:
    """Without pydantic's titles and defaults that mean absent; null is allowed wherever a field may be absent."""
    required = schema.get("required", ())
    if "properties" in schema:
        properties = {name: _field(value, optional=name not in required) for name, value in schema["properties"].items()}
        schema = {**schema, "properties": properties}
    schema.pop("title", None)
    if "description" in schema:
        schema["description"] = " ".join(schema["description"].split())
    return schema


def _field(schema: Schema, *, optional: bool) -> Schema:
    kept = {name: value for name, value in schema.items() if name != "title" and not (name == "default" and value in (None, []))}
    if not optional or {"type": "null"} in kept.get("anyOf", ()):
        return kept
    outside: Schema = {name: kept.pop(name) for name in ("default", "description") if name in kept}
    return {"anyOf": [kept, {"type": "null"}], **outside}
