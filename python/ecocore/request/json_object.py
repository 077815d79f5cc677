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


class JsonObject(BaseModel):
    """An object as the API's JSON spells it."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        return present(value) if isinstance(value, Mapping) else value


def present(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not null."""
    return {name: value for name, value in fields.items() if value is not None}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


AsTuple: Final = BeforeValidator(_as_tuple)
"""JSON's arrays are lists; ours are tuples, which nobody changes."""


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
            return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        level = inner
    raise ValueError(f"must not be nested more than {MAX_DEPTH} deep")


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json_bytes(value)
    except ValueError as error:
        raise fault("invalid_value", str(error)) from None
    return value


PlainObject = Annotated[dict[str, Any], AfterValidator(_bounded)]
"""A JSON object that is kept as it came."""
