"""What an error of a server elsewhere means here: takes its status and body, gives the client's error, or none.

None says that the server, the way to it or our settings are at fault, so that another region may do better. What the other
server says to the client goes through `Discretion`: it may name places and keys that are nobody's business.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ecocore.errors import ContextLengthExceeded, InvalidRequest, UnsupportedParameter

STATUSES: Final = frozenset({400, 413, 415, 422})
"""With these a server blames the request."""
MAX_MESSAGE: Final = 300

# Ours to mend, whatever the status says.
_OUR_SETTINGS: Final = frozenset({"model_not_found", "invalid_api_key", "insufficient_quota"})
_KINDS: Final[Mapping[str, type[InvalidRequest]]] = {
    "context_length_exceeded": ContextLengthExceeded,
    "unsupported_parameter": UnsupportedParameter,
}
_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_PLACE: Final = re.compile(r"[A-Za-z0-9_.\[\]-]{0,200}: ")

_HIDDEN: Final = "[...]"
_SECRETS: Final = re.compile(
    r"""
    \b[a-z][a-z0-9+.-]*://\S+                           # URLs
    | \b(?:Bearer|Basic)\s+\S+                          # credentials
    | \b(?:sk|eco|pk|key|hf|xai|gsk)[-_][\w*.-]{4,}     # keys, whole or with stars in them
    | \b\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?\b          # IPv4
    | \[?(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}\]?(?::\d{1,5})?   # IPv6
    | \b(?:localhost|[\w-]+(?:\.[\w-]+)+):\d{1,5}\b     # host and port
    | (?<![\w.])(?:/[\w.@-]+){2,}/?                     # paths of files
    """,
    re.VERBOSE | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Discretion:
    """What must not be said to a client: `secrets` in any case, and whatever looks like an address, a path or a key.

    `names`: what is called otherwise here, such as the model.
    """

    secrets: tuple[str, ...] = field(repr=False)
    names: Mapping[str, str]

    def applied(self, words: str) -> str:
        """The words as a client may read them: one short line."""
        # A key may be longer than what is told: it is looked for before anything is cut.
        for secret in self.secrets:
            words = words.replace(secret, _HIDDEN)
        words = "".join(letter if letter.isprintable() else " " for letter in words[: 8 * MAX_MESSAGE])
        words = _SECRETS.sub(_HIDDEN, words)
        for theirs, ours in self.names.items():
            words = words.replace(theirs, ours)
        return words if len(words) <= MAX_MESSAGE else words[: MAX_MESSAGE - 3] + "..."


def refusal(status: int, body: bytes, discretion: Discretion) -> InvalidRequest | None:
    """The error that the client hears; None where another region may do better."""
    if status not in STATUSES:
        return None
    fields = _fields(body)
    if fields is None:
        # No server of this API: a proxy, or something else altogether.
        return None
    code = _word(fields.get("code"))
    param = _param(fields.get("param"))
    if code in _OUR_SETTINGS or param == "model":
        return None
    told = fields["message"]
    message, place = _without_place(told, param)
    message = discretion.applied(message)
    if "context length" in told[:1000].lower():
        return ContextLengthExceeded(param or "messages", message)
    kind = _KINDS.get(code or "", InvalidRequest)
    return kind(param, message or "the request was refused", code, place=place)


def _fields(body: bytes) -> Mapping[str, Any] | None:
    """`message`, a string, and perhaps `param` and `code`; None for what is no error of this API."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, Mapping):
        return None
    error = told.get("error", told)
    if isinstance(error, Mapping) and isinstance(error.get("message"), str):
        return error
    return _validation(told.get("detail"))


def _validation(detail: Any) -> Mapping[str, Any] | None:
    """FastAPI's own: a list of faults, each with its place."""
    fault = detail[0] if isinstance(detail, list) and detail else None
    if not isinstance(fault, Mapping) or not isinstance(fault.get("msg"), str):
        return None
    place = fault.get("loc")
    param = place[1] if isinstance(place, list) and len(place) > 1 and place[0] == "body" else None
    return {"message": fault["msg"], "param": param}


def _param(value: Any) -> str | None:
    """The top-level field."""
    found = _WORD.match(value) if isinstance(value, str) else None
    return found.group() if found else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _without_place(message: str, param: str | None) -> tuple[str, str]:
    """An ecocore's message begins with the field and the place in it, which `InvalidRequest` says again."""
    if param is not None and message.startswith(param) and (found := _PLACE.match(message, len(param))):
        return message[found.end() :], found.group()[:-2]
    return message, ""
