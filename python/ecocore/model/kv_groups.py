"""Which layers share the numbers of their blocks, and how the cache's memory is divided between them.

Layers that keep equally much are a group. Those without a window keep every position; the others keep what their window
shows and what is being computed. docs/scheduling.md has the rule of the division and what it saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ecocore.errors import InvalidConfiguration
from ecocore.model.config import KvLayer

BLOCK_SIZE: Final = 64
"""Positions of a block, unless told otherwise."""
TYPICAL_TOKENS: Final = 8192
"""Memory is divided as sequences of this length use it up evenly."""


@dataclass(frozen=True, slots=True)
class KvGroup:
    """Blocks of the layers with one `window`; None: they keep every position."""

    num_blocks: int
    window: int | None


def windows_of(layers: Sequence[KvLayer]) -> tuple[int | None, ...]:
    """The window of each group, in the order of groups: first the layers that keep every position."""
    return tuple(sorted({layer.window for layer in layers}, key=lambda window: (window is not None, window or 0)))


def most_blocks(window: int | None, num_blocks: int, *, block_size: int, in_flight: int) -> int:
    """Of the blocks of a sequence's positions, as many as it holds at a time while `in_flight` of them are computed."""
    return num_blocks if window is None else min(num_blocks, -(-(window + in_flight) // block_size) + 1)


def divide(
    pool_bytes: int,
    *,
    layers: Sequence[KvLayer],
    block_size: int,
    itemsize: int,
    step_tokens: int,
    context_length: int,
    uncut_tokens: int = 0,
) -> tuple[KvGroup, ...]:
    """As many blocks for each group as sequences of a typical length use, together with steps of `step_tokens`.

    `uncut_tokens`: most positions of a prompt that no two steps share; they have room beside the window. Where not even one
    such sequence fits, as the longest uses that does. Raises InvalidConfiguration if that is none.
    """
    windows = windows_of(layers)
    sizes = _block_bytes(layers, block_size, itemsize)
    in_flight = max(2 * max(step_tokens, block_size), uncut_tokens)

    def held(num_blocks: int, in_flight: int) -> list[int]:
        return [most_blocks(window, num_blocks, block_size=block_size, in_flight=in_flight) for window in windows]

    def nbytes(counts: Sequence[float]) -> float:
        return sum(count * size for count, size in zip(counts, sizes, strict=True))

    typical = -(-min(TYPICAL_TOKENS, context_length) // block_size)
    resting, alone = held(typical, 0), held(typical, in_flight)
    # The first runs alone; every other one finds the blocks of the step's positions there.
    others = (pool_bytes - nbytes(alone)) / nbytes(resting)
    if others < 0:
        fitting = (held(count, in_flight) for count in range(typical - 1, 0, -1))
        alone = next((counts for counts in fitting if nbytes(counts) <= pool_bytes), [])
        if not alone:
            raise InvalidConfiguration(
                f"a key-value cache of {pool_bytes} bytes holds no block of this model: give it at least {sum(sizes)} bytes"
            )
        return tuple(map(KvGroup, alone, windows))
    counts = [one + int(others * more) for one, more in zip(alone, resting, strict=True)]
    counts[0] += int(pool_bytes - nbytes(counts)) // sizes[0]
    return tuple(map(KvGroup, counts, windows))


def longest_sequence(groups: Sequence[KvGroup], *, block_size: int, context_length: int, uncut_tokens: int = 0) -> int:
    """Positions of the longest sequence that the groups can hold, at most `context_length`, whatever cannot be cut of it."""
    in_flight = max(block_size, uncut_tokens)

    def longest(group: KvGroup) -> int:
        enough = most_blocks(group.window, group.num_blocks + 1, block_size=block_size, in_flight=in_flight)
        return context_length if enough <= group.num_blocks else group.num_blocks * block_size

    return min(context_length, *map(longest, groups))


def sequence_bytes(num_tokens: int, *, layers: Sequence[KvLayer], block_size: int, itemsize: int, in_flight: int) -> int:
    """What a sequence of so many tokens holds, of which `in_flight` are being computed."""
    num_blocks = -(-num_tokens // block_size)
    held = (most_blocks(window, num_blocks, block_size=block_size, in_flight=in_flight) for window in windows_of(layers))
    return sum(count * size for count, size in zip(held, _block_bytes(layers, block_size, itemsize), strict=True))


def kept_numbers(layer: KvLayer) -> int:
    """Numbers that a layer keeps of a position."""
    return 2 * layer.num_kv_heads * layer.head_dim


def _block_bytes(layers: Sequence[KvLayer], block_size: int, itemsize: int) -> list[int]:
    """Bytes of a block of each group, in all of its layers."""
    kept = [sum(kept_numbers(layer) for layer in layers if layer.window == window) for window in windows_of(layers)]
    return [block_size * numbers * itemsize for numbers in kept]
