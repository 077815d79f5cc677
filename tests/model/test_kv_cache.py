"""The pool of blocks: its size, and that what is stored is what is gathered."""

import pytest
import torch

from ecocore.errors import InvalidConfiguration
from ecocore.model.config import KvLayer
from ecocore.model.kv_cache import KvCache
from ecocore.model.kv_groups import KvGroup

BLOCK_BYTES = 3 * 4 * 2 * 2 * 8 * 4  # layers, positions, keys and values, heads, dimensions, bytes of float32


def cache(pool_bytes: int) -> KvCache:
    return KvCache(pool_bytes, layers=[KvLayer(2, 8)] * 3, block_size=4, dtype=torch.float32, device=torch.device("cpu"))


def test_the_pool_takes_as_many_blocks_as_the_bytes_hold() -> None:
    assert cache(BLOCK_BYTES).groups == (KvGroup(1, None),)
    assert cache(6 * BLOCK_BYTES - 1).groups == (KvGroup(5, None),)


def test_a_pool_without_a_block_is_refused_with_the_bytes_it_needs() -> None:
    with pytest.raises(InvalidConfiguration, match=f"at least {BLOCK_BYTES} bytes"):
        cache(BLOCK_BYTES - 1)


def test_what_is_stored_by_slot_is_gathered_by_block() -> None:
    pool = cache(6 * BLOCK_BYTES)
    tokens = torch.randn((7, 4, 8), generator=torch.Generator().manual_seed(0))
    slots = torch.tensor([20, 21, 22, 23, 4, 5, 6])  # block 5, then most of block 1
    pool.store(1, slots, tokens)
    assert torch.equal(pool.gather(1, torch.tensor([5, 1]))[:7], tokens)
    assert not pool.gather(0, torch.tensor([5, 1])).any()
    assert not pool.gather(2, torch.tensor([5, 1])).any()


def test_neighbouring_blocks_are_gathered_without_a_copy() -> None:
    pool = cache(6 * BLOCK_BYTES)
    pool.store(0, torch.arange(8, 16), torch.randn((8, 4, 8), generator=torch.Generator().manual_seed(0)))
    copied = pool.gather(0, torch.tensor([2, 3])).clone()
    viewed = pool.gather(0, torch.tensor([2, 3]), first=2)
    assert torch.equal(viewed, copied)
    pool.clear(0, torch.tensor([3]))
    assert not viewed[4:].any()
    assert torch.equal(viewed[:4], copied[:4])


def test_layers_of_different_shapes_share_the_numbers_of_blocks() -> None:
    layers = [KvLayer(2, 8), KvLayer(1, 4)]
    per_block = 4 * (2 * 2 * 8 + 2 * 1 * 4) * 4
    pool = KvCache(3 * per_block, layers=layers, block_size=4, dtype=torch.float32, device=torch.device("cpu"))
    assert pool.groups == (KvGroup(3, None),)
    assert [pool.block_bytes(0), pool.block_bytes(1)] == [4 * 32 * 4, 4 * 8 * 4]
    for layer, shape in enumerate([(4, 4, 8), (4, 2, 4)]):
        tokens = torch.randn(shape, generator=torch.Generator().manual_seed(layer))
        pool.store(layer, torch.arange(8, 12), tokens)
        assert torch.equal(pool.gather(layer, torch.tensor([0, 2]))[4:], tokens)


def test_each_group_of_layers_has_a_pool_of_its_own() -> None:
    layers = [KvLayer(2, 8), KvLayer(1, 4, window=6), KvLayer(2, 8)]
    pool = KvCache(2**20, layers=layers, block_size=4, dtype=torch.float32, device=torch.device("cpu"), step_tokens=8)
    (full, sliding) = pool.groups
    assert (full.window, sliding.window) == pool.windows == (None, 6)
    # A sequence of the typical length holds three blocks of its window, and all 2048 of the others.
    assert full.num_blocks > 50 * sliding.num_blocks > 0
    for layer, shape in enumerate([(4, 4, 8), (4, 2, 4)]):
        tokens = torch.randn(shape, generator=torch.Generator().manual_seed(layer))
        pool.store(layer, torch.arange(4, 8), tokens)
        assert torch.equal(pool.gather(layer, torch.tensor([0, 1]))[4:], tokens)
    assert not pool.gather(2, torch.tensor([0, 1])).any()
