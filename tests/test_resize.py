"""Resizing of images: bit for bit what torch makes of bytes."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ecocore._core import resize_rgb
from ecocore.errors import InvalidParameter


def by_torch(pixels: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous()
    resized = torch.nn.functional.interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def test_ten_thousand_random_pairs_of_sizes_are_bit_equal() -> None:
    generator = np.random.default_rng(0)
    for height, width, to_height, to_width in generator.integers(2, 40, (10_000, 4)).tolist():
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        ours = resize_rgb(pixels, to_height, to_width)
        assert np.array_equal(ours, by_torch(pixels, to_height, to_width)), (height, width, to_height, to_width)


@pytest.mark.parametrize("to", [(364, 504), (28, 28), (1500, 28), (801, 1203)])
def test_large_images_and_hard_edges_are_bit_equal(to: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 2, (801, 1203, 3), np.uint8) * np.uint8(255)
    assert np.array_equal(resize_rgb(pixels, *to), by_torch(pixels, *to))


def test_what_is_no_image_is_refused() -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    with pytest.raises(InvalidParameter, match="at least one pixel"):
        resize_rgb(pixels, 0, 4)
    with pytest.raises(InvalidParameter, match="contiguous"):
        resize_rgb(pixels[:, ::2], 2, 2)
    with pytest.raises(InvalidParameter, match="shape"):
        resize_rgb(np.zeros((4, 6, 4), np.uint8), 2, 2)


def test_a_size_that_does_not_fit_into_memory_is_an_error_and_no_abort() -> None:
    with pytest.raises(InvalidParameter, match="needs more memory than there is"):
        resize_rgb(np.zeros((2, 2, 3), np.uint8), 2**31 - 1, 2**31 - 1)
