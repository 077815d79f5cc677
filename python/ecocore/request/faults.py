"""From pydantic's errors to ours: the top-level field, the place below it, the API's own code.

Takes what a validator found, gives an InvalidRequest. Nothing of what the client sent is quoted, but for short names.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Literal

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ecocore.errors import InvalidParameter, InvalidRequest, UnsupportedParameter

Code = Literal[
    "array_above_max_length",
    "empty_array",
    "invalid_json_schema",
    "invalid_type",
    "invalid_value",
    "missing_required_parameter",
    "string_above_max_length",
    "unknown_parameter",
    "unsupported_parameter",
]

# Tags of a union stand in pydantic's path, though the client wrote no such key. Ours begin with this sign.
TAG: Final = "#"

_CODES: Final[Mapping[str, Code]] = {
    "missing": "missing_required_parameter",
    "too_short": "empty_array",
    "too_long": "array_above_max_length",
    "string_too_long": "string_above_max_length",
    "extra_forbidden": "unknown_parameter",
}
_OWN: Final = frozenset(Code.__args__)  # type: ignore[attr-defined]
_WORDS: Final = {
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "tuple_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "finite_number": "must be a finite number",
    "extra_forbidden": "is not a known name",
}


def fault(code: Code, message: str) -> PydanticCustomError:
    """What a validator raises. `message` says what the value must be; the field is known from where it is raised."""
    # Braces would be read as places for a context.
    return PydanticCustomError(code, "{words}", {"words": message})


@contextmanager
def named_errors() -> Iterator[None]:
    """Turns pydantic's first error into one of ours that names the field."""
    try:
        yield
    except ValidationError as error:
        raise _named(error.errors(include_url=False, include_input=False)[0]) from None


def _named(error: ErrorDetails) -> InvalidRequest:
    context = error.get("ctx", {})
    kept = context.get("error")
    if isinstance(kept, InvalidRequest):
        return kept
    field, *below = [str(step) for step in error["loc"] if not str(step).startswith(TAG)] or ["request"]
    place = f"{'.'.join(step[:40] for step in below)[:80]}: " if below else ""
    words = _WORDS.get(error["type"]) or error["msg"].replace("Input should be", "must be", 1)
    kind = UnsupportedParameter if error["type"] == "unsupported_parameter" else InvalidParameter
    return kind(field[:80], place + words, _code(error["type"], context))


def _code(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _OWN:
        return kind
    if kind in _CODES:
        return _CODES[kind]
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        bound = context.get("ge", context.get("gt", context.get("le", context.get("lt"))))
        number = "integer" if isinstance(bound, int) else "decimal"
        return f"{number}_{'below_min' if kind.startswith('greater') else 'above_max'}_value"
    return "invalid_type" if kind.endswith(("_type", "_parsing", "int_from_float")) else "invalid_value"
