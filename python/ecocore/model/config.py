"""What every model's config has in common: the shape that the runner needs, and typed look-ups for reading it.

Knows no family: each reads its own config in its own file.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ecocore.errors import InvalidModelFile

# Far above any model. Every layer has a line in the config, so that a file of a few bytes could fill the memory.
MAX_LAYERS: Final = 10_000
# No length, count or token of a model reaches it; torch takes no more than 64 bits, Python any.
_MAX_INTEGER: Final = 2**31 - 1


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
            raise InvalidModelFile(f"{self.where} has {self.prefix}{key} {value!r:.80}; it must be an integer")
        if abs(value) > _MAX_INTEGER:
            raise InvalidModelFile(f"{self.where} has {self.prefix}{key} {value!r:.80}; it must be at most {_MAX_INTEGER}")
        return value

    def layers(self, key: str) -> int:
        """How many layers there are, by the integer under `key`. Raises InvalidModelFile also where no model has so many."""
        count = self.integer(key)
        if not 1 <= count <= MAX_LAYERS:
            raise InvalidModelFile(f"{self.where} has {self.prefix}{key} {count}; it must be between 1 and {MAX_LAYERS}")
        return count

    def number(self, key: str, default: float | None = None) -> float:
        """The number under `key`. Raises InvalidModelFile where it is missing without a default, or no number."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidModelFile(f"{self.where} has {self.prefix}{key} {value!r:.80}; it must be a number")
        # JSON as Python reads it has NaN, Infinity and integers without end.
        if not -sys.float_info.max <= value <= sys.float_info.max:
            raise InvalidModelFile(f"{self.where} has {self.prefix}{key} {value!r:.80}; it must be finite")
        return float(value)

    def _get(self, key: str, default: float | None) -> Any:
        value = self.values.get(self.prefix + key)
        if value is None:
            value = default
        if value is None:
            raise InvalidModelFile(f"{self.where} lacks {self.prefix}{key}")
        return value


def refuse_other_sizes(images: Mapping[str, Any], **sizes: tuple[int, int]) -> None:
    """Raises InvalidModelFile where images are cut in other pieces than the tower takes.

    `sizes`: those of the tower, and what settings of images mean that do not say them.
    """
    for name, (own, usual) in sizes.items():
        if (told := images.get(name, usual)) != own:
            raise InvalidModelFile(f"the settings of images have {name} {told!r:.80}, the vision tower has {own}")
