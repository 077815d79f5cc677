"""Asks the machine whether its kernels give a row the same bits whatever stands beside it.

Asked once when a model is loaded, for about the price of a long prompt's step; where the answer is no, the runner
takes a slower way that does not depend on it. docs/determinism.md has the whole experiment.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ecocore.model.attention import AttentionPlan, masks_for
from ecocore.model.batch import Rehearsal
from ecocore.model.config import KvLayer
from ecocore.model.kv_cache import KvCache
from ecocore.model.layers import ROW_MULTIPLE, Linear

# Rows per call where rows are not independent: then every call has the same shape.
TILE = 16
# Rows of the largest step, unless told. Kernels change with their number, so that one is asked too.
LARGEST = 576
# Most rows of a call of a model's head, which is wide: more tokens than these are drawn from calls one after another.
HEAD_ROWS = 64


def rows_stand_alone(compute: Callable[[Tensor], Tensor], rows: Tensor) -> bool:
    """Whether each of `rows` (any multiple of ROW_MULTIPLE, width) comes out the same in calls of several sizes."""
    together = compute(rows)
    counts = [ROW_MULTIPLE, 2 * ROW_MULTIPLE, 3 * ROW_MULTIPLE]
    while counts[-1] < len(rows) // 2:
        counts.append(min(counts[-1] * 2, len(rows) // 2))
    # From the end: a row must not depend on its place either.
    return all(torch.equal(compute(rows[-count:].clone()), together[-count:]) for count in counts)


def settle(linears: list[Linear], *, largest: int = LARGEST) -> list[Linear]:
    """Sets tiles on those layers whose rows are not independent on this machine, and gives them.

    `largest`: rows of the largest step.

    Layers of one shape run the same kernels, so one of each is asked.
    """
    by_shape: dict[tuple[int, int], list[Linear]] = {}
    for linear in linears:
        by_shape.setdefault((linear.in_features, linear.out_features), []).append(linear)
    dependent = [layer for alike in by_shape.values() if not _independent(alike[0], largest) for layer in alike]
    for linear in dependent:
        linear.tile = TILE
    return dependent


def decodes_stand_alone(kind: KvLayer, *, num_heads: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether decode rows that share a call attend as each does in a call of its own."""
    size, places = 64, (70, 83, 90, 111, 127)
    heads, width = 2 * kind.num_kv_heads, kind.head_dim
    pool_bytes = 2 * size * heads * width * dtype.itemsize
    cache = KvCache(pool_bytes, layers=[kind], block_size=size, dtype=dtype, device=device)
    masks = masks_for(cache, dtype=dtype, device=device)
    cache.store(0, torch.arange(2 * size, device=device), _random((2 * size, heads, width), dtype, device))
    queries = _random((len(places), num_heads, width), dtype, device)
    keys_values = _random((len(places), heads, width), dtype, device)
    batch = Rehearsal.of([(place, 1, 0) for place in places], block_size=size, num_blocks=2)

    def attended(*, alone: bool) -> Tensor:
        out = torch.zeros_like(queries)
        AttentionPlan(batch, cache, masks, device=device, alone=alone).attend(0, queries, keys_values, out)
        return out

    return torch.equal(attended(alone=True), attended(alone=False))


def _independent(linear: Linear, largest: int) -> bool:
    # A wide layer is a model's head, which has no activation and sees no more rows in a call.
    if linear.out_features > 8 * linear.in_features:
        return rows_stand_alone(linear, _random((HEAD_ROWS, linear.in_features), linear.dtype, linear.device))
    rows = _random((largest, linear.in_features), linear.dtype, linear.device)
    factors = _random((largest, linear.out_features), linear.dtype, linear.device)

    def every_way(some: Tensor) -> Tensor:
        return torch.cat(
            (
                linear(some),
                linear.activated(some, "silu"),
                linear.activated(some, "gelu_tanh"),
                linear.times(some, factors[-len(some) :].clone()),
            ),
            dim=1,
        )

    return rows_stand_alone(every_way, rows)


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))).to(device, dtype)
