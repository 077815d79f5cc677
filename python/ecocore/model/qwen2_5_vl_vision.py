"""The vision tower of Qwen2.5-VL: pixels in, one row for each cell of two by two patches out.

An image is computed on its own, so its rows depend on nothing else: what is said of rows in layers.py is no matter here.
"""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import gelu, scaled_dot_product_attention

from ecocore.model.layers import GatedMlp, Linear, RmsNorm
from ecocore.model.qwen2_5_vl_config import TowerConfig
from ecocore.model.rotary import rotary_frequencies, rotate_
from ecocore.model.tensors import TensorLoader
from ecocore.model.vision_parts import attention_parts, in_parts, lines_at_once, row_parts

# The makers' code has it fixed.
_EPS = 1e-6
_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where an image's patches lie, window by window.

    `cells`: which cell stands at each place; `turn`: cosines and signed sines (patches, 1, head_dim) in that order; `windows`:
    of each size of windows, which patches they hold (windows, patches).
    """

    cells: Tensor
    turn: tuple[Tensor, Tensor]
    windows: list[Tensor]


class Tower:
    """The tower with its weights."""

    def __init__(self, config: TowerConfig, tensors: TensorLoader, prefix: str) -> None:
        """Takes its tensors, whose names begin with `prefix`. Raises InvalidModelFile."""
        self._config = config
        self._dtype, self._device = tensors.dtype, tensors.device
        hidden, merged = config.hidden_size, config.hidden_size * config.merge**2
        shape = (hidden, 3, config.frames, config.patch, config.patch)
        self._embed = Linear(tensors.tensor(f"{prefix}patch_embed.proj.weight", *shape).flatten(1))
        self._blocks = [_Block(config, tensors, f"{prefix}blocks.{index}.") for index in range(config.depth)]
        self._norm = RmsNorm(tensors.tensor(f"{prefix}merger.ln_q.weight", hidden), _EPS)
        self._inner = _linear(tensors, f"{prefix}merger.mlp.0", merged, merged)
        self._outer = _linear(tensors, f"{prefix}merger.mlp.2", config.out_size, merged)

    def see(self, pixels: NDArray[np.uint8]) -> Generator[None, None, Tensor]:
        """`pixels`: (height, width, 3), multiples of a cell each way.

        Gives (cells, out_size), row by row; pauses before each part.
        """
        config = self._config
        side = config.patch * config.merge
        layout = self._layout(pixels.shape[0] // side, pixels.shape[1] // side)
        per_cell = config.merge**2
        embedded = yield from self._embedded(pixels, side)
        hidden = embedded.view(-1, per_cell, config.hidden_size)[layout.cells].flatten(0, 1)
        for index, block in enumerate(self._blocks):
            yield from block.parts(hidden, layout.turn, None if index in config.full_layers else layout.windows)
        merged = yield from in_parts(hidden.view(-1, per_cell, config.hidden_size), self._merged)
        return merged[layout.cells.argsort()]

    def _embedded(self, pixels: NDArray[np.uint8], side: int) -> Generator[None, None, Tensor]:
        """(patches, hidden_size), cell by cell."""
        lines = side * lines_at_once(pixels.shape[1] // side * self._config.merge**2, self._device)
        bands = []
        for top in range(0, len(pixels), lines):
            band = yield from in_parts(self._patches(pixels[top : top + lines]), self._embed)
            bands.append(band)
        return torch.cat(bands)

    def _merged(self, cells: Tensor) -> Tensor:
        """(cells, patches of a cell, hidden_size) to (cells, out_size)."""
        return self._outer(gelu(self._inner(self._norm(cells).flatten(1))))

    def _patches(self, pixels: NDArray[np.uint8]) -> Tensor:
        """(patches, 3 * frames * patch * patch), cell by cell."""
        config = self._config
        merge, patch = config.merge, config.patch
        colours = torch.tensor(pixels, device=self._device).permute(2, 0, 1).float()
        mean = 255 * torch.tensor(config.mean, device=self._device).view(3, 1, 1)
        deviation = 255 * torch.tensor(config.deviation, device=self._device).view(3, 1, 1)
        colours = (colours - mean) / deviation
        high, wide = pixels.shape[0] // (patch * merge), pixels.shape[1] // (patch * merge)
        patches = colours.view(3, high, merge, patch, wide, merge, patch).permute(1, 4, 2, 5, 0, 3, 6)
        # A picture that stands still shows the same in every frame.
        moving = patches.unsqueeze(5).expand(-1, -1, -1, -1, -1, config.frames, -1, -1)
        return moving.reshape(high * wide * merge**2, -1).to(self._dtype)

    def _layout(self, high: int, wide: int) -> _Layout:
        config = self._config
        rows, columns = (axis.ravel() for axis in np.indices((high, wide)))
        windows = rows // config.window * -(-wide // config.window) + columns // config.window
        cells = np.argsort(windows, kind="stable")
        inner_rows, inner_columns = (axis.ravel() for axis in np.indices((config.merge, config.merge)))
        patch_rows = (rows[cells, None] * config.merge + inner_rows).ravel()
        patch_columns = (columns[cells, None] * config.merge + inner_columns).ravel()
        return _Layout(
            torch.from_numpy(cells).to(self._device), self._turn(patch_rows, patch_columns), self._windows(windows[cells])
        )

    def _turn(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        head_dim = self._config.hidden_size // self._config.num_heads
        frequencies = rotary_frequencies(head_dim // 2, _THETA)
        angles = torch.cat([torch.outer(torch.from_numpy(axis).float(), frequencies) for axis in (rows, columns)], dim=1)
        cos, sin = angles.cos(), angles.sin()
        turn = torch.cat((cos, cos), dim=1), torch.cat((-sin, sin), dim=1)
        return turn[0].unsqueeze(1).to(self._device), turn[1].unsqueeze(1).to(self._device)

    def _windows(self, windows: NDArray[np.int64]) -> list[Tensor]:
        per_cell = self._config.merge**2
        _, starts, counts = np.unique(windows, return_index=True, return_counts=True)
        return [
            torch.from_numpy(starts[counts == count, None] * per_cell + np.arange(count * per_cell)).to(self._device)
            for count in np.unique(counts).tolist()
        ]


class _Block:
    """One layer of the tower."""

    def __init__(self, config: TowerConfig, tensors: TensorLoader, prefix: str) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size
        self._num_heads = config.num_heads
        self._attention_norm = RmsNorm(tensors.tensor(f"{prefix}norm1.weight", hidden), _EPS)
        self._mlp_norm = RmsNorm(tensors.tensor(f"{prefix}norm2.weight", hidden), _EPS)
        self._qkv = _linear(tensors, f"{prefix}attn.qkv", 3 * hidden, hidden)
        self._output = _linear(tensors, f"{prefix}attn.proj", hidden, hidden)
        self._mlp = GatedMlp(
            _linear(tensors, f"{prefix}mlp.gate_proj", inner, hidden),
            _linear(tensors, f"{prefix}mlp.up_proj", inner, hidden),
            _linear(tensors, f"{prefix}mlp.down_proj", hidden, inner),
        )

    def parts(self, hidden: Tensor, turn: tuple[Tensor, Tensor], windows: list[Tensor] | None) -> Generator[None, None, None]:
        """Changes `hidden` in place, and pauses before each part. `windows`: None looks at the whole image."""
        queries, keys, values = hidden.new_empty((3, len(hidden), self._num_heads, hidden.shape[1] // self._num_heads))
        for rows in row_parts(len(hidden), hidden.device):
            yield
            qkv = self._qkv(self._attention_norm(hidden[rows])).view(len(hidden[rows]), 3, self._num_heads, -1)
            turned = qkv[:, :2].float().flatten(1, 2)
            rotate_(turned, (turn[0][rows], turn[1][rows]))
            turned = turned.view(len(turned), 2, self._num_heads, -1)
            queries[rows], keys[rows], values[rows] = turned[:, 0], turned[:, 1], qkv[:, 2]
        attended = torch.empty_like(queries)
        if windows is None:
            for rows, heads in attention_parts(len(hidden), self._num_heads, hidden.device):
                yield
                attended[rows, heads] = _looked(queries[None, rows, heads], keys[None, :, heads], values[None, :, heads])[0]
        else:
            for alike in windows:
                for some in alike.split(lines_at_once(alike.shape[1], hidden.device)):
                    yield
                    attended[some] = _looked(queries[some], keys[some], values[some])
        for rows in row_parts(len(hidden), hidden.device):
            yield
            hidden[rows] += self._output(attended[rows].flatten(1))
            hidden[rows] += self._mlp(self._mlp_norm(hidden[rows]))


def _looked(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Each (windows, patches, heads, head_dim); of one window there may be fewer queries than keys."""
    return scaled_dot_product_attention(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)).transpose(1, 2)


def _linear(tensors: TensorLoader, name: str, out_features: int, in_features: int) -> Linear:
    return Linear(tensors.tensor(f"{name}.weight", out_features, in_features), tensors.tensor(f"{name}.bias", out_features))
