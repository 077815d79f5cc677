"""The sampler's kernel, its threads emulated on the CPU, against the Rust sampler: the same token, whatever the order of threads.

What this cannot show (atomics, barriers, other blocks' memory) is left to tests/gpu.
"""

import ctypes
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.kernels.host import A100, H200, FakeDevice, build
from tests.sampling import reference
from torch import Tensor

from ecocore import _core
from ecocore.errors import InvalidParameter
from ecocore.kernels import sample
from ecocore.kernels.device import Limits
from ecocore.kernels.sample import Drawn, Rows, SampleKernel, Work, plan
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import Sampler

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernel for blocks of 128 threads: the same phases, and many rows a second."""
    return build(tmp_path_factory.mktemp("narrow"), threads=128)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The kernel as it runs on a device."""
    return build(tmp_path_factory.mktemp("wide"), threads=1024)


@dataclass(frozen=True)
class Batch:
    """Rows to draw from, as both samplers take them."""

    logits: Tensor
    params: list[_core.SamplerParams]
    prompts: list[NDArray[np.uint32] | None]
    histories: list[NDArray[np.uint32] | None]
    masks: list[NDArray[np.bool_] | None]
    tells: int | None

    def others(self) -> tuple[Any, ...]:
        count = len(self.params)
        seeds = [2**64 - 1 - 7919 * row for row in range(count)]
        return self.params, seeds, list(range(5, 5 + count)), self.prompts, self.histories, self.masks


def logits_of(rng: np.random.Generator, rows: int, vocab: int, dtype: torch.dtype) -> Tensor:
    """Flat, peaked, tied and broken rows."""
    values = rng.normal(0, rng.choice([0.1, 1, 2.2, 9], (rows, 1)), (rows, vocab)).astype(np.float32)
    for row in values:
        shape = rng.integers(0, 6)
        if shape == 0:
            row[rng.integers(0, vocab, 1 + vocab // 100)] += 9
        elif shape == 1:
            row[:] = np.rint(row) * rng.choice([1, -0.0])
        elif shape == 2:
            row[rng.random(vocab) < 0.3] = rng.choice([np.nan, -np.inf, np.inf, -0.0, 3e38, -3e38, 1e-40])
        elif shape == 3:
            row[:] += rng.choice([-1e4, 1e3, 100])
        row[vocab // 2] = 1.5  # so that something can be drawn
    return torch.from_numpy(values).to(dtype)


def batch_of(rng: np.random.Generator, rows: int, vocab: int, dtype: torch.dtype, *, tells: int | None = None) -> Batch:
    """A batch in which each row has parameters of its own, every step switched on in about half of the rows."""

    def sometimes(value: Any, otherwise: Any) -> Any:
        return value if rng.random() < 0.5 else otherwise

    logits = logits_of(rng, rows, vocab, dtype)
    params, prompts, histories, masks = [], [], [], []
    for _ in range(rows):
        simple = rng.random() < 0.3
        bias = {int(token): float(rng.uniform(-9, 9)) for token in rng.integers(0, vocab, 5)}
        params.append(
            _core.SamplerParams(
                temperature=float(rng.choice([0, 9e-6, 0.1, 0.7, 1, 1, 1, 1.7, 2])),
                top_k=int(sometimes(rng.integers(1, vocab + 2), 0)),
                top_p=float(sometimes(rng.choice([0, 0.05, 0.5, 0.9, 0.999, 1 - 2**-40]), 1)),
                min_p=float(0 if simple else sometimes(rng.choice([1e-9, 0.01, 0.3, 1]), 0)),
                typical_p=float(1 if simple else sometimes(rng.choice([1e-9, 0.3, 0.9]), 1)),
                repetition_penalty=float(1 if simple else sometimes(rng.uniform(0.5, 2), 1)),
                frequency_penalty=float(0 if simple else sometimes(rng.uniform(-2, 2), 0)),
                presence_penalty=float(0 if simple else sometimes(rng.uniform(-2, 2), 0)),
                logit_bias=None if simple else sometimes(bias, None),
                top_logprobs=tells,
            )
        )
        prompts.append(sometimes(rng.integers(0, vocab, 20, np.uint32), None))
        histories.append(sometimes(rng.integers(0, max(1, vocab // 2), 40, np.uint32), None))
        mask = rng.random(vocab) < rng.choice([0.02, 0.5, 0.98])
        mask[vocab // 2] = True
        masks.append(None if simple else sometimes(mask, None))
    return Batch(logits, params, prompts, histories, masks, tells)


def drawn_by(device: FakeDevice, batch: Batch) -> Drawn:
    rows = Rows.upload(_core.pack_rows(batch.logits.shape[1], *batch.others()), CPU, tells=batch.tells is not None)
    return SampleKernel(device, b"").draw(batch.logits, rows)


# --- which token ----------------------------------------------------------------------------------------------------

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])


@pytest.mark.cxx
@DTYPES
@pytest.mark.parametrize(("vocab", "rows"), [(1, 20), (2, 300), (9, 600), (65, 600), (1000, 600), (6001, 60)])
def test_each_token_is_that_of_the_cpu(narrow: ctypes.CDLL, vocab: int, rows: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(vocab)
    for trial in range(4):
        batch = batch_of(rng, rows, vocab, dtype)
        expected = _core.sample_rows(batch.logits, *batch.others()).token_ids
        ranks = int(rng.integers(1, 9))
        drawn = drawn_by(FakeDevice(library=narrow, order=int(rng.integers(0, 1000)), ranks=ranks), batch)
        wrong = np.flatnonzero(drawn.ids.numpy() != expected)
        assert wrong.size == 0, f"trial {trial}, {ranks} ranks, row {wrong[0]}: {drawn.ids[wrong[0]]}, not {expected[wrong[0]]}"
        assert drawn.possible.all()


@pytest.mark.cxx
@DTYPES
@pytest.mark.parametrize(("vocab", "rows"), [(300, 60), (49152, 4), (128256, 3), (262144, 2)])
def test_whole_blocks_draw_the_same(wide: ctypes.CDLL, vocab: int, rows: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(vocab + 1)
    batch = batch_of(rng, rows, vocab, dtype, tells=3)
    expected = _core.sample_rows(batch.logits, *batch.others()).token_ids
    for limits in (H200, A100):
        assert drawn_by(FakeDevice(limits, wide, order=rows), batch).ids.tolist() == expected.tolist()


@pytest.mark.cxx
def test_threads_may_come_in_any_order_and_number_of_blocks(narrow: ctypes.CDLL) -> None:
    batch = batch_of(np.random.default_rng(3), 40, 700, torch.float32, tells=20)
    told = [drawn_by(FakeDevice(library=narrow, order=order, ranks=1 + order % 8), batch) for order in range(24)]
    for one in told[1:]:
        assert torch.equal(one.ids, told[0].ids)
        assert one.told is not None
        assert told[0].told is not None
        assert torch.equal(one.told, told[0].told)


@pytest.mark.cxx
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_threads_may_run_ahead_as_far_as_barriers_let_them(narrow: ctypes.CDLL, ranks: int) -> None:
    rng = np.random.default_rng(ranks)
    typical = [_core.SamplerParams(typical_p=0.3)] * 8
    for vocab in (40, 500, 3000):
        batch = batch_of(rng, 8, vocab, torch.float32, tells=20)
        batch = replace(batch, params=typical, tells=None) if vocab == 500 else batch
        expected = _core.sample_rows(batch.logits, *batch.others()).token_ids.tolist()
        in_step = drawn_by(FakeDevice(library=narrow), batch)
        for order in range(2):
            drawn = drawn_by(FakeDevice(library=narrow, order=order, ranks=ranks, fibers=True), batch)
            assert drawn.ids.tolist() == expected
            if drawn.told is not None:
                assert in_step.told is not None
                assert torch.equal(drawn.told, in_step.told)


@pytest.mark.cxx
def test_rows_may_lie_anywhere(narrow: ctypes.CDLL) -> None:
    """Off sixteen bytes, with gaps between them, behind others."""
    batch = batch_of(np.random.default_rng(4), 30, 101, torch.bfloat16)
    expected = _core.sample_rows(batch.logits, *batch.others()).token_ids.tolist()
    for offset, stride in ((0, 101), (1, 101), (8, 112), (3, 105)):
        memory = torch.full((offset + 30 * stride,), 50.0, dtype=torch.bfloat16)
        logits = memory[offset:].view(30, stride)[:, :101]
        logits.copy_(batch.logits)
        assert drawn_by(FakeDevice(library=narrow), replace(batch, logits=logits)).ids.tolist() == expected


@pytest.mark.cxx
def test_a_row_without_a_usable_logit_gives_its_lowest_allowed_id(narrow: ctypes.CDLL) -> None:
    logits = torch.full((3, 80), float("-inf"))
    logits[1] = float("nan")
    logits[2, 5] = 1.0
    mask = np.zeros(80, np.bool_)
    mask[[33, 70]] = True
    none: list[Any] = [None] * 3
    packed = _core.pack_rows(80, [_core.SamplerParams()] * 3, [1] * 3, [0] * 3, none, none, [None, mask, mask])
    for ranks in (1, 3):
        drawn = SampleKernel(FakeDevice(library=narrow, ranks=ranks), b"").draw(logits, Rows.upload(packed, CPU))
        assert (drawn.ids.tolist(), drawn.possible.tolist()) == ([0, 33, 33], [0, 0, 0])


# --- log-probabilities ----------------------------------------------------------------------------------------------


@pytest.mark.cxx
@DTYPES
@pytest.mark.parametrize("count", [0, 1, 20])
def test_log_probabilities_are_those_of_the_cpu(narrow: ctypes.CDLL, count: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(count)
    for vocab in (7, 3000):
        batch = batch_of(rng, 40, vocab, dtype, tells=count)
        # What counts as the largest float has no finite distance to what is infinite.
        batch.logits[batch.logits == torch.inf] = 3e4
        expected = _core.sample_rows(batch.logits, *batch.others())
        drawn = drawn_by(FakeDevice(library=narrow, order=9, ranks=2), batch)
        assert drawn.ids.tolist() == expected.token_ids.tolist()
        for row in range(40):
            chosen, top = drawn.logprobs(row, min(count, vocab))
            truth = expected.logprobs(row)
            assert truth is not None
            assert chosen == truth[0]
            assert top == truth[1]


# --- the arithmetic -------------------------------------------------------------------------------------------------


@pytest.mark.cxx
def test_products_and_quotients_are_those_of_python(narrow: ctypes.CDLL) -> None:
    rng = np.random.default_rng(1)
    extremes = [(2**64 - 1, 2**64 - 1), (2**64 - 1, 1), (0, 5), (2**32, 2**32)]
    for a, b in [*extremes, *rng.integers(0, 2**64 - 1, (1000, 2), np.uint64).tolist()]:
        assert narrow.high_half(a, b) == a * b >> 64
        mass, part = a >> 14, b >> 32
        assert narrow.part(mass, part) == max(1, -(-mass * part // 2**32))
    assert narrow.part(10 * 2**31, 2**32) == 10 * 2**31
    for _ in range(500):
        divisor = int(rng.integers(1, 2**50))
        value = int(rng.integers(0, 2**25)) * divisor + int(rng.integers(0, divisor))
        # The halves of a sum may overlap: the lower one is a sum of 32-bit numbers.
        high = max(0, (value >> 32) - int(rng.integers(0, 9)))
        assert narrow.quotient_of(high, value - (high << 32), divisor) == value // divisor


@pytest.mark.cxx
def test_weights_follow_the_contract(narrow: ctypes.CDLL) -> None:
    rng = np.random.default_rng(2)
    logits = np.concatenate([rng.uniform(-30, 4, 4000), [4, -1e30, -np.inf, np.nan]]).astype(np.float32)
    logits[0] = 4
    for temperature in (0.1, 1.0, 1.7):
        expected = reference.weights(np.nan_to_num(logits, nan=-np.inf, neginf=-np.inf), temperature).tolist()
        inverse = float(np.float32(1 / temperature))
        assert [narrow.weight_of(float(logit), 4.0, inverse) for logit in logits] == expected


@pytest.mark.cxx
def test_half_precision_is_widened_exactly(narrow: ctypes.CDLL) -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    expected = bits.view(np.float16).astype(np.float32)
    found = np.array([narrow.half_of(int(one)) for one in bits], np.float32)
    assert np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.cxx
def test_keys_sort_as_logits_do(narrow: ctypes.CDLL) -> None:
    rising = [-np.inf, -3e38, -1.0, -1e-40, 0.0, 1e-40, 1.0, 3e38]
    keys = [narrow.key_of_logit(logit) for logit in rising]
    assert keys == sorted(set(keys))
    assert narrow.key_of_logit(float("nan")) == keys[0]
    assert narrow.key_of_logit(-0.0) == narrow.key_of_logit(0.0)


@pytest.mark.cxx
def test_random_bits_are_those_of_the_generator(narrow: ctypes.CDLL) -> None:
    assert narrow.bits_of(0, 0, 0) == 0xE169C58D6627E8D5
    for seed, position in ((1, 2), (2**64 - 5, 2**32 - 1)):
        assert narrow.bits_of(seed, position, 0) == reference.random_bits(seed, position)


@pytest.mark.cxx
def test_the_host_knows_the_kernel_s_sizes(wide: ctypes.CDLL) -> None:
    assert (wide.threads(), wide.shared_bytes()) == (sample.THREADS, sample.SHARED_BYTES)
    assert ctypes.sizeof(Work) == 88


# --- the launch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "vocab", "limits", "ranks", "scratch"),
    [
        (1, 128256, H200, 8, False),
        (8, 128256, H200, 8, False),
        (20, 128256, H200, 4, False),
        (40, 128256, H200, 3, False),
        (256, 128256, H200, 3, False),
        (256, 49152, H200, 1, False),
        (1, 1000, H200, 1, False),
        (64, 262144, H200, 6, False),
        (1, 262144, A100, 1, True),
        (1, 32768, A100, 1, False),
        (1, 524288, H200, 8, True),
        (4, 128256, Limits((12, 0), 170, 101376), 8, False),
    ],
)
def test_a_row_has_as_many_blocks_as_its_keys_and_the_device_ask_for(
    rows: int, vocab: int, limits: Limits, ranks: int, *, scratch: bool
) -> None:
    layout = plan(rows, vocab, limits)
    assert (layout.ranks, layout.scratch) == (ranks, scratch)
    assert layout.shared_bytes <= limits.shared_bytes


def neutral(rows: int, vocab: int) -> Rows:
    none: list[Any] = [None] * rows
    return Rows.upload(_core.pack_rows(vocab, [_core.SamplerParams()] * rows, [1] * rows, [0] * rows, none, none, none), CPU)


def test_a_launch_names_its_memory() -> None:
    device = FakeDevice(A100)
    kernel = SampleKernel(device, b"cubin")
    assert device.loaded == [(b"cubin", "sample", 166912)]
    logits = torch.zeros(3, 200, dtype=torch.bfloat16)[:, :100]
    rows, drawn = neutral(3, 100), Drawn.empty(3, CPU)
    kernel.launch(logits, rows, drawn)
    ((grid, work),) = device.launches
    assert (grid.blocks, grid.threads, grid.cluster, grid.shared_bytes) == (3, 1024, 1, sample.SHARED_BYTES + 4 * 104)
    assert (work.logits, work.stride, work.kind) == (logits.data_ptr(), 200, 2)
    assert (work.inputs, work.ids, work.possible) == (rows.inputs.data_ptr(), drawn.ids.data_ptr(), drawn.possible.data_ptr())
    assert (work.changes, work.masks, work.keys, work.told) == (None, None, None, None)
    assert (work.vocab, work.words) == (100, 4)


def test_no_rows_launch_nothing() -> None:
    device = FakeDevice()
    drawn = SampleKernel(device, b"").draw(torch.zeros(0, 100), neutral(0, 100))
    assert (len(drawn.ids), device.launches) == (0, [])


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        (torch.zeros(10), "shape"),
        (torch.zeros(2, 2**19 + 1), "at most 524288"),
        (torch.zeros(2, 5, dtype=torch.float64), "float64"),
        (torch.zeros(5, 2).T, "contiguous rows"),
        (torch.zeros(3, 5), "2 entries for 3 rows"),
        (torch.zeros(2, 5, device="meta"), "elsewhere"),
    ],
)
def test_what_the_kernel_cannot_read_is_refused(logits: Tensor, reason: str) -> None:
    device = FakeDevice()
    with pytest.raises(InvalidParameter, match=reason):
        SampleKernel(device, b"").launch(logits, neutral(2, 5), Drawn.empty(len(logits), CPU))
    assert device.launches == []


def test_too_small_results_are_refused() -> None:
    kernel, logits = SampleKernel(FakeDevice(), b""), torch.zeros(2, 5)
    told = replace(neutral(2, 5), tells=True)
    with pytest.raises(InvalidParameter, match="no room for the log-probabilities"):
        kernel.launch(logits, told, Drawn.empty(2, CPU))
    with pytest.raises(InvalidParameter, match="2 contiguous elements"):
        kernel.launch(logits, neutral(2, 5), Drawn.empty(1, CPU))


# --- the public door ------------------------------------------------------------------------------------------------


class OnDevice:
    """A CPU tensor that says it lies elsewhere."""

    is_cuda = True

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.shape, self.device = tensor, tensor.shape, SimpleNamespace(type="cuda", index=0)


@pytest.mark.cxx
def test_the_sampler_draws_where_the_logits_lie(narrow: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, upload = SampleKernel(FakeDevice(library=narrow), b""), Rows.upload
    stand_in = SimpleNamespace(draw=lambda logits, rows: kernel.draw(logits.tensor, rows))
    monkeypatch.setattr(sample, "kernel_for", lambda logits: stand_in)
    monkeypatch.setattr(Rows, "upload", lambda packed, device: upload(packed, CPU))
    logits = torch.from_numpy(np.random.default_rng(6).normal(0, 2, (20, 90)).astype(np.float32))
    params = [SamplingParams(top_p=0.9, history=(1, 2, 2), frequency_penalty=0.5, mask=np.arange(90) % 3 > 0)] * 20
    sampler, names = Sampler(90), {"seeds": [3] * 20, "positions": range(20)}
    assert torch.equal(sampler.sample(OnDevice(logits), params, **names), sampler.sample(logits, params, **names))
    logits[7] = float("-inf")
    with pytest.raises(InvalidParameter, match="in row 7"):
        sampler.sample(OnDevice(logits), params, **names)
