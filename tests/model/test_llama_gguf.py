"""GGUF files in the words of folders: settings, names, order of rows, refusals."""

from typing import Any

import pytest
import torch
from tests.model.checkpoints import TINY, MemoryCheckpoint, as_gguf, tiny_tensors

from ecocore.errors import InvalidModelFile
from ecocore.families import family_of
from ecocore.model.llama_config import LlamaConfig


def told(checkpoint: MemoryCheckpoint) -> Any:
    return family_of(checkpoint).told(checkpoint)


def changed(change: dict[str, Any]) -> MemoryCheckpoint:
    checkpoint = as_gguf(tiny_tensors())
    return MemoryCheckpoint(checkpoint.tensors, {**checkpoint.config, **change}, format="gguf")


def of_qwen2(change: dict[str, Any]) -> MemoryCheckpoint:
    checkpoint = changed(change)
    metadata = {key.replace("llama.", "qwen2."): value for key, value in checkpoint.config.items()}
    metadata["general.architecture"] = "qwen2"
    return MemoryCheckpoint(checkpoint.tensors, metadata, format="gguf")


def test_a_file_gives_the_same_config_as_its_folder() -> None:
    assert LlamaConfig.of(told(as_gguf(tiny_tensors()))) == LlamaConfig.of(MemoryCheckpoint({}, TINY))
    expected = LlamaConfig.from_hf(TINY, qkv_bias=True)
    qwen2 = of_qwen2({})
    assert family_of(qwen2).configure(told(qwen2)) == expected


def test_what_is_wrong_in_a_file_is_said_of_the_file() -> None:
    checkpoint = changed({"llama.block_count": 0})
    checkpoint.settings_name = "model.gguf"
    with pytest.raises(InvalidModelFile, match=r"^model\.gguf has num_hidden_layers 0; it must be between"):
        LlamaConfig.of(told(checkpoint))


@pytest.mark.parametrize("key", ["rope.scaling.factor", "rope.scale_linear"])
@pytest.mark.parametrize("factor", [0, 1.0])
def test_a_scaling_that_changes_nothing_passes(key: str, factor: float) -> None:
    assert LlamaConfig.of(told(changed({f"llama.{key}": factor}))) == LlamaConfig.of(told(as_gguf(tiny_tensors())))


def test_a_file_without_output_matrix_is_tied() -> None:
    tied = TINY | {"tie_word_embeddings": True}
    assert LlamaConfig.of(told(as_gguf(tiny_tensors(tied), tied))).tie_word_embeddings


def test_tensors_are_those_of_the_folder_bit_for_bit() -> None:
    tensors = tiny_tensors()
    checkpoint = told(as_gguf(tensors))
    assert set(checkpoint.names()) == set(tensors)
    for name, tensor in tensors.items():
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert checkpoint.nbytes(name) == tensor.nbytes
        loaded = checkpoint.load(name, torch.float32)
        assert torch.equal(loaded, tensor), name
        assert loaded.is_contiguous()


def test_rows_of_qwen2_stay_in_order_and_have_biases() -> None:
    checkpoint = of_qwen2({})
    checkpoint.tensors |= {f"blk.{index}.attn_{part}.bias": torch.ones(2) for index in range(2) for part in "qkv"}
    ours = told(checkpoint)
    raw = checkpoint.tensors["blk.0.attn_q.weight"]
    assert torch.equal(ours.load("model.layers.0.self_attn.q_proj.weight", torch.float32), raw)
    assert ours.shape("model.layers.1.self_attn.v_proj.bias") == (2,)


def test_a_tensor_that_nobody_knows_keeps_its_name() -> None:
    checkpoint = as_gguf(tiny_tensors())
    checkpoint.tensors["blk.0.attn_sinks.weight"] = torch.ones(6)
    assert "blk.0.attn_sinks.weight" in told(checkpoint).names()


def test_rows_that_make_no_heads_are_refused_by_name() -> None:
    checkpoint = as_gguf(tiny_tensors())
    checkpoint.tensors["blk.0.attn_q.weight"] = torch.ones(95, 48)
    with pytest.raises(InvalidModelFile, match=r"do not fit: blk\.0\.attn_q\.weight of 95 x 48"):
        told(checkpoint).shape("model.layers.0.self_attn.q_proj.weight")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn'"),
        ({"rope.scaling.factor": 4.0}, "rope.scaling.factor is 4.0"),
        ({"rope.scale_linear": 2.0}, "rope.scale_linear is 2.0"),
        ({"rope.scaling.type": "none", "rope.scaling.attn_factor": 1.5}, "rope.scaling.attn_factor is 1.5"),
        ({"rope.scaling.factor": "4"}, "rope.scaling.factor '4'; it must be a number"),
        ({"expert_count": 8}, "expert_count"),
        ({"rope.dimension_count": 8}, "rotary embedding over 8"),
        ({"attention.value_length": 8}, "values of 8"),
        ({"block_count": None}, "block_count"),
        ({"block_count": 10**9}, "more than the file has tensors"),
        ({"attention.head_count_kv": [2, 2]}, "must be an integer"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    change = {f"llama.{key}": value for key, value in change.items()}
    for checkpoint in (changed(change), of_qwen2(change)):
        with pytest.raises(InvalidModelFile) as raised:
            told(checkpoint)
        assert said in str(raised.value)
