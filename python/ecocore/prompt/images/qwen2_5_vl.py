"""How Qwen2.5-VL looks at images: near their own size, in cells of two patches each way."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from ecocore.errors import InvalidModelFile
from ecocore.prompt.images.view import ImageSettings, refuse_other_preparation

_MAX_RATIO: Final = 200
# Larger than any camera's picture: what is looked at takes three bytes for each, however small the image was that came.
_MAX_PIXELS: Final = 2**26


@dataclass(frozen=True)
class Qwen25VlViewer:
    """See `Viewer`. `min_pixels` and `max_pixels`: areas between which images are looked at."""

    placeholder: int
    cell: int
    min_pixels: int
    max_pixels: int
    image_text: str = "<|vision_start|><|image_pad|><|vision_end|>"
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    looks_around: bool = False

    @classmethod
    def of(cls, checkpoint: ImageSettings) -> Self | None:
        """Reads a folder's settings; None for files of the text part alone. Raises InvalidModelFile."""
        if "vision_config" not in checkpoint.config:
            return None
        settings = checkpoint.image_settings
        refuse_other_preparation(settings, do_normalize=True)
        size = settings.get("size")
        size = size if isinstance(size, Mapping) else {}
        numbers = {
            "placeholder": checkpoint.config.get("image_token_id", 151655),
            "patch_size": settings.get("patch_size", 14),
            "merge_size": settings.get("merge_size", 2),
            "min_pixels": settings.get("min_pixels", size.get("shortest_edge", 56 * 56)),
            "max_pixels": settings.get("max_pixels", size.get("longest_edge", 28 * 28 * 1280)),
        }
        for name, value in numbers.items():
            if type(value) is not int or value < 1:
                raise InvalidModelFile(f"the settings of images have {name} {value!r:.80}; it must be a positive integer")
        if not numbers["min_pixels"] <= numbers["max_pixels"] <= _MAX_PIXELS:
            raise InvalidModelFile(
                f"the settings of images have min_pixels {numbers['min_pixels']} and max_pixels {numbers['max_pixels']};"
                f" they must be in this order, and at most {_MAX_PIXELS}"
            )
        return cls(
            numbers["placeholder"], numbers["patch_size"] * numbers["merge_size"], numbers["min_pixels"], numbers["max_pixels"]
        )

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """See `Viewer`."""
        if max(height, width) > _MAX_RATIO * min(height, width):
            raise ValueError(f"one side is more than {_MAX_RATIO} times the other")
        # Python rounds halves to even, and so must everybody who wants the same tokens.
        sides = (round(height / self.cell) * self.cell, round(width / self.cell) * self.cell)
        area = sides[0] * sides[1]
        if area > self.max_pixels:
            shrink = math.sqrt(height * width / self.max_pixels)
            return (self._multiple(height / shrink, math.floor), self._multiple(width / shrink, math.floor))
        if area < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (height * width))
            return (self._multiple(height * grow, math.ceil), self._multiple(width * grow, math.ceil))
        return sides

    def _multiple(self, side: float, rounded: Callable[[float], int]) -> int:
        return max(self.cell, rounded(side / self.cell) * self.cell)
