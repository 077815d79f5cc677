"""Layers against torch in float64, and rows that must not notice their company."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from ecocore.model import layers
from ecocore.model.layers import GatedMlp, Linear, RmsNorm, padded

DTYPES = [torch.float32, torch.bfloat16]
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.1}


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=["packed", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to multiply: packed for oneDNN, where this machine can, and torch's own."""
    if request.param == "plain":
        monkeypatch.setattr(layers, "_onednn_packs", lambda dtype: False)
    return str(request.param)


@pytest.mark.parametrize(("rows", "expected"), [(0, 0), (1, 4), (4, 4), (5, 8), (31, 32)])
def test_rows_are_padded_to_multiples_of_four(rows: int, expected: int) -> None:
    assert padded(rows) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_casts_before_the_weight(dtype: torch.dtype) -> None:
    rows, weight = random(5, 48, dtype=dtype), random(48, dtype=dtype, seed=1)
    wide = rows.double()
    normal = wide / (wide.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    expected = normal.to(dtype) * weight
    torch.testing.assert_close(RmsNorm(weight, 1e-3)(rows), expected, rtol=0.008 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)


def test_epsilon_takes_part_in_the_norm() -> None:
    norm = RmsNorm(torch.ones(2), 0.75)
    torch.testing.assert_close(norm(torch.tensor([[0.5, 0.5]])), torch.tensor([[0.5, 0.5]]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_agree_with_float64(kernels: str, dtype: torch.dtype) -> None:
    weight, rows, factors = random(80, 48, dtype=dtype), random(8, 48, dtype=dtype, seed=1), random(8, 80, dtype=dtype, seed=2)
    product = rows.double() @ weight.double().T
    matrix = Linear(weight)
    close = partial(torch.testing.assert_close, rtol=0.02, atol=CLOSE[dtype])
    close(matrix(rows).double(), product)
    close(matrix.activated(rows, "silu").double(), product * product.sigmoid())
    close(matrix.activated(rows, "gelu_tanh").double(), torch.nn.functional.gelu(product, approximate="tanh"))
    torch.testing.assert_close(matrix.times(rows, factors).double(), product * factors.double(), rtol=0.02, atol=4 * CLOSE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bias_takes_part_before_whatever_follows(kernels: str, dtype: torch.dtype) -> None:
    weight, rows, factors = random(80, 48, dtype=dtype), random(8, 48, dtype=dtype, seed=1), random(8, 80, dtype=dtype, seed=2)
    bias = random(80, dtype=dtype, seed=3)
    product = rows.double() @ weight.double().T + bias.double()
    matrix = Linear(weight, bias)
    close = partial(torch.testing.assert_close, rtol=0.02, atol=4 * CLOSE[dtype])
    close(matrix(rows).double(), product)
    close(matrix.activated(rows, "silu").double(), product * product.sigmoid())
    close(matrix.times(rows, factors).double(), product * factors.double())


def test_gated_mlp_is_down_of_silu_gate_times_up(kernels: str) -> None:
    gate, up, down = random(96, 48), random(96, 48, seed=1), random(48, 96, seed=2)
    rows = random(4, 48, seed=3)
    wide = rows.double()
    inner = torch.nn.functional.silu(wide @ gate.double().T) * (wide @ up.double().T)
    mlp = GatedMlp(Linear(gate), Linear(up), Linear(down))
    torch.testing.assert_close(mlp(rows).double(), inner @ down.double().T, rtol=1e-4, atol=5e-3)


def ways(matrix: Linear, factors: Tensor) -> list[Callable[[Tensor], Tensor]]:
    return [
        matrix,
        partial(matrix.activated, activation="silu"),
        partial(matrix.activated, activation="gelu_tanh"),
        lambda rows: matrix.times(rows, factors[: len(rows)]),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "outputs"), [(576, 960), (1536, 576), (48, 96)])
def test_a_row_has_the_same_bits_in_every_company(dtype: torch.dtype, width: int, outputs: int) -> None:
    """What the whole promise rests on; a machine where this fails computes in tiles."""
    matrix = Linear(random(outputs, width, dtype=dtype))
    rows, factors = random(256, width, dtype=dtype, seed=1), random(256, outputs, dtype=dtype, seed=2)
    for way in ways(matrix, factors):
        together = way(rows)
        for count in (4, 8, 12, 20, 64, 100, 252):
            assert torch.equal(way(rows[:count].clone()), together[:count]), count


def test_tiles_give_the_same_result_for_any_number_of_rows(kernels: str) -> None:
    matrix = Linear(random(80, 48))
    rows, factors = random(40, 48, seed=1), random(40, 80, seed=2)
    whole = [way(rows) for way in ways(matrix, factors)]
    matrix.tile = 16
    for way, expected in zip(ways(matrix, factors), whole, strict=True):
        tiled = way(rows)
        torch.testing.assert_close(tiled, expected, rtol=1e-5, atol=1e-4)
        for count in (1, 4, 16, 17, 39):
            assert torch.equal(way(rows[:count].clone()), tiled[:count])


def test_a_torch_without_packed_products_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    layers._onednn_packs.cache_clear()
    monkeypatch.setattr(layers, "_PRODUCT_WITH", None)
    assert not layers._onednn_packs(torch.float32)
    layers._onednn_packs.cache_clear()
