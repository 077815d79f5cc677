"""Placeholders become as many tokens as an image has, and each view knows where they are."""

from dataclasses import dataclass

import numpy as np
import pytest

from ecocore.errors import ContextLengthExceeded, InvalidParameter
from ecocore.prompt.images.image import Image
from ecocore.prompt.images.view import laid_out
from ecocore.prompt.prompt import Prompt


@dataclass
class Halves:
    """Looks at images in cells of two pixels, no larger than they are, between two tokens."""

    image_text: str = "<i>"
    placeholder: int = 9
    around: tuple[tuple[int, ...], tuple[int, ...]] = ((7,), (8, 8))
    cell: int = 2
    looks_around: bool = False

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        if height == 1:
            raise ValueError("it is a line")
        return height // 2 * 2, width // 2 * 2


def image(height: int, width: int) -> Image:
    return Image(np.full((height, width, 3), height, np.uint8), bytes([height, width]))


def test_each_image_stands_between_its_tokens() -> None:
    ids = np.array([1, 9, 2, 3, 9], np.uint32)
    laid, views = laid_out(ids, [image(4, 7), image(2, 2)], Halves())
    assert laid.tolist() == [1, 7, *[9] * 6, 8, 8, 2, 3, 7, 9, 8, 8]
    assert laid.dtype == np.uint32
    assert [(view.start, view.rows, view.columns, view.digest) for view in views] == [(2, 2, 3, b"\4\7"), (13, 1, 1, b"\2\2")]
    assert [view.pixels.shape for view in views] == [(4, 6, 3), (2, 2, 3)]


def test_a_text_that_spells_the_placeholder_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="has 1 images, but its text spells the token of an image 1 times more"):
        laid_out(np.array([9, 9], np.uint32), [image(2, 2)], Halves())


def test_an_image_of_an_impossible_shape_is_named() -> None:
    with pytest.raises(InvalidParameter, match="image 2 cannot be used: it is a line"):
        laid_out(np.array([9, 9], np.uint32), [image(2, 2), image(1, 9)], Halves())


@pytest.mark.parametrize(
    ("context", "advice"),
    [
        (27, None),
        (24, "leave out image 3"),
        (22, "leave out image 3"),
        (21, "leave out images 2 to 3"),
        (12, "leave out images 1 to 3"),
        (11, "send less text"),
    ],
)
def test_what_a_context_does_not_hold_is_refused_with_the_images_to_leave_out(context: int, advice: str | None) -> None:
    prompt = Prompt(np.array([1, 9, 9, 9, 2], np.uint32), 5, viewer=Halves(), context_length=context)
    images = [image(4, 4), image(4, 6), image(2, 6)]  # of 4, 6 and 3 tokens, between 3 others each
    if advice is None:
        assert prompt.showing(images).max_tokens == 3
        return
    with pytest.raises(ContextLengthExceeded, match=f"24 tokens, .* {context} and .*; {advice}") as raised:
        prompt.showing(images)
    assert raised.value.param == "messages"
