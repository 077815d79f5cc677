"""What the model reads of a step: the part of `_core.Batch` that it needs, and steps made up for rehearsal."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class ComputedBatch(Protocol):
    """The arrays of `_core.Batch` that a model computes from; their meaning is told there."""

    @property
    def block_size(self) -> int:
        """Positions per block."""

    @property
    def sequence_ids(self) -> NDArray[np.uint64]:
        """(rows,)."""

    @property
    def token_ids(self) -> Integers:
        """(tokens,)."""

    @property
    def positions(self) -> Integers:
        """(tokens,)."""

    @property
    def slots(self) -> Integers:
        """(groups, tokens)."""

    @property
    def block_tables(self) -> Integers:
        """(groups, rows, widest)."""

    @property
    def starts(self) -> Integers:
        """(rows,)."""

    @property
    def lengths(self) -> Integers:
        """(rows,)."""

    @property
    def prompt_lengths(self) -> Integers:
        """(rows,)."""

    @property
    def sample_indices(self) -> Integers:
        """(samples,)."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A step in plain arrays, which belongs to no request here: for asking the machine what its kernels do, or told by rank 0."""

    block_size: int
    token_ids: Integers
    positions: Integers
    slots: Integers
    block_tables: Integers
    starts: Integers
    lengths: Integers
    prompt_lengths: Integers
    sample_indices: Integers
    sequence_ids: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))

    @classmethod
    def of(cls, rows: Sequence[tuple[int, int, int]], *, block_size: int, num_blocks: int) -> Self:
        """`rows`: (start, length, prompt length) of each sequence, all on the first of `num_blocks` blocks of one group."""
        starts, lengths, prompts = (np.array(column, np.int64) for column in zip(*rows, strict=True))
        positions = np.concatenate([np.arange(start, start + length) for start, length, _ in rows])
        widest = int((starts + lengths).max() - 1) // block_size + 1
        blocks = np.arange(widest) % num_blocks
        return cls(
            block_size=block_size,
            token_ids=np.zeros(len(positions), np.int64),
            positions=positions,
            slots=(blocks[positions // block_size] * block_size + positions % block_size)[None],
            block_tables=np.tile(blocks, (1, len(rows), 1)),
            starts=starts,
            lengths=lengths,
            prompt_lengths=prompts,
            sample_indices=lengths.cumsum() - 1,
        )
