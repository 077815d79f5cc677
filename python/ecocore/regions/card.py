"""What a server elsewhere says of a model in its list: takes the JSON of `GET /v1/models`, gives facts; trusts none of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Self

MAX_CONTEXT: Final = 2**27
MAX_CREATED: Final = 2**40
ABILITIES: Final = ("text", "json", "tools", "images", "reasoning")


class Dialect(Enum):
    """Which fields beyond the API's own a server knows."""

    ECOCORE = "ecocore"
    VLLM = "vllm"
    PLAIN = "plain"
    """Unknown, perhaps strict: it is told no field that its API does not have."""


@dataclass(frozen=True, slots=True)
class Card:
    """None: not told."""

    dialect: Dialect = Dialect.PLAIN
    context_length: int | None = None
    created: int | None = None
    abilities: tuple[str, ...] | None = None

    @classmethod
    def find(cls, told: Any, model_id: str) -> Self | None:
        """The card of a model in a list; None where it is not there, or what was told is no list."""
        entries = _list(told.get("data")) if isinstance(told, Mapping) else None
        found = (one for one in entries or () if isinstance(one, Mapping) and one.get("id") == model_id)
        entry = next(found, None)
        return None if entry is None else cls._read(entry)

    @classmethod
    def _read(cls, entry: Mapping[str, Any]) -> Self:
        context = _count(entry.get("context_length"), MAX_CONTEXT) or _count(entry.get("max_model_len"), MAX_CONTEXT)
        abilities = _list(entry.get("abilities"))
        return cls(
            dialect=_dialect(entry),
            context_length=context,
            created=_count(entry.get("created"), MAX_CREATED),
            abilities=None if abilities is None else tuple(name for name in ABILITIES if name in abilities),
        )


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None


def _dialect(entry: Mapping[str, Any]) -> Dialect:
    match entry.get("owned_by"):
        case "ecocore":
            return Dialect.ECOCORE
        case "vllm":
            return Dialect.VLLM
        case _:
            return Dialect.PLAIN


def _count(value: Any, most: int) -> int | None:
    return value if type(value) is int and 0 < value <= most else None
