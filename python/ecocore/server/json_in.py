"""JSON from strangers: bytes to one plain object, within bounds, or a BadRequest that says what is wrong.

Depth and size are judged on the bytes, before any parser recurses or holds the interpreter for long. Which fields an
object needs is `ChatRequest`'s matter.
"""

import json
import math
import re
from collections import Counter
from typing import Any, Final

from ecocore._core import json_shape
from ecocore.server.error_table import BadRequest

MAX_DEPTH: Final = 64
MAX_DIGITS: Final = 400
# 4,096 messages of several parts and 128 tools with their schemas have fewer; 200,000 take a second to parse and check.
MAX_CONTAINERS: Final = 50_000
# The parser lets nobody else run while it builds an object; a million members take it a second, so many a quarter of that.
MAX_COMMAS: Final = 250_000

_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises BadRequest."""
    if not body.strip():
        raise BadRequest("the body is empty; send a JSON object")
    depth, containers, commas = json_shape(body)
    if containers > MAX_CONTAINERS:
        raise BadRequest(f"the body holds more than {MAX_CONTAINERS} arrays and objects")
    if commas > MAX_COMMAS:
        raise BadRequest(f"the body holds more than {MAX_COMMAS} values")
    if depth > MAX_DEPTH:
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
