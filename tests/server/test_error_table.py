"""Exceptions to statuses: every row, and what never leaves."""

import json

import pytest
from starlette.exceptions import HTTPException

from ecocore import errors
from ecocore.accounts.database import DatabaseUnavailable
from ecocore.server import error_table
from ecocore.server.error_table import api_error
from ecocore.server.wire import MAX_ERROR_BYTES, error_body


@pytest.mark.parametrize(
    ("error", "status", "kind", "code", "param"),
    [
        (errors.InvalidRequest("messages", "no"), 400, "invalid_request_error", None, "messages"),
        (errors.InvalidParameter("n", "no", "invalid_type"), 400, "invalid_request_error", "invalid_type", "n"),
        (errors.UnsupportedParameter("tools", "no"), 400, "invalid_request_error", "unsupported_parameter", "tools"),
        (errors.ContextLengthExceeded("messages", "no"), 400, "invalid_request_error", "context_length_exceeded", "messages"),
        (errors.ModelNotFound("model", "no"), 404, "invalid_request_error", "model_not_found", "model"),
        (errors.Overloaded("full"), 503, "server_error", "overloaded", None),
        (errors.QueueFull("full"), 503, "server_error", "overloaded", None),
        (errors.RuntimeClosed("closed"), 503, "server_error", "shutting_down", None),
        (errors.RegionUnavailable("the engine does not run"), 503, "server_error", "all_regions_unavailable", None),
        (errors.failure("engine_lost", "it stopped"), 503, "server_error", "all_regions_unavailable", None),
        (errors.EngineFailure("engine_error", "lost"), 500, "server_error", "engine_error", None),
        (errors.failure("engine_error", "lost"), 500, "server_error", "engine_error", None),
        (errors.failure("runtime_closed", "closed"), 503, "server_error", "shutting_down", None),
        (errors.failure("grammar_too_complex", "no"), 400, "invalid_request_error", "invalid_json_schema", None),
        (errors.failure("request_refused", "no"), 400, "invalid_request_error", None, None),
        (errors.InternalError("/some/file broke"), 500, "server_error", None, None),
        (errors.InvalidModelFile("/some/file"), 500, "server_error", None, None),
        (DatabaseUnavailable("/some/file is locked"), 503, "server_error", "ledger_unavailable", None),
        (error_table.BadRequest("no"), 400, "invalid_request_error", None, None),
        (error_table.KeyMissing("no"), 401, "invalid_request_error", None, None),
        (error_table.KeyInvalid("no"), 401, "invalid_request_error", "invalid_api_key", None),
        (error_table.BodyTooSlow("no"), 408, "invalid_request_error", None, None),
        (error_table.BodyTooLarge("no"), 413, "invalid_request_error", None, None),
        (error_table.PathTooLong("no"), 414, "invalid_request_error", None, None),
        (error_table.EncodingUnsupported("no"), 415, "invalid_request_error", None, None),
        (error_table.HeadersTooLarge("no"), 431, "invalid_request_error", None, None),
        (errors.KeyQueueFull("full"), 429, "requests", "rate_limit_exceeded", None),
        (error_table.RequestsExceeded("no"), 429, "requests", "rate_limit_exceeded", None),
        (error_table.TokensExceeded("no"), 429, "tokens", "rate_limit_exceeded", None),
        (error_table.ServerBusy("no"), 503, "server_error", "overloaded", None),
        (error_table.ShuttingDown(), 503, "server_error", "shutting_down", None),
        (HTTPException(404), 404, "invalid_request_error", None, None),
        (HTTPException(405, headers={"Allow": "GET"}), 405, "invalid_request_error", None, None),
        (OSError(2, "gone", "/some/file"), 500, "server_error", None, None),
        (KeyError("/some/file"), 500, "server_error", None, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_exception_has_its_status(error: Exception, status: int, kind: str, code: str | None, param: str | None) -> None:
    told = api_error(error)
    assert (told.status, told.type, told.code, told.param) == (status, kind, code, param)
    assert told.message
    assert "/some" not in told.message


def test_codes_of_others_stay_inside() -> None:
    class Foreign(Exception):
        code = "3o7r"

    assert api_error(Foreign("/some/file")).code is None


def test_what_may_be_retried_says_when() -> None:
    for error in (
        errors.QueueFull("full"),
        errors.RuntimeClosed("closed"),
        errors.RegionUnavailable("down"),
        DatabaseUnavailable("locked"),
    ):
        assert int(dict(api_error(error).headers)["retry-after"]) >= 1


def test_a_refusal_adds_its_own_headers_to_those_of_its_row() -> None:
    told = api_error(error_table.KeyInvalid("no", (("x-more", "1"),)))
    assert told.headers == (("www-authenticate", "Bearer"), ("x-more", "1"))


def test_every_kind_of_refusal_is_in_the_table() -> None:
    kinds = set(error_table.Refusal.__subclasses__())
    assert kinds <= error_table.TABLE.keys()


@pytest.mark.parametrize("letter", ["a", "\0", "\u20ac", "\U0001f600", "\ud800", '"'])
def test_an_error_is_short_whatever_it_quotes(letter: str) -> None:
    body = error_body(api_error(errors.InvalidParameter("x", letter * 10_000)))
    assert len(body) <= MAX_ERROR_BYTES
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
