"""A minimal scheduler for tests: sequences with block tables of their own, and batches out of any rows of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ecocore.families import family_of
from ecocore.model.batch import Rehearsal
from ecocore.model.runner import ModelRunner
from ecocore.weights.checkpoint import Checkpoint


def runner_of(checkpoint: Checkpoint, *, kv_cache_bytes: int = 2**21, block_size: int = 16, **options: Any) -> ModelRunner:
    """A loaded runner, with a cache that fits a tiny model."""
    family = family_of(checkpoint)
    checkpoint = family.told(checkpoint)
    options |= {"device": "cpu", "kv_cache_bytes": kv_cache_bytes, "block_size": block_size}
    return ModelRunner.load(family.model_class(), family.configure(checkpoint), checkpoint, **options)


@dataclass
class Row:
    """Positions `start` to `end` of a sequence."""

    sequence: "Line"
    start: int
    end: int


@dataclass
class Line:
    """A sequence: its tokens so far, how many of them are the prompt, and its blocks."""

    token_ids: list[int]
    prompt_length: int
    blocks: list[list[int]] = field(default_factory=list)
    """Of each group of layers."""

    @classmethod
    def of(cls, prompt: Sequence[int]) -> "Line":
        return cls(list(prompt), len(prompt))

    @property
    def prompt(self) -> Row:
        return Row(self, 0, self.prompt_length)

    @property
    def last(self) -> Row:
        return Row(self, len(self.token_ids) - 1, len(self.token_ids))

    def part(self, start: int, end: int) -> Row:
        return Row(self, start, end)


class Driver:
    """Hands out blocks in a scattered order and runs steps."""

    def __init__(self, runner: ModelRunner, *, seed: int = 0) -> None:
        self.runner = runner
        rng = np.random.default_rng(seed)
        self.free = [rng.permutation(group.num_blocks).tolist() for group in runner.groups]

    def step(self, *rows: Row) -> Tensor:
        """Logits of the last position of each row."""
        return self.runner.forward(self.batch(*rows))

    def batch(self, *rows: Row) -> Rehearsal:
        size = self.runner.block_size
        groups = range(len(self.free))
        for row in rows:
            row.sequence.blocks = row.sequence.blocks or [[] for _ in groups]
            for free, own in zip(self.free, row.sequence.blocks, strict=True):
                while len(own) * size < row.end:
                    own.append(free.pop())
        widest = max(len(row.sequence.blocks[0]) for row in rows)
        tables = [[(row.sequence.blocks[group] + [-1] * widest)[:widest] for row in rows] for group in groups]
        positions = [np.arange(row.start, row.end) for row in rows]
        slots = [
            np.concatenate([np.array(tables[group][index])[at // size] * size + at % size for index, at in enumerate(positions)])
            for group in groups
        ]
        lengths = np.array([row.end - row.start for row in rows])
        return Rehearsal(
            block_size=size,
            token_ids=np.concatenate([row.sequence.token_ids[row.start : row.end] for row in rows]),
            positions=np.concatenate(positions),
            slots=np.array(slots),
            block_tables=np.array(tables),
            starts=np.array([row.start for row in rows]),
            lengths=lengths,
            prompt_lengths=np.array([row.sequence.prompt_length for row in rows]),
            sample_indices=lengths.cumsum() - 1,
        )

    def release(self, line: Line) -> None:
        """Takes a sequence's blocks back, contents and all."""
        for free, own in zip(self.free, line.blocks, strict=True):
            free.extend(own)
        line.blocks = []

    def greedy(self, lines: Sequence[Line], count: int, *, chunk: int = 10**9) -> list[list[Tensor]]:
        """Decodes `count` tokens of all `lines` together; prompts are computed in chunks. Gives the logits of each step."""
        logits: list[list[Tensor]] = []
        for line in lines:
            for start in range(0, line.prompt_length, chunk):
                last = self.step(line.part(start, min(start + chunk, line.prompt_length)))
            logits.append([last[0]])
        for line, own in zip(lines, logits, strict=True):
            line.token_ids.append(int(own[-1].argmax()))
        for _ in range(count - 1):
            for line, own, row in zip(lines, logits, self.step(*(line.last for line in lines)), strict=True):
                own.append(row)
                line.token_ids.append(int(row.argmax()))
        return logits
