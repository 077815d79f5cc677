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


@pytest.mark.parametrize(
    "settings",
    [{"min_pixels": 10**12, "max_pixels": 10**12}, {"max_pixels": 2**26 + 1}, {"min_pixels": 3137, "max_pixels": 3136}],
)
def test_areas_that_would_fill_the_memory_or_cross_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidModelFile, match=r"min_pixels \d+ and max_pixels \d+; they must be in this order, and at most 67108864"
    ):
        Qwen25VlViewer.of(Folder(settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_normalize": False}, "do_normalize False; this version implements True"),
        ({"do_resize": False}, "do_resize False"),
        ({"do_rescale": False}, "do_rescale False"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
        ({"resample": 2}, "resample 2; this version implements 3"),
    ],
)
def test_another_preparation_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidModelFile, match=said):
        Qwen25VlViewer.of(Folder(settings))


def test_the_makers_own_preparation_passes() -> None:
    told = {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 0.00392156862745098, "do_normalize": True}
    assert viewer_of(Folder(told)) == viewer_of(Folder())
