"""Qwen2 is read as a Llama with biases; windows are refused."""

from typing import Any

import pytest
from tests.model.checkpoints import TINY, MemoryCheckpoint

from ecocore.errors import InvalidModelFile
from ecocore.model.llama_config import LlamaConfig
from ecocore.model.qwen2_config import Qwen2Config


def test_queries_keys_and_values_have_a_bias() -> None:
    checkpoint = MemoryCheckpoint({}, TINY | {"use_sliding_window": False, "sliding_window": 4096})
    config = Qwen2Config.of(checkpoint)
    assert config.qkv_bias
    assert config == LlamaConfig.from_hf(TINY, qkv_bias=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"mlp_bias": True}, "mlp_bias"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidModelFile, match=said):
        Qwen2Config.of(MemoryCheckpoint({}, TINY | change))


def test_windows_are_refused_by_name() -> None:
    with pytest.raises(InvalidModelFile, match="use_sliding_window"):
        Qwen2Config.of(MemoryCheckpoint({}, TINY | {"use_sliding_window": True}))
