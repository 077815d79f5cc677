"""Configs out of config.json: every spelling, every refusal."""

from typing import Any

import pytest
from tests.model.checkpoints import LLAMA3_ROPE, TINY

from ecocore.errors import InvalidModelFile
from ecocore.model.config import WavelengthScaling
from ecocore.model.llama_config import LlamaConfig

SCALED = WavelengthScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=64)


def without(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in keys}


def test_every_field_is_read() -> None:
    assert LlamaConfig.from_hf(TINY) == LlamaConfig(
        vocab_size=130,
        hidden_size=48,
        intermediate_size=96,
        num_layers=2,
        num_heads=6,
        num_kv_heads=2,
        head_dim=16,
        context_length=512,
        rms_norm_eps=1e-3,
        rope_theta=10000.0,
        rope_scaling=None,
        tie_word_embeddings=False,
    )


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 7.0, "rope_scaling": LLAMA3_ROPE},
        {"rope_theta": 7.0, "rope_scaling": without(LLAMA3_ROPE, "rope_type") | {"type": "llama3"}},
        {"rope_parameters": LLAMA3_ROPE | {"rope_theta": 7.0}},
        {"rope_theta": 8.0, "rope_parameters": LLAMA3_ROPE | {"rope_theta": 7.0}},
    ],
)
def test_scaling_is_read_in_every_spelling(spelling: dict[str, Any]) -> None:
    config = LlamaConfig.from_hf(without(TINY, "rope_theta") | spelling)
    assert (config.rope_theta, config.rope_scaling) == (7.0, SCALED)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 7.0},
        {"rope_theta": 7.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    ],
)
def test_no_scaling_is_read_in_every_spelling(spelling: dict[str, Any]) -> None:
    config = LlamaConfig.from_hf(without(TINY, "rope_theta") | spelling)
    assert (config.rope_theta, config.rope_scaling) == (7.0, None)


def test_what_may_be_absent_takes_the_known_default() -> None:
    config = LlamaConfig.from_hf(
        without(TINY, "head_dim", "num_key_value_heads", "rms_norm_eps", "rope_theta", "hidden_act", "tie_word_embeddings")
    )
    assert (config.head_dim, config.num_kv_heads, config.rms_norm_eps, config.rope_theta) == (8, 6, 1e-6, 10000.0)
    assert not config.tie_word_embeddings


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "rope_type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_type 'longrope'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_type 'linear'"),
        ({"rope_scaling": without(LLAMA3_ROPE, "factor")}, "lacks factor"),
        ({"rope_scaling": LLAMA3_ROPE | {"low_freq_factor": 4.0}}, "makes no sense"),
        ({"rope_scaling": 8}, "must be an object"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_size": "48"}, "hidden_size '48'; it must be an integer"),
        ({"num_hidden_layers": True}, "must be an integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0; it must be between 1 and 10000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000; it must be between"),
        ({"hidden_size": 2**31}, "hidden_size 2147483648; it must be at most 2147483647"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps nan; it must be finite"),
        ({"rope_theta": float("inf")}, "rope_theta inf; it must be finite"),
        ({"rope_theta": 10**400}, "it must be finite"),
        ({"num_key_value_heads": 4}, "cannot share 4"),
        ({"head_dim": 15}, "even"),
        ({"rms_norm_eps": 0}, "must be positive"),
        ({"rope_theta": "big"}, "must be a number"),
        ({"max_position_embeddings": 0}, "context length"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidModelFile) as raised:
        LlamaConfig.from_hf(TINY | change)
    assert said in str(raised.value)
