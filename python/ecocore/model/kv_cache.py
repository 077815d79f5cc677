"""The pool of key-value blocks: a step stores what it computed by slot and gathers what it attends to by block.

Which sequence owns which block is the scheduler's business.
"""

import torch
from torch import Tensor

from ecocore.errors import InvalidConfiguration


class KvCache:
    """Keys and values of all layers, (layers, blocks, block_size, 2 * kv_heads, head_dim).

    A token's keys and values lie side by side, so that storing and gathering are one copy each.
    """

    def __init__(
        self,
        pool_bytes: int,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Takes as many blocks as `pool_bytes` hold, at once. Raises InvalidConfiguration if that is none."""
        block_bytes = num_layers * block_size * 2 * num_kv_heads * head_dim * dtype.itemsize
        if pool_bytes < block_bytes:
            raise InvalidConfiguration(
                f"a key-value cache of {pool_bytes} bytes holds no block of this model: give it at least {block_bytes} bytes"
            )
        self.num_blocks = pool_bytes // block_bytes
        self.block_size = block_size
        self.num_kv_heads = num_kv_heads
        pool = torch.empty((num_layers, self.num_blocks, block_size, 2 * num_kv_heads, head_dim), dtype=dtype, device=device)
        # Writing makes the system hand over the memory now, rather than run out of it in the middle of a request.
        pool.zero_()
        self._layers = list(pool.unbind(0))
        self._scratch = torch.empty((0, *pool.shape[2:]), dtype=dtype, device=device)

    @property
    def block_bytes(self) -> int:
        """Bytes of one block in one layer."""
        return self._layers[0][0].nbytes

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
        if len(self._scratch) < count:
            self._scratch = pool.new_empty((count, *pool.shape[1:]))
        # The same memory serves all layers: it stays in the processor's cache and is never given back to the system.
        return torch.index_select(pool, 0, blocks, out=self._scratch[:count]).flatten(0, 1)
