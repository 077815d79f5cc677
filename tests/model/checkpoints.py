"""Checkpoints without files: tensors in memory, as safetensors or GGUF would offer them, and the file's second opinion."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor


class MemoryCheckpoint:
    """A checkpoint whose tensors are given."""

    chat_template = tool_template = None
    image_settings: Mapping[str, Any] = {}
    generation_config: Mapping[str, Any] = {}
    special_tokens: Mapping[str, str] = {}
    start_ids: tuple[int, ...] = ()
    end_ids: frozenset[int] = frozenset()
    path = tokenizer_path = Path("memory")
    settings_name = "config.json"

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        config: Mapping[str, Any],
        *,
        format: Literal["gguf", "safetensors"] = "safetensors",  # noqa: A002 (the protocol's name)
        stored_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.tensors = dict(tensors)
        self.config = config
        self.format: Literal["gguf", "safetensors"] = format
        self.stored_dtype = stored_dtype

    def begin_with(self, kinds: Collection[str]) -> None:
        """Has no vocabulary of its own."""

    def end_with(self, texts: Collection[str]) -> None:
        """It has no vocabulary."""

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def nbytes(self, name: str) -> int:
        return self.tensors[name].nbytes

    def load(self, name: str, dtype: torch.dtype) -> Tensor:
        return self.tensors[name].to(dtype, copy=True)

    def load_part(self, name: str, dtype: torch.dtype, *, axis: Literal[0, 1], part: range) -> Tensor:
        return self.load(name, dtype).narrow(axis, part.start, len(part)).contiguous()


HIDDEN, LAYERS, HEADS, KV_HEADS, DIM, MLP, VOCAB = 48, 2, 6, 2, 16, 96, 130

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": DIM,
    "vocab_size": VOCAB,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-3,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


# One fact each, so that a test that fails names what is wrong. LLAMA3_ROPE in its older spelling, as the hub has it.
TINY_CASES: dict[str, dict[str, Any]] = {
    "plain": TINY,
    "tied": TINY | {"tie_word_embeddings": True},
    "theta": TINY | {"rope_theta": 500.0},
    "eps": TINY | {"rms_norm_eps": 1e-6},
    "llama3": TINY | {"rope_scaling": LLAMA3_ROPE},
}


def tiny_prompt(length: int = 100) -> list[int]:
    """Token ids without a pattern, longer than the scaled wavelengths and than several blocks."""
    return [(index * index * 31 + index * 17 + 5) % VOCAB for index in range(length)]


def tiny_tensors(config: Mapping[str, Any] = TINY, *, seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a tiny model, named as safetensors name them, large enough that every part matters."""
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn((rows, columns), generator=generator).mul_(2 / columns**0.5)

    def norm() -> Tensor:
        return torch.rand(HIDDEN, generator=generator) + 0.5

    tensors = {"model.embed_tokens.weight": torch.randn((VOCAB, HIDDEN), generator=generator) * 0.1}
    for index in range(LAYERS):
        tensors |= {
            f"model.layers.{index}.{name}.weight": value
            for name, value in {
                "input_layernorm": norm(),
                "self_attn.q_proj": matrix(HEADS * DIM, HIDDEN),
                "self_attn.k_proj": matrix(KV_HEADS * DIM, HIDDEN),
                "self_attn.v_proj": matrix(KV_HEADS * DIM, HIDDEN),
                "self_attn.o_proj": matrix(HIDDEN, HEADS * DIM),
                "post_attention_layernorm": norm(),
                "mlp.gate_proj": matrix(MLP, HIDDEN),
                "mlp.up_proj": matrix(MLP, HIDDEN),
                "mlp.down_proj": matrix(HIDDEN, MLP),
            }.items()
        }
    tensors["model.norm.weight"] = norm()
    if not config.get("tie_word_embeddings"):
        tensors["lm_head.weight"] = matrix(VOCAB, HIDDEN)
    return tensors


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers.": "blk.",
}


def as_gguf(tensors: Mapping[str, Tensor], config: Mapping[str, Any] = TINY) -> MemoryCheckpoint:
    """The same model as a converter to GGUF would write it: other names, rows of q and k for neighbouring pairs."""
    converted = {}
    for name, tensor in tensors.items():
        for heads, part in ((config["num_attention_heads"], "q_proj"), (config["num_key_value_heads"], "k_proj")):
            if part in name:
                tensor = tensor.view(heads, 2, DIM // 2, HIDDEN).swapaxes(1, 2).reshape(tensor.shape)  # noqa: PLW2901
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)  # noqa: PLW2901
        converted[name] = tensor
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.key_length": config["head_dim"],
        "llama.attention.value_length": config["head_dim"],
        "llama.rope.dimension_count": config["head_dim"],
        "llama.rope.freq_base": config["rope_theta"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.context_length": config["max_position_embeddings"],
    }
    return MemoryCheckpoint(converted, metadata, format="gguf")
