"""What every model's config has in common: the shape that the runner needs, and typed look-ups for reading it.

Knows no family: each reads its own config in its own file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ecocore.errors import InvalidModelFile


class ModelConfig(Protocol):
    """What the runner needs to know of a model, whatever its family."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""

    @property
    def context_length(self) -> int:
        """Positions that the model was made for."""

    @property
    def num_heads(self) -> int:
        """Query heads of every layer."""

    @property
    def kv_layers(self) -> "tuple[KvLayer, ...]":
        """What each layer keeps of keys and values."""


@dataclass(frozen=True)
class KvLayer:
    """Keys and values of one layer: so many heads, a divisor of the query heads, each so wide.

    `window`: how many positions a position sees, itself included; None for all before it.
    """

    num_kv_heads: int
    head_dim: int
    window: int | None = None


@dataclass(frozen=True)
class WavelengthScaling:
    """Rotary scaling by wavelength: short waves stay, long ones are slowed by `factor`, those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class Settings:
    """Typed look-ups in what a model file says; errors name the file and the key."""

    values: Mapping[str, Any]
    where: str
    prefix: str = ""

    def integer(self, key: str, default: int | None = None) -> int:
        """The integer under `key`. Raises InvalidModelFile where it is missing without a default, or no integer."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidModelFile(f"{self.where} has {self.prefix}{key} {value!r}; it must be an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """The number under `key`. Raises InvalidModelFile where it is missing without a default, or no number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidModelFile(f"{self.where} has {self.prefix}{key} {value!r}; it must be a number")
        return float(value)

    def _get(self, key: str, default: float | None) -> Any:
        value = self.values.get(self.prefix + key)
        if value is None:
            value = default
        if value is None:
            raise InvalidModelFile(f"{self.where} lacks {self.prefix}{key}")
        return value
