"""How Gemma 4 looks at images: as large as a budget of tokens allows, whatever size they had."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from ecocore.errors import InvalidModelFile
from ecocore.prompt.images.view import ImageSettings, refuse_other_preparation

_BUDGETS: Final = (70, 140, 280, 560, 1120)
_PLACES: Final = 10240


@dataclass(frozen=True)
class Gemma4Viewer:
    """See `Viewer`. `most_tokens`: of one image; `longest`: tokens of a side that have a place."""

    placeholder: int
    around: tuple[tuple[int, ...], tuple[int, ...]]
    cell: int
    most_tokens: int
    longest: int
    looks_around: bool
    image_text: str = "<|image|>"

    @classmethod
    def of(cls, checkpoint: ImageSettings) -> Self | None:
        """Reads a folder's settings; None for one that holds the text part alone. Raises InvalidModelFile."""
        config, settings = checkpoint.config, checkpoint.image_settings
        vision = config.get("vision_config")
        if not isinstance(vision, Mapping):
            return None
        refuse_other_preparation(settings, **({} if _changes_nothing(settings) else {"do_normalize": False}))
        text = config.get("text_config")
        numbers = {
            "image_token_id": config.get("image_token_id", 258880),
            "boi_token_id": config.get("boi_token_id", 255999),
            "eoi_token_id": config.get("eoi_token_id", 258882),
            "patch_size": settings.get("patch_size", 16),
            "pooling_kernel_size": settings.get("pooling_kernel_size", 3),
            "max_soft_tokens": settings.get("max_soft_tokens", 280),
            "position_embedding_size": vision.get("position_embedding_size", _PLACES),
        }
        for name, value in numbers.items():
            if type(value) is not int or value < 1:
                raise InvalidModelFile(f"the settings of images have {name} {value!r:.80}; it must be a positive integer")
        if numbers["max_soft_tokens"] not in _BUDGETS:
            raise InvalidModelFile(f"max_soft_tokens is {numbers['max_soft_tokens']}; it must be one of {_BUDGETS}")
        return cls(
            placeholder=numbers["image_token_id"],
            around=((numbers["boi_token_id"],), (numbers["eoi_token_id"],)),
            cell=numbers["patch_size"] * numbers["pooling_kernel_size"],
            most_tokens=numbers["max_soft_tokens"],
            longest=numbers["position_embedding_size"] // numbers["pooling_kernel_size"],
            looks_around=isinstance(text, Mapping) and text.get("use_bidirectional_attention") == "vision",
        )

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """See `Viewer`."""
        factor = math.sqrt(self.most_tokens * self.cell**2 / (height * width))
        rows, columns = math.floor(factor * height / self.cell), math.floor(factor * width / self.cell)
        if not rows and not columns:
            raise ValueError("it is too small to be looked at")
        if not rows:
            rows, columns = 1, min(width // height, self.most_tokens)
        elif not columns:
            rows, columns = min(height // width, self.most_tokens), 1
        if max(rows, columns) > self.longest:
            raise ValueError("one side is too much longer than the other")
        return rows * self.cell, columns * self.cell


def _changes_nothing(settings: Mapping[str, Any]) -> bool:
    """Whether colours would be the same if they were normalized."""
    mean, deviation = (settings.get(name, usual) for name, usual in (("image_mean", 0), ("image_std", 1)))
    return mean in (0, [0, 0, 0], None) and deviation in (1, [1, 1, 1], None)
