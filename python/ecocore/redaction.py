"""Blacks out API keys in whatever text is about to leave: lines of the log, errors, ids that clients chose.

Takes text, gives text. Knows how a key looks and not which keys there are; passwords and keys of others have to be named.
"""

import re
from collections.abc import Iterable
from typing import Final

REDACTED: Final = "[redacted]"

# In a path the underscore may come percent-encoded, and one key may follow another without anything between them.
# The eight characters that lists show (`prefix`) are no secret.
_KEY: Final = re.compile(r"(eco(?:_|%5f))(?:[0-9a-z_]|%5f){8,}", re.IGNORECASE)


def redacted(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without what looks like a key, and without the `secrets`."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return _KEY.sub(rf"\1{REDACTED}", text)
