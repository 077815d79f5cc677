"""What every object of a request has in common: strict types, null means absent, unknown names are ignored.

Gives the class the others are made from, and the bounds on JSON values that are kept as they came.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, model_validator

from ecocore.request.faults import fault

MAX_DEPTH: Final = 64
HALF_A_PAIR: Final = "must not hold half of a surrogate pair, which is no text"


class JsonObject(BaseModel):
    """An object as the API's JSON spells it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return _without_nulls(value)


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: Python's strings may also hold halves of surrogate pairs."""
    try:
        return text.isascii() or text.encode() != b""
    except UnicodeEncodeError:
        return False


def _text(text: str) -> str:
    if not is_text(text):
        raise fault("invalid_value", HALF_A_PAIR)
    return text


IsText: Final = AfterValidator(_text)
Text = Annotated[str, IsText]
"""A string that a tokenizer can read."""


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not null."""
    return {name: value for name, value in fields.items() if value is not None}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


AsTuple: Final = BeforeValidator(_as_tuple)
"""JSON's arrays are lists; ours are tuples, which nobody changes."""


def _without_nulls(value: Any) -> Any:
    return present(value) if isinstance(value, Mapping) else value


NullIsAbsent: Final = BeforeValidator(_without_nulls)
"""For objects whose names are not fields: what an object of ours does by itself."""


def either(words: str, *kinds: type) -> BeforeValidator:
    """Refuses what is of none of `kinds`. `words` name the whole union, where pydantic would tell of one branch."""

    def check(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise fault("invalid_type", f"must be {words}")
        return value

    return BeforeValidator(check)


def json_bytes(value: Any) -> int:
    """Length of a JSON value as text. Raises ValueError for what is no JSON or is nested too deeply; needs no stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                if not all(isinstance(key, str) for key in item):
                    raise ValueError("must have strings as names")
                inner.extend(item.values())
            elif isinstance(item, list | tuple):
                inner.extend(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("must hold finite numbers only")
            elif not (item is None or isinstance(item, str | int | float | bool)):
                raise ValueError("must be plain JSON")
        if not inner:
            text = json.dumps(value, ensure_ascii=False)
            if not is_text(text):
                raise ValueError(HALF_A_PAIR)
            return len(text.encode())
        level = inner
    raise ValueError(f"must not be nested more than {MAX_DEPTH} deep")


def bounded(value: dict[str, Any]) -> dict[str, Any]:
    """The object itself, which may be kept as it came. Raises a fault for what is no JSON or is nested too deeply."""
    try:
        json_bytes(value)
    except ValueError as error:
        raise fault("invalid_value", str(error)) from None
    return value


PlainObject = Annotated[dict[str, Any], AfterValidator(bounded)]
"""A JSON object that is kept as it came."""
