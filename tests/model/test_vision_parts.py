"""A vision tower's work comes in parts that no image makes larger, and which change nothing of what is seen."""

from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.golden.tiny_models import SEEING, TinyCheckpoint
from tests.model.driver import runner_of
from torch import Tensor

from ecocore.model import gemma4_vision, qwen2_5_vl_vision, vision_parts
from ecocore.model.layers import Linear
from ecocore.model.vision_parts import KEYS, ROWS, attention_parts, row_parts
from ecocore.weights.checkpoint import open_checkpoint

CPU = torch.device("cpu")
See = Callable[[NDArray[np.uint8]], Generator[None, None, Tensor]]


@pytest.fixture(scope="module", params=["gemma4", next(name for name in SEEING if "qwen" in name)])
def see(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[See]:
    folder = TinyCheckpoint(SEEING[request.param], tmp_path_factory.mktemp("tiny")).folder
    model: Any = runner_of(open_checkpoint(folder))._model
    with torch.inference_mode():
        yield model._tower.see


def pixels(high: int, wide: int) -> NDArray[np.uint8]:
    """So many times as many tokens each way as both towers can have in a square."""
    side = 336
    return np.random.default_rng(high).integers(0, 256, (high * side, wide * side, 3), np.uint8)


def last_of(parts: Generator[None, None, Tensor], pause: Callable[[], None] = lambda: None) -> Tensor:
    """What is seen. Calls `pause` before each part."""
    pause()
    while True:
        try:
            next(parts)
        except StopIteration as end:
            seen: Tensor = end.value
            return seen
        pause()


def test_every_row_and_head_is_in_one_part() -> None:
    for count in (1, 256, 257, 4096, 5000, 9000):
        done = torch.zeros((count, 6), dtype=torch.int64)
        for rows, heads in attention_parts(count, 6, CPU):
            done[rows, heads] += 1
            assert (rows.stop - rows.start) * (heads.stop - heads.start) * count <= ROWS["cpu"] * KEYS * 6
        assert bool((done == 1).all())
        assert sum(rows.stop - rows.start for rows in row_parts(count, CPU)) == count


@pytest.mark.parametrize(("high", "wide"), [(1, 1), (1, 2), (3, 1)])
def test_no_part_grows_with_the_image(see: See, monkeypatch: pytest.MonkeyPatch, high: int, wide: int) -> None:
    monkeypatch.setitem(vision_parts.ROWS, "cpu", 32)
    monkeypatch.setattr(vision_parts, "KEYS", 128)
    # Of each part: rows of matrix products, and how many keys its queries look at, of all heads together.
    products: list[int] = []
    looks: list[int] = []
    run, exact = Linear._run, torch.nn.functional.scaled_dot_product_attention

    def multiplying(self: Linear, compute: Any, *operands: Tensor) -> Tensor:
        products[-1] += len(operands[0])
        return run(self, compute, *operands)

    def looking(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        looks[-1] += query[..., 0].numel() * key.shape[-2]
        return exact(query, key, value, **options)

    monkeypatch.setattr(Linear, "_run", multiplying)
    for module in (gemma4_vision, qwen2_5_vl_vision):
        monkeypatch.setattr(module, "scaled_dot_product_attention", looking)

    def pausing() -> None:
        products.append(0)
        looks.append(0)

    last_of(see(pixels(high, wide)), pausing)
    # The longest has an output, a gate, an up and a down. A head looks at its own, and no tower here has more than four.
    assert 32 <= max(products) <= 4 * 32
    assert 32 * 32 <= max(looks) <= 32 * 128 * 4
    # 441 patches or more, each of which is in a part of its own rows at least twice in a layer.
    assert len(products) > 2 * 441 * high * wide / 32


def test_parts_change_nothing_of_what_is_seen(see: See, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pixels(1, 2)
    monkeypatch.setitem(vision_parts.ROWS, "cpu", 32)
    monkeypatch.setattr(vision_parts, "KEYS", 128)
    seen = last_of(see(image))
    # Two images by turns see what each sees alone.
    one, other = see(image), see(pixels(2, 1))
    for _ in range(20):
        next(one)
        next(other)
    assert torch.equal(last_of(one), seen)
    for size in (100, 10**6):
        monkeypatch.setitem(vision_parts.ROWS, "cpu", size)
        monkeypatch.setattr(vision_parts, "KEYS", size)
        torch.testing.assert_close(last_of(see(image)), seen, rtol=1e-5, atol=1e-5)
