"""The vision tower of Gemma 4: pixels in, one row for each block of patches out.

An image is computed on its own, so its rows depend on nothing else: what is said of rows in layers.py is no matter here.
"""

from collections.abc import Generator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ecocore.model.gemma4_config import TowerConfig
from ecocore.model.layers import GatedMlp, Linear, WideRmsNorm
from ecocore.model.rotary import finite_angles, rotary_frequencies, rotate_
from ecocore.model.tensors import TensorLoader
from ecocore.model.vision_parts import attention_parts, in_parts, row_parts

TOWER = "model.vision_tower."
PROJECTION = "model.embed_vision.embedding_projection.weight"


class Tower:
    """The tower with its weights, and the matrix that leads from it into the text."""

    def __init__(self, config: TowerConfig, tensors: TensorLoader, *, out_size: int) -> None:
        """Takes its tensors. Raises InvalidModelFile."""
        self._config = config
        self._dtype, self._device = tensors.dtype, tensors.device
        hidden = config.hidden_size
        self._embed = Linear(tensors.tensor(f"{TOWER}patch_embedder.input_proj.weight", hidden, 3 * config.patch**2))
        self._places = tensors.tensor(f"{TOWER}patch_embedder.position_embedding_table", 2, config.places, hidden)
        frequencies = rotary_frequencies(config.head_dim // 2, config.theta)
        finite_angles(torch.tensor([float(config.places)]), frequencies)
        self._frequencies = frequencies.to(self._device)
        self._layers = [_Layer(config, tensors, f"{TOWER}encoder.layers.{index}.") for index in range(config.num_layers)]
        self._standard = None
        if config.standardized:
            bias, scale = (tensors.tensor(f"{TOWER}{name}", hidden) for name in ("std_bias", "std_scale"))
            self._standard = bias.float(), scale.float()
        self._norm = WideRmsNorm(config.eps)
        self._out = Linear(tensors.tensor(PROJECTION, out_size, hidden))

    def see(self, pixels: NDArray[np.uint8]) -> Generator[None, None, Tensor]:
        """`pixels`: (height, width, 3), multiples of a token each way.

        Gives (tokens, out_size), row by row; pauses before each part.
        """
        config = self._config
        high, wide = pixels.shape[0] // config.patch, pixels.shape[1] // config.patch
        rows, columns = (torch.from_numpy(axis.ravel()).to(self._device) for axis in np.indices((high, wide)))
        embedded = yield from in_parts(self._patches(pixels, high, wide), self._embed)
        hidden = embedded + (self._places[0][columns] + self._places[1][rows])
        turn = self._turn(columns, rows)
        for layer in self._layers:
            yield from layer.parts(hidden, turn)
        pool = config.pool
        pooled = hidden.float().view(high // pool, pool, wide // pool, pool, -1).sum((1, 3)).div_(pool**2).flatten(0, 1)
        # Rounded between the mean and what follows, as it was in training.
        pooled = pooled.to(self._dtype).float() * config.hidden_size**0.5
        if self._standard is not None:
            pooled = (pooled - self._standard[0]) * self._standard[1]
        projected = yield from in_parts(self._norm(pooled.to(self._dtype)), self._out)
        return projected

    def _patches(self, pixels: NDArray[np.uint8], high: int, wide: int) -> Tensor:
        """(patches, patch * patch * 3), the colours of a pixel side by side, between -1 and 1."""
        patch = self._config.patch
        values = torch.tensor(pixels, device=self._device).float() * (1 / 255)
        values = values.view(high, patch, wide, patch, 3).transpose(1, 2).reshape(high * wide, -1)
        return (2 * (values - 0.5)).to(self._dtype)

    def _turn(self, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines (patches, 1, 2, head_dim // 2): half of a head turns by its column, half by its row."""
        angles = torch.stack((columns, rows), dim=1).float()[:, :, None] * self._frequencies
        cos, sin = angles.cos(), angles.sin()
        turn = torch.cat((cos, cos), dim=2), torch.cat((-sin, sin), dim=2)
        return turn[0].unsqueeze(1).to(self._dtype), turn[1].unsqueeze(1).to(self._dtype)


class _Layer:
    """One layer of the tower."""

    def __init__(self, config: TowerConfig, tensors: TensorLoader, prefix: str) -> None:
        hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
        self._num_heads, self._num_kv_heads, self._head_dim = config.num_heads, config.num_kv_heads, dim

        def matrix(name: str, out_features: int, in_features: int) -> Tensor:
            return tensors.tensor(f"{prefix}{name}.linear.weight", out_features, in_features)

        def norm(name: str, width: int = hidden) -> WideRmsNorm:
            return WideRmsNorm(config.eps, tensors.tensor(f"{prefix}{name}.weight", width))

        heads = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
        self._qkv = Linear(torch.cat([matrix(f"self_attn.{name}_proj", count * dim, hidden) for name, count in heads.items()]))
        self._output = Linear(matrix("self_attn.o_proj", hidden, config.num_heads * dim))
        self._query_norm, self._key_norm = norm("self_attn.q_norm", dim), norm("self_attn.k_norm", dim)
        self._value_norm = WideRmsNorm(config.eps)
        self._mlp = GatedMlp(
            Linear(matrix("mlp.gate_proj", inner, hidden)),
            Linear(matrix("mlp.up_proj", inner, hidden)),
            Linear(matrix("mlp.down_proj", hidden, inner)),
            "gelu_tanh",
        )
        self._before_attention, self._after_attention = norm("input_layernorm"), norm("post_attention_layernorm")
        self._before_mlp, self._after_mlp = norm("pre_feedforward_layernorm"), norm("post_feedforward_layernorm")

    def parts(self, hidden: Tensor, turn: tuple[Tensor, Tensor]) -> Generator[None, None, None]:
        """Changes `hidden` in place, and pauses before each part."""
        num_heads, num_kv_heads, dim = self._num_heads, self._num_kv_heads, self._head_dim
        queries, keys, values = hidden.new_empty((3, len(hidden), num_heads, dim))
        for rows in row_parts(len(hidden), hidden.device):
            yield
            qkv = self._qkv(self._before_attention(hidden[rows])).view(len(hidden[rows]), -1, dim)
            query, key, value = qkv.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
            query, key, value = self._query_norm(query), self._key_norm(key), self._value_norm(value)
            for part in (query, key):
                rotate_(part.view(len(part), -1, 2, dim // 2), (turn[0][rows], turn[1][rows]))
            shared = num_heads // num_kv_heads
            queries[rows], keys[rows], values[rows] = query, key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        attended = torch.empty_like(queries)
        for rows, heads in attention_parts(len(hidden), num_heads, hidden.device):
            yield
            parts = (queries[rows, heads], keys[:, heads], values[:, heads])
            query, key, value = (part.transpose(0, 1).unsqueeze(0) for part in parts)
            looked = scaled_dot_product_attention(query, key, value, scale=1.0)
            attended[rows, heads] = looked.squeeze(0).transpose(0, 1)
        for rows in row_parts(len(hidden), hidden.device):
            yield
            hidden[rows] += self._after_attention(self._output(attended[rows].flatten(1)))
            hidden[rows] += self._after_mlp(self._mlp(self._before_mlp(hidden[rows])))
