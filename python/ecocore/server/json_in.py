"""JSON from strangers: bytes to one plain object, within bounds, or a BadRequest that says what is wrong.

Depth is judged on the bytes, before any parser recurses. Which fields an object needs is `ChatRequest`'s matter.
"""

import json
import math
import re
from collections import Counter
from typing import Any, Final

from ecocore.server.error_table import BadRequest

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 400
# 4,096 messages of several parts and 128 tools with their schemas have fewer; 200,000 take a second to parse and check.
MAX_CONTAINERS: Final = 50_000

# Possessive throughout, and the closing quote is optional: one pass, whatever the bytes are.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises BadRequest."""
    brackets = _STRING.sub(b"", body).translate(_BRACKETS, _NO_BRACKETS)
    if brackets.count(b"[") > MAX_CONTAINERS:
        raise BadRequest(f"the body holds more than {MAX_CONTAINERS} arrays and objects")
    if _depth(brackets) > MAX_DEPTH:
        raise BadRequest(f"the body is no valid JSON, or nested more than {MAX_DEPTH} deep")
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_int,
        )
        if _SURROGATE.search(body):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start})") from None
    except UnicodeEncodeError:
        raise BadRequest("the body holds half of a surrogate pair, which is no text") from None
    except json.JSONDecodeError as error:
        raise BadRequest(f"the body is no valid JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def _depth(brackets: bytes) -> int:
    """How deep brackets nest; at least that for brackets that do not match, which no parser accepts.

    Each round removes the innermost pairs, at the speed of `bytes.replace`; there are at most `MAX_DEPTH` of them.
    """
    rounds = 0
    while rounds <= MAX_DEPTH and b"[]" in brackets:
        brackets = brackets.replace(b"[]", b"")
        rounds += 1
    return rounds + brackets.count(b"[")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise BadRequest(f"the body names {twice[:80]!r} twice in one object")
    return fields


def _constant(name: str) -> float:
    raise BadRequest(f"the body holds {name}, which is no JSON number")


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS or math.isinf(number := float(digits)):
        raise BadRequest(f"the body holds a number that is out of range: {digits[:40]}")
    return number


def _int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise BadRequest(f"the body holds a number of {len(digits)} digits: {digits[:40]}...")
    return int(digits)
