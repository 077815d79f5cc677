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
# The same with a bound from the error's context. Whatever is in neither is told without pydantic's words, which name
# Python's types.
_BOUNDED: Final = {
    "too_short": "must hold at least {min_length} items",
    "too_long": "must hold at most {max_length} items",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "is_instance_of": "must be of type {class}",
}
_OWN: Final = frozenset(Code.__args__)  # type: ignore[attr-defined]
_WORDS: Final = {
    "missing": "is required",
    "string_type": "must be a string",
    "string_unicode": "must be text",
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "tuple_type": "must be an array",
    "list_type": "must be an array",
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
    field, *below = [step for step in error["loc"] if not str(step).startswith(TAG)] or ["request"]
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step[:40]}" for step in below)[:80]
    words = _words(error["type"], context)
    kind = UnsupportedParameter if error["type"] == "unsupported_parameter" else InvalidParameter
    return kind(str(field)[:80], words, _code(error["type"], context), place=place)


def _words(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _OWN:
        return str(context["words"])
    if kind in ("too_short", "string_too_short") and context["min_length"] == 1:
        return "must hold at least 1 item" if kind == "too_short" else "must not be empty"
    if kind in _BOUNDED:
        return _BOUNDED[kind].format_map({name: _number(value) for name, value in context.items()})
    return _WORDS.get(kind, "is not valid")


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
