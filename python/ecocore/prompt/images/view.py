"""Images as a model looks at them, and their places among the tokens of a prompt.

Takes images and token ids with one placeholder for each, gives the ids that the model reads and a view for each image.
Sizes and tokens are the family's own, in a file named for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ecocore._core import resize_rgb
from ecocore.errors import InvalidModelFile, InvalidParameter
from ecocore.prompt.images.image import Image

# What every family does to an image before what is its own: bicubic, by the number that others call so, and from bytes to
# numbers from 0 to 1.
_PREPARED: Final = {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255}


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """An image at the size that the model looks at it, uint8 (height, width, 3).

    Its tokens begin at `start` of the prompt: `rows` times `columns` of them, row by row. `digest` is the image's.
    """

    pixels: NDArray[np.uint8]
    start: int
    rows: int
    columns: int
    digest: bytes


class ImageSettings(Protocol):
    """The part of a checkpoint that tells how images are prepared."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Contents of config.json."""

    @property
    def image_settings(self) -> Mapping[str, Any]:
        """What the folder says about preparing images; empty if it says nothing."""


class Viewer(Protocol):
    """How a family's models look at images."""

    @property
    def image_text(self) -> str:
        """What stands for an image where a template takes strings."""

    @property
    def placeholder(self) -> int:
        """The token that stands for an image in a rendered prompt, and for each part of it in what the model reads."""

    @property
    def around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens before and after those of an image, which the template does not write."""

    @property
    def cell(self) -> int:
        """Pixels of a token, each way."""

    @property
    def looks_around(self) -> bool:
        """Whether the tokens of an image see each other, so that no step may compute a part of them."""

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to look at, multiples of `cell`. Raises ValueError with what is wrong with the shape."""


def refuse_other_preparation(settings: Mapping[str, Any], **own: bool) -> None:
    """Raises InvalidModelFile where a folder's settings ask for another preparation than is computed.

    `own`: switches that are as the family has them.
    """
    for name, ours in (_PREPARED | own).items():
        told = settings.get(name)
        if told is None:
            continue
        if type(told) not in (bool, int, float) or not isclose(told, ours, rel_tol=1e-6):
            raise InvalidModelFile(f"the settings of images have {name} {told!r:.80}; this version implements {ours!r}")


def laid_out(
    token_ids: NDArray[np.uint32], images: Sequence[Image], viewer: Viewer
) -> tuple[NDArray[np.uint32], tuple[View, ...]]:
    """The prompt as the model reads it. Raises InvalidParameter("messages").

    Costs CPU time with the areas of the images, without the GIL.
    """
    (places,) = np.nonzero(token_ids == viewer.placeholder)
    if len(places) != len(images):
        raise InvalidParameter(
            "messages",
            f"has {len(images)} images, but its text spells the token of an image {len(places) - len(images)} times more",
            "invalid_value",
        )
    before, after = (np.array(ids, np.uint32) for ids in viewer.around)
    pieces: list[NDArray[np.uint32]] = []
    views = []
    length = written = 0
    for number, (place, image) in enumerate(zip(places.tolist(), images, strict=True), 1):
        height, width = _fitted(number, image, viewer)
        rows, columns = height // viewer.cell, width // viewer.cell
        start = length + place - written + len(before)
        pixels = image.pixels if image.pixels.shape[:2] == (height, width) else resize_rgb(image.pixels, height, width)
        views.append(View(pixels, start, rows, columns, image.digest))
        pieces += [token_ids[written:place], before, np.full(rows * columns, viewer.placeholder, np.uint32), after]
        length = start + rows * columns + len(after)
        written = place + 1
    return np.concatenate([*pieces, token_ids[written:]]), tuple(views)


def _fitted(number: int, image: Image, viewer: Viewer) -> tuple[int, int]:
    try:
        return viewer.fitted(*image.pixels.shape[:2])
    except ValueError as error:
        raise InvalidParameter("messages", f"image {number} cannot be used: {error}", "invalid_image_url") from None
