"""Sizes at which Gemma 4 looks at images, against transformers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from transformers.models.gemma4.image_processing_pil_gemma4 import get_aspect_ratio_preserving_size

from ecocore.errors import InvalidModelFile
from ecocore.model.sight import IMAGE_TOKENS
from ecocore.prompt.images.gemma4 import Gemma4Viewer


@dataclass
class Folder:
    image_settings: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=lambda: {"vision_config": {}})


def viewer(**settings: Any) -> Gemma4Viewer:
    made = Gemma4Viewer.of(Folder(settings))
    assert made is not None
    return made


@pytest.mark.parametrize("budget", [70, 280, 1120])
def test_sizes_are_those_of_transformers(budget: int) -> None:
    looks = viewer(max_soft_tokens=budget)
    sizes = np.random.default_rng(budget).integers(1, 2000, (3000, 2)).tolist()
    sizes += [[1, 9000], [9000, 1], [3, 16000], [16000, 2], [2, 2], [48, 48 * budget], [1, 50], [10, 3000]]
    for height, width in sizes:
        try:
            expected = get_aspect_ratio_preserving_size(height, width, 16, budget * 9, 3)
        except ValueError:
            with pytest.raises(ValueError, match="too small"):
                looks.fitted(height, width)
        else:
            assert looks.fitted(height, width) == expected, (height, width)


def test_the_text_part_alone_looks_at_nothing() -> None:
    assert Gemma4Viewer.of(Folder(config={})) is None


def test_tokens_around_an_image_come_from_the_config() -> None:
    config = {"vision_config": {}, "image_token_id": 7, "boi_token_id": 5, "eoi_token_id": 6}
    made = Gemma4Viewer.of(Folder(config=config | {"text_config": {"use_bidirectional_attention": "vision"}}))
    assert made is not None
    assert (made.placeholder, made.around, made.cell, made.looks_around) == (7, ((5,), (6,)), 48, True)


@pytest.mark.parametrize(("settings", "said"), [({"max_soft_tokens": 100}, "one of"), ({"patch_size": 0}, "patch_size 0")])
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidModelFile, match=said):
        viewer(**settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"do_resize": False}, "do_resize False; this version implements True"),
        ({"do_rescale": False}, "do_rescale False"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0"),
        ({"resample": 2}, "resample 2; this version implements 3"),
        ({"resample": "bicubic"}, "resample 'bicubic'"),
        ({"do_normalize": True, "image_mean": [0.5, 0.5, 0.5]}, "do_normalize True"),
        ({"do_normalize": True, "image_std": 0.5}, "do_normalize True"),
    ],
)
def test_another_preparation_is_refused_by_name(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidModelFile, match=said):
        viewer(**settings)


def test_the_makers_own_preparation_passes() -> None:
    told = {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 0.00392156862745098, "do_convert_rgb": None}
    assert viewer(**told, do_normalize=False, image_mean=[0.5, 0.5, 0.5]) == viewer()
    # Of nothing taken away and divided by one nothing is left to do.
    assert viewer(**told, do_normalize=True, image_mean=[0.0, 0.0, 0.0], image_std=[1.0, 1.0, 1.0]) == viewer()


def test_an_image_is_no_longer_than_there_are_places() -> None:
    made = Gemma4Viewer.of(Folder(config={"vision_config": {"position_embedding_size": 30}}))
    assert made is not None
    assert made.longest == 10
    with pytest.raises(ValueError, match="one side is too much longer"):
        made.fitted(100, 300)


def test_no_image_is_larger_than_a_step_has_room_for() -> None:
    assert viewer(max_soft_tokens=IMAGE_TOKENS).most_tokens == IMAGE_TOKENS
    with pytest.raises(InvalidModelFile, match="must be one of"):
        viewer(max_soft_tokens=2 * IMAGE_TOKENS)
