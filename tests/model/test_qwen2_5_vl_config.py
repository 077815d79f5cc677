"""What Qwen2.5-VL's files say, flat and nested, and what is refused by its name."""

from typing import Any

import pytest
from tests.model.checkpoints import MemoryCheckpoint

from ecocore.errors import InvalidModelFile
from ecocore.model.qwen2_5_vl_config import Qwen25VlConfig

TEXT: dict[str, Any] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
    "sliding_window": 32768,
}
HUB: dict[str, Any] = TEXT | {
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": False,
    "vision_config": {"depth": 32, "in_chans": 3, "out_hidden_size": 3584, "window_size": 112, "hidden_size": 1280},
}


def read(config: dict[str, Any], images: dict[str, Any] | None = None) -> Qwen25VlConfig:
    checkpoint = MemoryCheckpoint({}, config)
    checkpoint.image_settings = images or {}
    return Qwen25VlConfig.of(checkpoint)


def test_the_flat_form_and_the_nested_one_say_the_same() -> None:
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    nested = {"text_config": TEXT | {"rope_parameters": rope}, "vision_config": {"depth": 32, "window_size": 112}}
    config = read(HUB)
    assert config == read(nested)
    assert (config.text.head_dim, config.text.rope_theta, config.text.qkv_bias) == (128, 1e6, True)
    assert config.tower is not None
    assert (config.tower.window, config.tower.full_layers) == (4, frozenset({7, 15, 23, 31}))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"attention_bias": True}, "attention_bias"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"text_config": HUB, "quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"vision_config": {"spatial_merge_size": 0}}, "spatial_merge_size 0; it must be at least 1"),
        ({"vision_config": {"patch_size": 0}}, "patch_size 0; it must be at least 1"),
        ({"vision_config": {"fullatt_block_indexes": [[7]]}}, "must be a list of integers"),
        ({"rope_scaling": {"type": "yarn", "mrope_section": [16, 24, 24]}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 23]}}, "add up to 64"),
        ({"rope_scaling": {"type": "mrope"}}, "mrope_section None"),
        ({"vision_config": {"hidden_act": "gelu"}}, "hidden_act 'gelu'"),
        ({"vision_config": {"in_chans": 4}}, "channels"),
        ({"vision_config": {"out_hidden_size": 8}}, "gives 8 dimensions, the text takes 3584"),
        ({"vision_config": {"num_heads": 3}}, "3 equal heads"),
        ({"vision_config": {"window_size": 10}}, "window of vision_config is 0"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidModelFile, match=said):
        read(HUB | change)


@pytest.mark.parametrize("mean", ["abc", [0.5, "x", 0.5], [0.5, float("nan"), 0.5], 7, [0.5, 0.5]])
def test_colours_that_are_no_numbers_are_refused(mean: Any) -> None:
    with pytest.raises(InvalidModelFile, match="image_mean"):
        read(HUB, {"image_mean": mean})


def test_settings_of_images_that_contradict_the_config_are_refused() -> None:
    with pytest.raises(InvalidModelFile, match="have patch_size 16, the vision tower has 14"):
        read(HUB, {"patch_size": 16})
    with pytest.raises(InvalidModelFile, match="have temporal_patch_size 1, the vision tower has 2"):
        read(HUB, {"temporal_patch_size": 1})
    with pytest.raises(InvalidModelFile, match="have merge_size 2, the vision tower has 1"):
        read(HUB | {"vision_config": HUB["vision_config"] | {"spatial_merge_size": 1}})
