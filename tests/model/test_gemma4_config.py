"""What Gemma 4's files say, in both spellings, and what is refused by its name."""

from typing import Any

import pytest
from tests.model.checkpoints import MemoryCheckpoint

from ecocore.errors import InvalidModelFile
from ecocore.model.config import KvLayer
from ecocore.model.gemma4_config import Gemma4Config, RotaryAngles

# The published file of the largest dense model, without what is not read.
HUB: dict[str, Any] = {
    "hidden_size": 5376,
    "num_hidden_layers": 12,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "num_global_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "intermediate_size": 21504,
    "vocab_size": 262144,
    "max_position_embeddings": 262144,
    "final_logit_softcapping": 30.0,
    "attention_k_eq_v": True,
    "sliding_window": 1024,
    "hidden_size_per_layer_input": 0,
    "rms_norm_eps": 1e-6,
    "use_bidirectional_attention": "vision",
}


def read(text: dict[str, Any], **whole: Any) -> Gemma4Config:
    return Gemma4Config.of(MemoryCheckpoint({}, {"text_config": text, **whole}))


def test_the_hub_form_tells_of_full_layers_once() -> None:
    config = read(HUB)
    sliding, full = KvLayer(16, 256, window=1024), KvLayer(4, 512)
    assert config.kv_layers == ((sliding,) * 5 + (full,)) * 2
    assert config.sliding == RotaryAngles(1e4, 128)
    assert config.full == RotaryAngles(1e6, 64)
    assert config.tie_word_embeddings
    assert config.logit_cap == 30.0


def test_the_newer_form_tells_of_single_layers() -> None:
    plain = {key: value for key, value in HUB.items() if "global" not in key}
    own = {"head_dim": 512, "num_key_value_heads": 4}
    assert read(plain | {"per_layer_config": {"5": own, "11": own}}) == read(HUB)
    same = own | {"sliding_window": 1024, "intermediate_size": 21504}
    assert read(plain | {"per_layer_config": {"5": same, "11": own}}) == read(HUB)


def test_a_file_of_the_text_part_alone_is_read() -> None:
    assert Gemma4Config.of(MemoryCheckpoint({}, HUB)) == read(HUB)


def test_the_last_layer_sees_everything() -> None:
    config = read(HUB | {"layer_types": ["sliding_attention"] * 12})
    assert [layer.window for layer in config.kv_layers] == [1024] * 11 + [None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"enable_moe_block": True}, "switches on enable_moe_block"),
        ({"attention_bias": True}, "switches on attention_bias"),
        ({"per_layer_config": {"0": [8]}}, r"per_layer_config of layer 0 in config.json is \[8\]; it must be an object"),
        ({"per_layer_config": [{"head_dim": 8}]}, r"per_layer_config \[{'head_dim': 8}\]; it must be an object"),
        ({"per_layer_config": {"12": {"head_dim": 8}}}, "per_layer_config of layer '12'; it has 12 layers"),
        ({"per_layer_config": {"3": {"sliding_window": 8}}}, "layer 3 in config.json sets 'sliding_window'"),
        ({"per_layer_config": {"3": {"intermediate_size": 8}}}, "layer 3 in config.json sets 'intermediate_size'"),
        ({"per_layer_config": {"3": {"rms_norm_eps": 1}}}, "layer 3 in config.json sets 'rms_norm_eps'"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 8}}, "rope_scaling {'rope_type': 'linear', 'factor': 8}, which"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 8}}, "rope_parameters {'rope_type': 'yarn', 'factor': 8}; this"),
        ({"rope_parameters": ["yarn"]}, r"rope_parameters \['yarn'\]; this"),
        ({"rope_parameters": {"full_attention": "default"}}, "full_attention 'default'; they must be an object"),
        ({"rope_parameters": {"sliding_attention": {"rope_theta": 0}}}, "rotary angles make no sense"),
        ({"rope_parameters": {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 2}}}, "at most 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000; it must be between 1 and 10000"),
        ({"hidden_size_per_layer_input": 256}, "switches on hidden_size_per_layer_input"),
        ({"hidden_size_per_layer_input": None}, "switches on hidden_size_per_layer_input"),
        ({"num_kv_shared_layers": 4}, "switches on num_kv_shared_layers"),
        ({"use_double_wide_mlp": True}, "switches on use_double_wide_mlp"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention 'all'"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ({"layer_types": ["linear_attention"] * 12}, "type 'linear_attention'"),
        ({"layer_types": ["full_attention"]}, "12 layers and layer_types"),
        ({"num_global_key_value_heads": 5}, "cannot share 5 key-value heads"),
        ({"sliding_window": 0}, "sliding_window is 0"),
        ({"sliding_window": None}, "lacks sliding_window"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "rope_theta": 1.0}}}, "rope_type 'yarn'"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    if change == {"hidden_size_per_layer_input": None}:
        text = {key: value for key, value in HUB.items() if key not in change}
    else:
        text = HUB | change
    with pytest.raises(InvalidModelFile, match=said):
        read(text)


def test_quantised_folders_are_refused() -> None:
    with pytest.raises(InvalidModelFile, match="quantization_config"):
        read(HUB, quantization_config={"quant_method": "gptq"})


def test_sound_is_refused() -> None:
    with pytest.raises(InvalidModelFile, match="audio_config"):
        read(HUB, audio_config={"hidden_size": 8})


TOWER = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "head_dim": 72, "standardize": True}


def test_the_tower_is_read_where_there_is_one() -> None:
    config = read(HUB, vision_config=TOWER | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}})
    assert config.tower is not None
    assert (config.tower.num_layers, config.tower.head_dim, config.tower.num_kv_heads) == (27, 72, 16)
    assert (config.tower.patch, config.tower.pool, config.tower.theta, config.tower.standardized) == (16, 3, 100.0, True)
    assert config.looks_around
    assert read(HUB).tower is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_clipped_linears": True}, "switches on use_clipped_linears"),
        ({"attention_bias": True}, "switches on attention_bias"),
        ({"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ({"head_dim": 70}, "16 heads of 70 dimensions"),
        ({"pooling_kernel_size": 0}, "pool of vision_config is 0"),
    ],
)
def test_towers_that_are_not_computed_are_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidModelFile, match=said):
        read(HUB, vision_config=TOWER | change)


@pytest.mark.parametrize("name", ["patch_size", "pooling_kernel_size"])
def test_settings_of_images_that_contradict_the_tower_are_refused(name: str) -> None:
    for images, tower in ({name: 32}, {}), ({}, {name: 32}):
        checkpoint = MemoryCheckpoint({}, {"text_config": HUB, "vision_config": TOWER | tower})
        checkpoint.image_settings = images
        with pytest.raises(InvalidModelFile, match=f"have {name} (32|16|3), the vision tower has (32|16|3)"):
            Gemma4Config.of(checkpoint)
