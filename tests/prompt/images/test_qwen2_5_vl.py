"""Sizes at which Qwen2.5-VL looks at images, against transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from ecocore.errors import InvalidModelFile
from ecocore.prompt.images.qwen2_5_vl import Qwen25VlViewer


@dataclass
class Folder:
    image_settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=lambda: {"vision_config": {}})


def viewer_of(folder: Folder) -> Qwen25VlViewer:
    viewer = Qwen25VlViewer.of(folder)
    assert viewer is not None
    return viewer


def test_sizes_are_those_of_transformers() -> None:
    viewer = viewer_of(Folder({"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 300}))
    sizes = np.random.default_rng(0).integers(1, 1200, (3000, 2)).tolist()
    # Halves of a cell: to even.
    sizes += [[14 * odd, 28 * 7] for odd in range(1, 40, 2)]
    compared = 0
    for height, width in sizes:
        if max(height, width) <= 200 * min(height, width):
            expected = smart_resize(height, width, 28, min_pixels=56 * 56, max_pixels=28 * 28 * 300)
            assert viewer.fitted(height, width) == expected, (height, width)
            compared += 1
    assert compared > 2900


def test_long_stripes_are_refused() -> None:
    with pytest.raises(ValueError, match="200 times"):
        viewer_of(Folder()).fitted(3, 601)


def test_newer_files_tell_the_areas_as_edges() -> None:
    older = Folder({"min_pixels": 3136, "max_pixels": 12845056})
    newer = Folder({"size": {"shortest_edge": 3136, "longest_edge": 12845056}})
    assert viewer_of(older) == viewer_of(newer)


@pytest.mark.parametrize("settings", [{"patch_size": 0}, {"merge_size": "2"}, {"size": {"longest_edge": 1.5}}])
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidModelFile, match="settings of images have"):
        Qwen25VlViewer.of(Folder(settings))


def test_files_of_the_text_part_alone_see_nothing() -> None:
    assert Qwen25VlViewer.of(Folder(config={})) is None
