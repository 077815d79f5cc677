"""The work of a vision tower in parts, so that streams need not wait for all of it, nor for a layer of it.

Takes how many rows there are, gives which of them are computed without a pause. That depends on the image's size and the kind
of device alone: who else is there moves no part, and so changes no bit.
"""

from collections.abc import Callable, Generator, Iterator
from itertools import product
from typing import Final

import torch
from torch import Tensor

# Rows of a part. More of them would be longer than a step of a small text model; fewer would be no matrix worth the name. A
# device needs more of them at once to be busy.
ROWS: Final = {"cpu": 256, "cuda": 4096}
# Where so many rows look at each other, a part has all heads of its rows; where more do, fewer of them.
KEYS: Final = 4096


def row_parts(count: int, device: torch.device) -> Iterator[slice]:
    """Rows that are computed together."""
    return _slices(count, ROWS[device.type])


def attention_parts(count: int, num_heads: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Rows and heads that look at all rows together: as much work in a large image as in a small one."""
    queries = ROWS[device.type] * num_heads * KEYS // max(count, KEYS)
    rows = min(ROWS[device.type], queries)
    return product(_slices(count, rows), list(_slices(num_heads, queries // rows)))


def lines_at_once(width: int, device: torch.device) -> int:
    """How many lines of so many rows each a part may have, but at least one."""
    return max(1, ROWS[device.type] // width)


def in_parts(rows: Tensor, compute: Callable[[Tensor], Tensor]) -> Generator[None, None, Tensor]:
    """What becomes of `rows`, each on its own; pauses before each part."""
    computed = []
    for part in row_parts(len(rows), rows.device):
        yield
        computed.append(compute(rows[part]))
    return torch.cat(computed)


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
