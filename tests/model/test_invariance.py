"""The question to the machine must be able to hear a no, and a no must change how we compute."""

import pytest
import torch
from torch import Tensor

from ecocore.model import attention, invariance
from ecocore.model.config import KvLayer
from ecocore.model.invariance import TILE, decodes_stand_alone, rows_stand_alone, settle
from ecocore.model.layers import Linear


def matrices() -> list[Linear]:
    generator = torch.Generator().manual_seed(0)
    return [Linear(torch.randn(shape, generator=generator)) for shape in ((96, 48), (96, 48), (48, 96))]


def test_rows_that_depend_on_their_number_are_noticed() -> None:
    rows = torch.randn((64, 8), generator=torch.Generator().manual_seed(0))
    assert rows_stand_alone(lambda some: some * 2, rows)
    assert not rows_stand_alone(lambda some: some * len(some), rows)


def test_rows_that_depend_on_their_place_are_noticed() -> None:
    rows = torch.randn((64, 8), generator=torch.Generator().manual_seed(0))
    assert not rows_stand_alone(lambda some: some + torch.arange(len(some))[:, None], rows)


def test_layers_that_fail_the_question_are_tiled_with_all_of_their_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = matrices()
    product = Linear._product

    def narrow_ones_count_their_rows(self: Linear, rows: Tensor) -> Tensor:
        return product(self, rows) + (len(rows) if self.in_features == 48 else 0)

    monkeypatch.setattr(Linear, "_product", narrow_ones_count_their_rows)
    assert settle(layers) == layers[:2]
    assert [layer.tile for layer in layers] == [TILE, TILE, None]
    # In tiles even that product treats every row alike.
    rows = torch.randn((64, 48), generator=torch.Generator().manual_seed(1))
    assert rows_stand_alone(layers[0], rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (6, 2), (8, 8), (32, 8)])
def test_decode_rows_stand_alone_here(dtype: torch.dtype, heads: int, kv_heads: int) -> None:
    assert decodes_stand_alone(KvLayer(kv_heads, 64), num_heads=heads, dtype=dtype, device=torch.device("cpu"))


def test_decode_rows_that_depend_on_each_other_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        attention,
        "scaled_dot_product_attention",
        lambda q, k, v, attn_mask, scale: exact(q, k, v, attn_mask=attn_mask, scale=scale) + len(q),
    )
    assert not decodes_stand_alone(KvLayer(2, 16), num_heads=4, dtype=torch.float32, device=torch.device("cpu"))


def test_sizes_from_one_tile_to_half_of_the_largest_step_are_asked() -> None:
    asked: list[int] = []

    def noting(some: Tensor) -> Tensor:
        asked.append(len(some))
        return some

    assert rows_stand_alone(noting, torch.zeros((invariance.LARGEST, 1)))
    assert asked == [576, 4, 8, 12, 24, 48, 96, 192, 288]


def test_a_kernel_that_changes_with_large_calls_is_noticed() -> None:
    rows = torch.randn((576, 4), generator=torch.Generator().manual_seed(0))
    assert not rows_stand_alone(lambda some: some * (2 if len(some) > 300 else 1), rows)
