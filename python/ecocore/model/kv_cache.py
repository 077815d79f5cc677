"""The pools of key-value blocks: a step stores what it computed by slot and gathers what it attends to by block.

Which sequence owns which block is the scheduler's business.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ecocore.model.config import KvLayer
from ecocore.model.kv_groups import TYPICAL_TOKENS, divide, windows_of


class KvCache:
    """Keys and values of all layers, (blocks, block_size, 2 * kv_heads, head_dim) each.

    A token's keys and values lie side by side, so that storing and gathering are one copy each. A block has the same number
    in every layer of a group, whatever the layer's shape.
    """

    def __init__(
        self,
        pool_bytes: int,
        *,
        layers: Sequence[KvLayer],
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        step_tokens: int = 0,
        context_length: int = TYPICAL_TOKENS,
        uncut_tokens: int = 0,
    ) -> None:
        """Takes as many blocks as `pool_bytes` hold, at once. Raises InvalidConfiguration if that is none.

        `step_tokens`: most positions that a step computes. `context_length`: most that a sequence has. `uncut_tokens`: most of
        a prompt that no two steps share.
        """
        self.block_size = block_size
        self.layers = tuple(layers)
        self.windows = windows_of(layers)
        """Of each group of layers; `groups` are the same in numbers."""
        self.groups = divide(
            pool_bytes,
            layers=layers,
            block_size=block_size,
            itemsize=dtype.itemsize,
            step_tokens=step_tokens,
            context_length=context_length,
            uncut_tokens=uncut_tokens,
        )
        num_blocks = {group.window: group.num_blocks for group in self.groups}
        # Writing makes the system hand over the memory now, rather than run out of it in the middle of a request.
        self._layers = [
            torch.empty(
                (num_blocks[layer.window], block_size, 2 * layer.num_kv_heads, layer.head_dim), dtype=dtype, device=device
            ).zero_()
            for layer in layers
        ]
        self._scratch = {pool.shape[1:]: pool.new_empty((0, *pool.shape[1:])) for pool in self._layers}

    def block_bytes(self, layer: int) -> int:
        """Bytes of one block in a layer."""
        return self._layers[layer][0].nbytes

    def clear(self, layer: int, blocks: Tensor) -> None:
        """Zeroes `blocks` (any,) int64."""
        self._layers[layer].index_fill_(0, blocks, 0)

    def store(self, layer: int, slots: Tensor, keys_values: Tensor) -> None:
        """Writes `keys_values` (tokens, 2 * kv_heads, head_dim) to `slots` (tokens,), block * block_size + offset each."""
        self._layers[layer].flatten(0, 1).index_copy_(0, slots, keys_values)

    def gather(self, layer: int, blocks: Tensor, first: int | None = None) -> Tensor:
        """Keys and values of `blocks` (n,), one block after the other: (n * block_size, 2 * kv_heads, head_dim).

        `first`: given if the blocks lie one behind the other from there; then nothing is copied. The result is
        valid until the next call.
        """
        pool, count = self._layers[layer], len(blocks)
        if first is not None:
            return pool[first : first + count].flatten(0, 1)
        shape = pool.shape[1:]
        if len(self._scratch[shape]) < count:
            self._scratch[shape] = pool.new_empty((count, *shape))
        # The same memory serves all layers alike: it stays in the processor's cache and is never given back to the system.
        return torch.index_select(pool, 0, blocks, out=self._scratch[shape][:count]).flatten(0, 1)
