"""The sampler's kernel on a device: the CPU's token for every row, alone and replayed from a graph, and how long it takes."""

import statistics
import sys
from typing import Any

import numpy as np
import pytest
import torch
from tests.kernels.test_sample import DTYPES, Batch, batch_of
from torch import Tensor

from ecocore import _core
from ecocore.errors import InvalidParameter
from ecocore.kernels.sample import Drawn, Rows, kernel_for
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import Sampler

pytestmark = pytest.mark.gpu

SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "hot": {"temperature": 1.7},
    "greedy": {"temperature": 0.0},
    "top_k": {"top_k": 50},
    "nucleus": {"top_p": 0.9},
    "top_k and nucleus": {"top_k": 40, "top_p": 0.8},
    "nucleus and min_p": {"top_p": 0.95, "min_p": 0.01, "temperature": 1.3},
    "typical": {"typical_p": 0.6},
    "everything": {"temperature": 0.8, "top_k": 100, "top_p": 0.95, "min_p": 0.02, "typical_p": 0.9},
}


def draw_on_device(batch: Batch, logits: Tensor) -> Drawn:
    rows = Rows.upload(_core.pack_rows(logits.shape[1], *batch.others()), logits.device, tells=batch.tells is not None)
    return kernel_for(logits).draw(logits, rows)


@DTYPES
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_million_rows_draw_what_the_cpu_draws(setting: str, dtype: torch.dtype) -> None:
    """27 of these are 1,105,920 rows."""
    generator = torch.Generator("cuda").manual_seed(len(setting))
    none: list[Any] = [None] * 4096
    for chunk in range(10):
        vocab = (64, 100, 500, 1000, 1001, 2000, 3000, 4096, 5000, 12000)[chunk]
        spread = 0.5 + chunk % 4
        logits = (torch.randn(4096, vocab, generator=generator, device="cuda") * spread).to(dtype)
        params = [_core.SamplerParams(**SETTINGS[setting])] * 4096
        others = params, list(range(4096)), [chunk] * 4096, none, none, none
        drawn = kernel_for(logits).draw(logits, Rows.upload(_core.pack_rows(vocab, *others), logits.device))
        expected = _core.sample_rows(logits.cpu(), *others).token_ids
        wrong = np.flatnonzero(drawn.ids.cpu().numpy() != expected)
        assert wrong.size == 0, f"{wrong.size} rows of vocabulary {vocab}, the first of them {wrong[0]}"


@DTYPES
@pytest.mark.parametrize(
    ("vocab", "rows", "trials"), [(1, 8, 1), (33, 512, 8), (1000, 512, 8), (49152, 64, 4), (128256, 24, 4), (262144, 16, 4)]
)
def test_every_row_with_parameters_of_its_own(vocab: int, rows: int, trials: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(vocab)
    for _ in range(trials):
        batch = batch_of(rng, rows, vocab, dtype, tells=5)
        drawn = draw_on_device(batch, batch.logits.cuda())
        assert drawn.ids.tolist() == _core.sample_rows(batch.logits, *batch.others()).token_ids.tolist()


@DTYPES
def test_a_row_draws_the_same_alone_and_in_any_company(dtype: torch.dtype) -> None:
    """Alone eight blocks share a row, in a crowd fewer do."""
    batch = batch_of(np.random.default_rng(5), 200, 128256, dtype)
    together = draw_on_device(batch, batch.logits.cuda()).ids.tolist()
    for row in range(0, 200, 10):
        params, seeds, positions, *lists = (value[row : row + 1] for value in batch.others())
        rows = Rows.upload(_core.pack_rows(128256, params, seeds, positions, *lists), torch.device("cuda"))
        logits = batch.logits[row : row + 1].cuda()
        assert kernel_for(logits).draw(logits, rows).ids.tolist() == together[row : row + 1]


def test_a_launch_can_be_captured_and_replayed_with_other_rows() -> None:
    rng = np.random.default_rng(6)
    first, second = (batch_of(rng, 16, 5000, torch.float32) for _ in range(2))
    packed = [_core.pack_rows(5000, *batch.others()) for batch in (first, second)]
    bytes_of = [[torch.from_numpy(array.view(np.uint8)) for array in one] for one in packed]
    room = [torch.zeros(max(map(len, arrays)), dtype=torch.uint8, device="cuda") for arrays in zip(*bytes_of, strict=True)]
    inputs, changes, masks = room
    rows, logits = Rows(inputs, changes, masks), torch.empty(16, 5000, device="cuda")
    drawn, kernel = Drawn.empty(16, logits.device), kernel_for(logits)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel.launch(logits, rows, drawn)
    for batch, contents in ((first, bytes_of[0]), (second, bytes_of[1]), (first, bytes_of[0])):
        logits.copy_(batch.logits)
        for place, content in zip(room, contents, strict=True):
            place[: len(content)].copy_(content)
        graph.replay()
        assert drawn.ids.tolist() == _core.sample_rows(batch.logits, *batch.others()).token_ids.tolist()


def test_the_public_sampler_draws_on_the_device() -> None:
    logits = torch.from_numpy(np.random.default_rng(7).normal(0, 2, (30, 1000)).astype(np.float32))
    params, names = [SamplingParams(top_p=0.9)] * 30, {"seeds": [1] * 30, "positions": range(30)}
    ids = Sampler(1000).sample(logits.cuda(), params, **names)
    assert ids.device.type == "cuda"
    assert torch.equal(ids.cpu(), Sampler(1000).sample(logits, params, **names))
    logits[3] = float("nan")
    with pytest.raises(InvalidParameter, match="in row 3"):
        Sampler(1000).sample(logits.cuda(), params, **names)


@pytest.mark.parametrize("rows", [1, 64, 256])
def test_how_long_a_launch_takes(rows: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Says it, and asserts no speed: a test is no benchmark."""
    logits = torch.randn(rows, 128256, device="cuda") * 2.2
    none: list[Any] = [None] * rows
    histories = [np.arange(512, dtype=np.uint32)] * rows
    params = [_core.SamplerParams(top_k=50, top_p=0.9, frequency_penalty=0.5)] * rows
    device_rows = Rows.upload(_core.pack_rows(128256, params, [1] * rows, [0] * rows, none, histories, none), logits.device)
    drawn, kernel = Drawn.empty(rows, logits.device), kernel_for(logits)
    graph, times = torch.cuda.CUDAGraph(), []
    with torch.cuda.graph(graph):
        kernel.launch(logits, device_rows, drawn)
    for _ in range(60):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{torch.cuda.get_device_name()}: {rows} rows of 128256, median {statistics.median(times[10:]):.1f} us\n"
        )
    assert drawn.possible.all()
