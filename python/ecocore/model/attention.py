"""Attention over paged keys and values, computed so that a position never notices its company.

Takes a batch, gives a plan of the step that all layers share; the plan turns queries into attended values. The
arithmetic of a position is a function of (position, prompt length) and, where positions of a prompt see each other, of which
they are; docs/determinism.md says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from ecocore.errors import InternalError
from ecocore.model.batch import ComputedBatch, Integers
from ecocore.model.kv_cache import KvCache
from ecocore.model.layers import padded

# Decode rows share one call while what they gather fits here: it should stay in the processor's cache.
GATHER_BYTES = 8 * 2**20


Spans = Sequence[tuple[int, int]]
"""Beginnings and ends of parts of a prompt, in order and apart."""


class CausalMask:
    """What the rows of one block may see, for any number of blocks before it.

    One staircase (block_size, keys), aligned on the right, whose views serve every cell and every decode row. With a window
    the stairs have a lower edge too, and end where the last row sees nothing more.
    """

    def __init__(self, block_size: int, *, dtype: torch.dtype, device: torch.device, window: int | None = None) -> None:
        """`window`: how many positions a row sees, itself included; None for all before it."""
        self._block_size: Final = block_size
        self._window: Final = window
        width = block_size if window is None else (1 + -(-(window - 1) // block_size)) * block_size
        steps = torch.arange(width)[None] - (width - block_size) - torch.arange(block_size)[:, None]
        hidden = steps > 0 if window is None else (steps > 0) | (steps <= -window)
        self._mask = torch.zeros((block_size, width), dtype=dtype).masked_fill_(hidden, float("-inf")).to(device)

    def over(self, num_keys: int) -> Tensor:
        """The mask of a block whose keys end with its own last position: (block_size, num_keys), zero or minus infinity."""
        missing = num_keys - self._mask.shape[1]
        if missing > 0:
            # Doubling keeps a growing conversation from rebuilding the mask at each new block.
            self._mask = pad(self._mask, (max(missing, self._mask.shape[1]), 0))
        return self._mask[:, self._mask.shape[1] - num_keys :]

    def seeing(self, rows: range, keys: range, spans: Spans) -> Tensor:
        """The mask of `rows` over `keys`, where positions of one of `spans` see all of each other that the window shows."""
        row, key = np.arange(rows.start, rows.stop)[:, None], np.arange(keys.start, keys.stop)[None]
        visible = key <= row
        for start, end in spans:
            visible |= (start <= row) & (row < end) & (start <= key) & (key < end)
        if self._window is not None:
            visible &= key > row - self._window
        mask = torch.zeros(visible.shape, dtype=self._mask.dtype).masked_fill_(torch.from_numpy(~visible), float("-inf"))
        return mask.to(self._mask.device)

    def first_blocks(self, positions: Integers) -> Integers:
        """The first block that a row at each of `positions` sees."""
        if self._window is None:
            return np.zeros_like(positions)
        return np.maximum(positions - self._window + 1, 0) // self._block_size


@dataclass(frozen=True, slots=True)
class _Cell:
    """Queries of one block-sized piece of a prompt: rows `begin` to `end` of the step see some `keys` under `mask`."""

    begin: int
    end: int
    keys: slice
    mask: Tensor


@dataclass(frozen=True, slots=True)
class _Prefill:
    """Cells of one prompt, with the blocks of everything they see."""

    blocks: Tensor
    first: int | None
    cells: list[_Cell]


@dataclass(frozen=True, slots=True)
class _Decode:
    """Single queries that see equally many blocks: `rows` (n,) of the step, `blocks` (n * blocks each,), `mask` (n, keys)."""

    rows: Tensor
    blocks: Tensor
    first: int | None
    mask: Tensor


class AttentionPlan:
    """What one step stores and attends to, worked out once for all layers that keep alike."""

    def __init__(
        self,
        batch: ComputedBatch,
        cache: KvCache,
        masks: Mapping[int | None, CausalMask],
        *,
        device: torch.device,
        alone: bool,
        spans: Sequence[Spans] = (),
    ) -> None:
        """`masks`: one for each window of `cache.layers`.

        `alone`: one decode row per call, for a machine where rows in one call are not independent. `spans`: none, or of each
        row of the batch those of its prompt whose positions see all of each other in layers with a window; they are in one
        step. In all layers a cell ends where one of them begins, so that a step may end there too, and where it ends: how it is
        computed shows in blocks before its end, which other prompts may share.
        """
        self._cache = cache
        self._device = device
        self._slots = {window: self._tensor(slots) for window, slots in zip(cache.windows, batch.slots, strict=True)}
        # A block begins clean. What lies behind a position is masked and weighs zero, but zero times a NaN that
        # another sequence left there would still be NaN.
        begins = batch.positions % batch.block_size == 0
        self._begun = {
            window: self._tensor(slots[begins] // batch.block_size)
            for window, slots in zip(cache.windows, batch.slots, strict=True)
            if begins.any()
        }
        tables = dict(zip(cache.windows, batch.block_tables, strict=True))
        self._prefills = {
            window: self._plan_prefills(batch, tables[window], mask, spans, look_around=window is not None)
            for window, mask in masks.items()
        }
        self._decodes = {
            kind: self._plan_decodes(batch, tables[kind.window], masks[kind.window], cache.block_bytes(layer), alone=alone)
            for kind, layer in {kind: layer for layer, kind in enumerate(cache.layers)}.items()
        }

    def attend(self, layer: int, queries: Tensor, keys_values: Tensor, out: Tensor, *, scale: float | None = None) -> None:
        """Stores `keys_values` (tokens, 2 * kv_heads, head_dim) and writes what `queries` attend to into `out`.

        `queries`, `out`: (rows, heads, head_dim); rows beyond the step's tokens are left as they are. `scale`: of the
        products; None is head_dim ** -0.5.
        """
        kind = self._cache.layers[layer]
        if kind.window in self._begun:
            self._cache.clear(layer, self._begun[kind.window])
        slots = self._slots[kind.window]
        self._cache.store(layer, slots, keys_values[: len(slots)])
        for prefill in self._prefills[kind.window]:
            self._attend_prefill(layer, prefill, queries, out, scale)
        for decode in self._decodes[kind]:
            self._attend_decode(layer, decode, queries, out, scale)

    def _attend_prefill(self, layer: int, prefill: _Prefill, queries: Tensor, out: Tensor, scale: float | None) -> None:
        kv_heads, head_dim = self._cache.layers[layer].num_kv_heads, queries.shape[2]
        group = queries.shape[1] // kv_heads
        # (keys, 2 * kv_heads, head_dim) -> (2 * kv_heads, 1, keys, head_dim): a group of heads shares its keys unrepeated.
        keys_values = self._cache.gather(layer, prefill.blocks, prefill.first).transpose(0, 1).unsqueeze(1)
        keys_values = keys_values.expand(-1, group, -1, -1)
        for cell in prefill.cells:
            count = cell.end - cell.begin
            grouped = queries[cell.begin : cell.end].view(count, kv_heads, group, head_dim).permute(1, 2, 0, 3)
            # A copy of its own also gives the cell the same alignment wherever it stands in the step.
            missing = padded(count) - count
            grouped = pad(grouped, (0, 0, 0, missing)) if missing else grouped.contiguous()
            seen = keys_values[:, :, cell.keys]
            attended = scaled_dot_product_attention(grouped, seen[:kv_heads], seen[kv_heads:], attn_mask=cell.mask, scale=scale)
            target = out[cell.begin : cell.end].view(count, kv_heads, group, head_dim)
            target.copy_(attended[:, :, :count].permute(2, 0, 1, 3))

    def _attend_decode(self, layer: int, decode: _Decode, queries: Tensor, out: Tensor, scale: float | None) -> None:
        count, kv_heads, head_dim = len(decode.rows), self._cache.layers[layer].num_kv_heads, queries.shape[2]
        group = queries.shape[1] // kv_heads
        keys_values = self._cache.gather(layer, decode.blocks, decode.first)
        keys_values = keys_values.view(count, -1, 2 * kv_heads, head_dim).transpose(1, 2)
        # The heads that share a key become the query rows of one small matrix, padded to where rows are independent.
        grouped = queries.index_select(0, decode.rows).view(count, kv_heads, group, head_dim)
        if missing := padded(group) - group:
            grouped = pad(grouped, (0, 0, 0, missing))
        attended = scaled_dot_product_attention(
            grouped,
            keys_values[:, :kv_heads],
            keys_values[:, kv_heads:],
            attn_mask=decode.mask[:, None, None].expand(-1, -1, group + missing, -1),
            scale=scale,
        )
        out.index_copy_(0, decode.rows, attended[:, :, :group].flatten(1, 2))

    def _plan_prefills(
        self, batch: ComputedBatch, tables: Integers, mask: CausalMask, spans: Sequence[Spans], *, look_around: bool
    ) -> list[_Prefill]:
        prefills = []
        size = batch.block_size
        offset = 0
        rows = zip(batch.starts.tolist(), batch.lengths.tolist(), batch.prompt_lengths.tolist(), tables, strict=True)
        for index, (start, length, prompt_length, table) in enumerate(rows):
            end = min(start + length, prompt_length)
            if start < end:
                own = spans[index] if spans else ()
                edges = _edges(start, end, prompt_length, size, own)
                firsts = mask.first_blocks(np.array(edges[:-1])).tolist()
                behind = firsts[0]
                cells = []
                for (a, b), first in zip(pairwise(edges), firsts, strict=True):
                    last = a // size + 1
                    around = [(begin, stop) for begin, stop in own if begin < b and a < stop] if look_around else []
                    if around:
                        if around[-1][1] > end:
                            raise InternalError(f"prefill of positions {start} to {end} ends within an image")
                        last = max(last, -(-around[-1][1] // size))
                    if around or a % size:
                        keys = range(first * size, last * size)
                        seen = mask.seeing(range(a, a + padded(b - a)), keys, around)
                    else:
                        seen = mask.over((last - first) * size)[: padded(b - a)]
                    keys_of = slice((first - behind) * size, (last - behind) * size)
                    cells.append(_Cell(offset + a - start, offset + b - start, keys_of, seen))
                blocks = table[behind : -(-end // size)]
                prefills.append(_Prefill(self._tensor(blocks), _first_of_run(blocks), cells))
            offset += length
        return prefills

    def _plan_decodes(
        self, batch: ComputedBatch, tables: Integers, mask: CausalMask, block_bytes: int, *, alone: bool
    ) -> list[_Decode]:
        sequences = np.repeat(np.arange(len(batch.lengths)), batch.lengths)
        (decoding,) = np.nonzero(batch.positions >= batch.prompt_lengths[sequences])
        if not decoding.size:
            return []
        last = batch.positions[decoding] // batch.block_size
        num_blocks = last + 1 - mask.first_blocks(batch.positions[decoding])
        decodes = []
        for count in np.unique(num_blocks).tolist():
            alike = num_blocks == count
            staircase = mask.over(count * batch.block_size)
            fitting = 1 if alone else max(1, GATHER_BYTES // (count * block_bytes))
            cuts = range(fitting, int(alike.sum()), fitting)
            for rows, ends in zip(np.split(decoding[alike], cuts), np.split(last[alike], cuts), strict=True):
                columns = ends[:, None] + np.arange(1 - count, 1)
                blocks = tables[sequences[rows][:, None], columns].ravel()
                offsets = self._tensor(batch.positions[rows] % batch.block_size)
                decodes.append(_Decode(self._tensor(rows), self._tensor(blocks), _first_of_run(blocks), staircase[offsets]))
        return decodes

    def _tensor(self, values: Integers) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)


def _edges(start: int, end: int, prompt_length: int, size: int, spans: Spans) -> list[int]:
    """Where the cells of a part of a prompt begin, and its end: at multiples of `size`, and at both ends of spans."""
    begins = {begin for begin, _ in spans}
    for edge in (start, end):
        if edge % size and edge not in begins and edge != prompt_length:
            raise InternalError(f"prefill of positions {start} to {end} is off the grid of {size}")
    within = {edge for span in spans for edge in span if start < edge < end}
    return sorted({start, *range(start - start % size + size, end, size), *within, end})


def _first_of_run(blocks: Integers) -> int | None:
    """The first of `blocks` if they lie one behind the other, else None."""
    return int(blocks[0]) if bool((np.diff(blocks) == 1).all()) else None


def masks_for(cache: KvCache, *, dtype: torch.dtype, device: torch.device) -> dict[int | None, CausalMask]:
    """A mask for each window of the layers."""
    windows = {layer.window for layer in cache.layers}
    return {window: CausalMask(cache.block_size, dtype=dtype, device=device, window=window) for window in windows}
