"""The Idempotency-Key header: the same plain request again gets the same answer.

Takes a request's headers and fields, gives a key and a fingerprint. What was answered first is kept by `accounts.answers`.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.types import Scope

from ecocore.accounts.answers import MAX_IDEMPOTENCY_KEY
from ecocore.server.error_table import BadRequest

REPLAYED: Final = ("idempotent-replayed", "true")
_KEY: Final = re.compile(r"[\x21-\x7e]+")


def idempotency_key(scope: Scope) -> str | None:
    """What the key that was sent is kept as, if any. Raises BadRequest for one that is none."""
    values: list[bytes] = [value for name, value in scope["headers"] if name.lower() == b"idempotency-key"]
    if not values:
        return None
    key = values[0].decode("latin-1")
    if len(values) > 1 or len(key) > MAX_IDEMPOTENCY_KEY or not _KEY.fullmatch(key):
        raise BadRequest(f"send one Idempotency-Key of 1 to {MAX_IDEMPOTENCY_KEY} printable characters without spaces")
    # Clients may send anything, an API key among it, and it would stand in the database.
    return hashlib.sha256(values[0]).hexdigest()


def fingerprint(path: str, fields: Mapping[str, Any]) -> str:
    """The same for the same request, however its members are ordered."""
    told = json.dumps([path, fields], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()
