"""Paged attention against plain attention in float64, and its invariance, bit by bit."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ecocore.errors import InternalError
from ecocore.model import attention
from ecocore.model.attention import AttentionPlan, CausalMask, Spans, masks_for
from ecocore.model.batch import Rehearsal
from ecocore.model.config import KvLayer
from ecocore.model.kv_cache import KvCache

SIZE, HEADS, KV_HEADS, DIM = 16, 6, 2, 8
CPU = torch.device("cpu")
Part = tuple["Paged", int, int]


class Paged:
    """One sequence's queries, keys and values, and where its blocks lie."""

    def __init__(self, length: int, prompt_length: int, blocks: Sequence[int], *, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.queries = torch.randn((length, HEADS, DIM), generator=generator)
        self.keys_values = torch.randn((length, 2 * KV_HEADS, DIM), generator=generator)
        self.prompt_length = prompt_length
        self.blocks = np.array(blocks)

    def expected(self, window: int | None = None, spans: Spans = ()) -> Tensor:
        queries, (keys, values) = self.queries.double(), self.keys_values.double().chunk(2, dim=1)
        keys, values = (some.repeat_interleave(HEADS // KV_HEADS, dim=1) for some in (keys, values))
        scores = torch.einsum("qhd,khd->hqk", queries, keys) / DIM**0.5
        steps = torch.arange(len(keys))[None] - torch.arange(len(keys))[:, None]
        hidden = steps > 0
        for start, end in spans:
            hidden[start:end, start:end] = False
        hidden |= steps <= -(window or len(keys))
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), values)


class Pool:
    """A cache of one layer that starts out full of NaN: whoever reads what nobody wrote will show it."""

    def __init__(self, window: int | None = None) -> None:
        layers = [KvLayer(KV_HEADS, DIM, window)]
        self.cache = KvCache(128 * 2**10, layers=layers, block_size=SIZE, dtype=torch.float32, device=CPU)
        every_slot = torch.arange(self.cache.groups[0].num_blocks * SIZE)
        self.cache.store(0, every_slot, torch.full((len(every_slot), 2 * KV_HEADS, DIM), float("nan")))
        self.masks = masks_for(self.cache, dtype=torch.float32, device=CPU)

    def attend(self, *parts: Part, alone: bool = False, spans: Sequence[Spans] = ()) -> list[Tensor]:
        """One step over the given positions of each sequence."""
        positions = [np.arange(start, end) for _, start, end in parts]
        widest = max(len(paged.blocks) for paged, _, _ in parts)
        batch = Rehearsal(
            block_size=SIZE,
            token_ids=np.zeros(sum(map(len, positions)), np.int64),
            positions=np.concatenate(positions),
            slots=np.concatenate(
                [paged.blocks[at // SIZE] * SIZE + at % SIZE for (paged, _, _), at in zip(parts, positions, strict=True)]
            )[None],
            block_tables=np.array([[[*paged.blocks, *[-1] * (widest - len(paged.blocks))] for paged, _, _ in parts]]),
            starts=np.array([start for _, start, _ in parts]),
            lengths=np.array([end - start for _, start, end in parts]),
            prompt_lengths=np.array([paged.prompt_length for paged, _, _ in parts]),
            sample_indices=np.zeros(0, np.int64),
        )
        queries = torch.cat([paged.queries[start:end] for paged, start, end in parts])
        keys_values = torch.cat([paged.keys_values[start:end] for paged, start, end in parts])
        out = torch.zeros_like(queries)
        AttentionPlan(batch, self.cache, self.masks, device=CPU, alone=alone, spans=spans).attend(0, queries, keys_values, out)
        return list(out.split([end - start for _, start, end in parts]))


def computed(pool: Pool, paged: Paged, *edges: int) -> Tensor:
    """A sequence on its own, cut at `edges`."""
    return torch.cat([pool.attend((paged, start, end))[0] for start, end in itertools.pairwise(edges)])


@pytest.mark.parametrize("blocks", [[3, 4, 5, 6], [9, 2, 7, 0]])
@pytest.mark.parametrize(("length", "prompt"), [(1, 1), (16, 16), (17, 17), (50, 50), (64, 33)])
def test_attention_agrees_with_float64(length: int, prompt: int, blocks: list[int]) -> None:
    paged = Paged(length, prompt, blocks, seed=1)
    torch.testing.assert_close(Pool().attend((paged, 0, length))[0].double(), paged.expected(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 18, 33, 100])
@pytest.mark.parametrize(("length", "prompt"), [(1, 1), (17, 17), (50, 50), (64, 33)])
def test_a_window_counts_the_position_itself(length: int, prompt: int, window: int) -> None:
    paged = Paged(length, prompt, [9, 2, 7, 0], seed=1)
    whole = Pool(window).attend((paged, 0, length))[0]
    torch.testing.assert_close(whole.double(), paged.expected(window), rtol=1e-5, atol=1e-5)
    edges = [0, *range(SIZE, prompt, SIZE), prompt, *range(prompt + 1, length + 1)]
    assert torch.equal(computed(Pool(window), paged, *edges), whole)


@pytest.mark.parametrize("window", [3, 16, 40])
@pytest.mark.parametrize("spans", [[(0, 5)], [(10, 40)], [(3, 16), (16, 20), (45, 50)]])
def test_positions_of_a_span_see_each_other_where_there_is_a_window(window: int, spans: Spans) -> None:
    paged = Paged(64, 50, [9, 2, 7, 0], seed=3)
    whole = Pool(window).attend((paged, 0, 64), spans=[spans])[0]
    torch.testing.assert_close(whole.double(), paged.expected(window, spans), rtol=1e-5, atol=1e-5)
    unbounded = Pool().attend((paged, 0, 64), spans=[spans])[0]
    torch.testing.assert_close(unbounded.double(), paged.expected(), rtol=1e-5, atol=1e-5)


def test_a_chunk_changes_no_bit_of_a_span_and_must_not_end_within_one() -> None:
    spans, paged = [(5, 30), (34, 37)], Paged(50, 50, [9, 2, 7, 0], seed=4)
    whole = Pool(20).attend((paged, 0, 50), spans=[spans])[0]
    pool = Pool(20)
    parts = [pool.attend((paged, start, end), spans=[spans])[0] for start, end in ((0, 32), (32, 50))]
    assert torch.equal(torch.cat(parts), whole)
    # A prefix that was found may end within one: what it lacks is computed with all of it in sight.
    assert torch.equal(pool.attend((paged, 16, 50), spans=[spans])[0], whole[16:])
    with pytest.raises(InternalError, match="ends within an image"):
        Pool(20).attend((paged, 0, 16), spans=[spans])


@pytest.mark.parametrize("window", [None, 3, 20])
@pytest.mark.parametrize("spans", [[(5, 19), (21, 35), (35, 50)], [(3, 8), (10, 14), (15, 16)], [(31, 40), (47, 60)]])
def test_a_chunk_may_end_where_a_span_begins_and_changes_no_bit(window: int | None, spans: Spans) -> None:
    paged = Paged(64, 62, [9, 2, 7, 0], seed=6)
    whole = Pool(window).attend((paged, 0, 62), spans=[spans])[0]
    torch.testing.assert_close(whole.double(), paged.expected(window, spans if window else ())[:62], rtol=1e-5, atol=1e-5)
    edges = [0, *(begin for begin, _ in spans), 62]
    pool = Pool(window)
    parts = [pool.attend((paged, start, end), spans=[spans])[0] for start, end in itertools.pairwise(edges)]
    assert torch.equal(torch.cat(parts), whole)
    # One that stopped there and came back begins anew on the grid, beside another one.
    found = spans[-1][0] // SIZE * SIZE
    other = Paged(20, 20, [11, 12], seed=7)
    if not any(begin < found < end for begin, end in spans):
        assert torch.equal(pool.attend((other, 0, 20), (paged, found, 62), spans=[[], spans])[1], whole[found:])


def test_chunks_prefix_hits_and_recomputation_change_no_bit() -> None:
    paged = Paged(60, 41, [9, 2, 7, 0], seed=2)
    whole = computed(Pool(), paged, 0, 60)
    assert torch.equal(computed(Pool(), paged, 0, 16, 32, 41, *range(42, 61)), whole)
    pool = Pool()
    computed(pool, paged, 0, 32)
    again = Paged(60, 41, [9, 2, 11, 12], seed=2)
    assert torch.equal(computed(pool, again, 32, 41, 50, 60), whole[32:])


@pytest.mark.parametrize("gather_bytes", [attention.GATHER_BYTES, 1])
def test_company_changes_no_bit(monkeypatch: pytest.MonkeyPatch, gather_bytes: int) -> None:
    lengths = [(1, 1), (18, 3), (33, 32), (48, 40), (49, 2), (20, 20), (25, 9)]
    free = np.random.default_rng(0).permutation(48).tolist()
    crowd = [
        Paged(length, prompt, [free.pop() for _ in range(-(-length // SIZE))], seed=index)
        for index, (length, prompt) in enumerate(lengths)
    ]
    alone = [computed(Pool(), paged, 0, len(paged.queries)) for paged in crowd]
    monkeypatch.setattr(attention, "GATHER_BYTES", gather_bytes)
    together = Pool().attend(*((paged, 0, len(paged.queries)) for paged in crowd))
    for own, shared in zip(alone, together, strict=True):
        assert torch.equal(own, shared)


def test_one_by_one_gives_the_same_values() -> None:
    crowd = [Paged(20, 3, [2 * index, 2 * index + 1], seed=index) for index in range(5)]
    parts = [(paged, 0, 20) for paged in crowd]
    for shared, own in zip(Pool().attend(*parts), Pool().attend(*parts, alone=True), strict=True):
        torch.testing.assert_close(shared, own, rtol=1e-6, atol=1e-6)


def test_what_another_sequence_left_in_a_block_is_never_seen() -> None:
    pool, fresh = Pool(), Pool()
    poison = Paged(64, 64, [0, 1, 2, 3], seed=3)
    poison.keys_values.fill_(float("inf"))
    computed(pool, poison, 0, 64)
    paged = Paged(40, 20, [3, 1, 0], seed=4)
    assert torch.equal(computed(pool, paged, 0, 20, *range(21, 41)), computed(fresh, paged, 0, 40))


@pytest.mark.parametrize(("start", "end"), [(8, 32), (0, 30)])
def test_prefill_off_the_grid_is_an_error_of_ours(start: int, end: int) -> None:
    for spans in ([], [[(7, 9), (31, 32)]]):
        with pytest.raises(InternalError, match="off the grid"):
            Pool().attend((Paged(40, 40, [0, 1, 2], seed=5), start, end), spans=spans)


def test_the_mask_is_a_staircase_however_far_it_has_grown() -> None:
    mask = CausalMask(4, dtype=torch.float32, device=CPU)
    for num_keys in (4, 12, 8, 40):
        visible = mask.over(num_keys) == 0
        assert torch.equal(visible, torch.ones((4, num_keys), dtype=torch.bool).tril(num_keys - 4))
