"""What every exception becomes on the wire: the only place where statuses meet exceptions.

Takes an exception, gives an `ApiError`. Spelling it as JSON is `wire`'s part.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, NamedTuple

from starlette.exceptions import HTTPException

from ecocore.accounts.answers import IdempotencyConflict, IdempotencyKeyReused
from ecocore.accounts.database import DatabaseUnavailable
from ecocore.errors import (
    EcocoreError,
    EngineFailure,
    InvalidRequest,
    KeyQueueFull,
    ModelNotFound,
    Overloaded,
    RegionUnavailable,
    RuntimeClosed,
)
from ecocore.redaction import redacted


class Refusal(EcocoreError):
    """HTTP itself is the reason: the kinds below are raised by the server's own rooms.

    `headers`: what this one refusal tells beside those of its row.
    """

    def __init__(self, message: str = "", headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.headers = headers


class BadRequest(Refusal):
    """The request breaks a rule of HTTP or JSON."""


class KeyMissing(Refusal):
    """No key was sent."""


class KeyInvalid(Refusal):
    """The key is malformed, unknown or revoked."""


class BalanceTooLow(Refusal):
    """The account cannot pay for the request."""


class ModelNotPriced(Refusal):
    """Answers cost something here, and what this model's cost is not settled."""


class BodyTooSlow(Refusal):
    """The body did not arrive in time."""


class BodyTooLarge(Refusal):
    """The body is larger than allowed."""


class PathTooLong(Refusal):
    """The path and query are longer than allowed."""


class EncodingUnsupported(Refusal):
    """The body came compressed."""


class HeadersTooLarge(Refusal):
    """There are too many header fields, or too large ones."""


class ReaderTooSlow(Refusal):
    """The client does not take a streamed answer as fast as it is made."""


class AnswerTooSlow(Refusal):
    """The answer took longer than any may."""


class RequestsExceeded(Refusal):
    """The key has sent as many requests as it may, in a minute or at once."""


class TokensExceeded(Refusal):
    """The key has used as many tokens as it may in a minute."""


class ServerBusy(Refusal):
    """The server itself holds as much as it may."""


class ShuttingDown(Refusal):
    """The server is about to end."""


@dataclass(frozen=True, slots=True)
class ApiError:
    """One error as the API tells it."""

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


class Row(NamedTuple):
    """`code` None: the exception's own `code` if it has one. `message` None: the exception's own words."""

    status: int
    type: str
    code: str | None
    message: str | None = None
    headers: tuple[tuple[str, str], ...] = ()


_REQUEST: Final = "invalid_request_error"
_SERVER: Final = "server_error"
_RATE: Final = "requests"
_QUOTA: Final = "insufficient_quota"
_TOKENS: Final = "tokens"
_ASK_FOR_KEY: Final = (("www-authenticate", "Bearer"),)
_NO_LEDGER: Final = "keys and balances cannot be checked at the moment; retry in a few seconds"
_RETRY_SOON: Final = (("retry-after", "1"),)
_RETRY_LATER: Final = (("retry-after", "5"),)

# The first kind that fits counts: an exception's own class first, then those above it.
TABLE: Final[dict[type[Exception], Row]] = {
    BadRequest: Row(400, _REQUEST, None),
    IdempotencyKeyReused: Row(400, _REQUEST, "idempotency_key_reused"),
    InvalidRequest: Row(400, _REQUEST, None),
    KeyMissing: Row(401, _REQUEST, None, headers=_ASK_FOR_KEY),
    KeyInvalid: Row(401, _REQUEST, "invalid_api_key", headers=_ASK_FOR_KEY),
    BalanceTooLow: Row(402, _QUOTA, "insufficient_balance"),
    ModelNotPriced: Row(402, _QUOTA, "model_not_priced"),
    ModelNotFound: Row(404, _REQUEST, "model_not_found"),
    IdempotencyConflict: Row(409, _REQUEST, "idempotency_conflict", headers=_RETRY_SOON),
    BodyTooSlow: Row(408, _REQUEST, None),
    ReaderTooSlow: Row(408, _REQUEST, None),
    BodyTooLarge: Row(413, _REQUEST, None),
    PathTooLong: Row(414, _REQUEST, None),
    EncodingUnsupported: Row(415, _REQUEST, None),
    HeadersTooLarge: Row(431, _REQUEST, None),
    RequestsExceeded: Row(429, _RATE, "rate_limit_exceeded"),
    TokensExceeded: Row(429, _TOKENS, "rate_limit_exceeded"),
    KeyQueueFull: Row(429, _RATE, "rate_limit_exceeded", headers=_RETRY_SOON),
    EngineFailure: Row(500, _SERVER, None),
    AnswerTooSlow: Row(503, _SERVER, "overloaded", headers=_RETRY_LATER),
    ServerBusy: Row(503, _SERVER, "overloaded", headers=_RETRY_SOON),
    Overloaded: Row(503, _SERVER, "overloaded", headers=_RETRY_SOON),
    RegionUnavailable: Row(503, _SERVER, "all_regions_unavailable", headers=_RETRY_LATER),
    RuntimeClosed: Row(503, _SERVER, "shutting_down", "the server is shutting down; retry in a moment", _RETRY_LATER),
    ShuttingDown: Row(503, _SERVER, "shutting_down", "the server is shutting down; retry in a moment", _RETRY_LATER),
    DatabaseUnavailable: Row(503, _SERVER, "ledger_unavailable", _NO_LEDGER, _RETRY_LATER),
}

_BUG: Final = Row(500, _SERVER, None, "the server failed to answer this request; its log tells why under the request id")


def api_error(error: Exception) -> ApiError:
    """How the API tells an exception. What is in no row is a bug, and its words stay in the log."""
    if isinstance(error, HTTPException):
        return _routing_error(error)
    row = next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), _BUG)
    # The codes of others are not for programs that speak this API: SQLAlchemy's are names of its own pages.
    own_code = getattr(error, "code", None) if row.code is None and isinstance(error, EcocoreError) else None
    return ApiError(
        status=row.status,
        type=row.type,
        code=own_code if isinstance(own_code, str) else row.code,
        # Errors quote what was sent, and what was sent may hold a key.
        message=row.message or redacted(str(error)),
        param=error.param if isinstance(error, InvalidRequest) else None,
        headers=row.headers + (error.headers if isinstance(error, Refusal) else ()),
    )


def _routing_error(error: HTTPException) -> ApiError:
    headers = error.headers or {}
    words = {
        HTTPStatus.NOT_FOUND: "there is nothing at this URL; chats go to POST /v1/chat/completions, and /docs lists the rest",
        HTTPStatus.METHOD_NOT_ALLOWED: f"this URL takes {headers.get('Allow', 'another method')} only",
    }
    message = words.get(HTTPStatus(error.status_code), redacted(error.detail))
    return ApiError(error.status_code, _REQUEST, None, message, headers=tuple(headers.items()))
