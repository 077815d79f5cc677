"""How the cache's memory is divided between layers that keep everything and layers with a window."""

import numpy as np
import pytest

from ecocore._core import Scheduler
from ecocore.errors import InvalidConfiguration
from ecocore.model.config import KvLayer
from ecocore.model.kv_groups import KvGroup, divide, longest_sequence, most_blocks, sequence_bytes, windows_of
from ecocore.model.sight import IMAGE_TOKENS, uncut_tokens

# Gemma 4 31B: 50 layers with a window of 1024, 10 without.
LARGE = [*[KvLayer(16, 256, 1024)] * 5, KvLayer(4, 512)] * 10
# Bytes of a block of all ten layers that keep everything, in bfloat16.
FULL = 64 * 10 * 2 * 4 * 512 * 2
GIB = 2**30


def divided(pool_bytes: int, layers: list[KvLayer] = LARGE) -> tuple[KvGroup, ...]:
    return divide(pool_bytes, layers=layers, block_size=64, itemsize=2, step_tokens=784, context_length=262_144)


def nbytes(groups: tuple[KvGroup, ...]) -> int:
    return sum(group.num_blocks * FULL * (1 if group.window is None else 10) for group in groups)


def test_layers_that_keep_everything_come_first() -> None:
    assert windows_of(LARGE) == (None, 1024)
    assert windows_of([KvLayer(1, 2, 9), KvLayer(1, 2, 4)]) == (4, 9)


def test_the_page_on_scheduling_has_these_figures() -> None:
    def mebibytes(layers: list[KvLayer], in_flight: int) -> int:
        return sequence_bytes(32_768, layers=layers, block_size=64, itemsize=2, in_flight=in_flight) // 2**20

    full, sliding = divided(24 * GIB)
    assert (full.num_blocks // 128, (sliding.num_blocks - 25) // 17, full.num_blocks * 64) == (15, 15, 128_320)
    assert 24 * GIB // (11 * FULL) * 64 == 28_544
    without_windows = [KvLayer(layer.num_kv_heads, layer.head_dim) for layer in LARGE]
    assert [mebibytes(without_windows, 0), mebibytes(LARGE, 0), mebibytes(LARGE, 2 * 784)] == [28_160, 3_410, 4_660]


@pytest.mark.parametrize("gibibytes", [4, 6, 24, 64, 110])
def test_memory_is_used_up_by_sequences_of_a_typical_length(gibibytes: int) -> None:
    full, sliding = groups = divided(gibibytes * GIB)
    assert 0 <= gibibytes * GIB - nbytes(groups) < 10 * FULL
    running = full.num_blocks // 128
    # So many sequences of 8192 tokens rest in both, and one of them finds blocks for two steps.
    in_flight = most_blocks(1024, 128, block_size=64, in_flight=2 * 784) - most_blocks(1024, 128, block_size=64, in_flight=0)
    assert abs(sliding.num_blocks - in_flight - 17 * running) <= 17
    assert longest_sequence(groups, block_size=64, context_length=262_144) == min(full.num_blocks * 64, 262_144)


@pytest.mark.parametrize("blocks", [1, 5, 42, 43, 60, 127])
def test_a_small_cache_holds_the_longest_sequence_that_it_can(blocks: int) -> None:
    most = FULL * (blocks + 10 * min(blocks, most_blocks(1024, blocks, block_size=64, in_flight=2 * 784)))
    groups = divided(most)
    assert [group.num_blocks for group in groups] == [blocks, min(blocks, 42)]
    assert longest_sequence(groups, block_size=64, context_length=262_144) == blocks * 64
    if blocks > 1:
        assert divided(most - 1)[0].num_blocks == blocks - 1


def test_a_cache_without_a_block_for_each_group_is_refused() -> None:
    with pytest.raises(InvalidConfiguration, match=f"give it at least {11 * FULL} bytes"):
        divided(11 * FULL - 1)


def test_one_kind_of_layers_gets_everything() -> None:
    assert divided(100 * FULL + 1, [KvLayer(4, 512)] * 10) == (KvGroup(100, None),)
    assert divided(100 * FULL, [KvLayer(4, 512, 100)] * 10) == (KvGroup(100, 100),)
    assert longest_sequence((KvGroup(100, 100),), block_size=64, context_length=262_144) == 262_144
    assert longest_sequence((KvGroup(2, 100),), block_size=64, context_length=262_144) == 128


@pytest.mark.parametrize("layers", [LARGE, [KvLayer(1, 8, 70), KvLayer(1, 8)], [KvLayer(1, 8, 70)]])
@pytest.mark.parametrize("mebibytes", [1, 3, 20, 700])
def test_what_fits_the_context_has_room_wherever_its_images_stand(layers: list[KvLayer], mebibytes: int) -> None:
    uncut = uncut_tokens(looks_around=True, block_size=64)
    try:
        groups = divide(
            mebibytes * 2**20,
            layers=layers,
            block_size=64,
            itemsize=2,
            step_tokens=80,
            context_length=8192,
            uncut_tokens=uncut,
        )
    except InvalidConfiguration:
        return
    context = longest_sequence(groups, block_size=64, context_length=8192, uncut_tokens=uncut)
    scheduler = Scheduler(groups=[(group.num_blocks, group.window) for group in groups], block_size=64, max_batch_tokens=80)
    for offset in range(0, 64, 7):
        for between in (2, 40, 64):
            starts = range(offset, context - IMAGE_TOKENS, IMAGE_TOKENS + between)
            whole = [(start, start + IMAGE_TOKENS) for start in starts]
            scheduler.submit(1, np.zeros(context - 1, np.uint32), 1, whole=whole)
            scheduler.cancel(1)


def test_images_get_room_beside_a_window_that_steps_alone_would_not_need() -> None:
    def windowed(uncut: int) -> int:
        groups = divide(
            2 * GIB, layers=LARGE, block_size=64, itemsize=2, step_tokens=80, context_length=262_144, uncut_tokens=uncut
        )
        return groups[1].num_blocks

    uncut = uncut_tokens(looks_around=True, block_size=64)
    needed = most_blocks(1024, 8192, block_size=64, in_flight=uncut)
    assert windowed(uncut) >= needed == 36 > windowed(0)
