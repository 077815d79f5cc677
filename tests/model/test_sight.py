"""What a step sees: rows of images wherever a step begins, coordinates before and behind them, pictures computed once."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecocore.errors import InternalError
from ecocore.model import sight
from ecocore.model.batch import Integers, Rehearsal
from ecocore.model.qwen2_5_vl import Qwen25Vl
from ecocore.model.sight import Sights, View

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Square:
    start: int
    rows: int
    columns: int
    digest: bytes
    pixels: NDArray[np.uint8]


def square(start: int, rows: int, columns: int, name: bytes) -> Square:
    return Square(start, rows, columns, name, np.zeros((rows, columns, 3), np.uint8))


class Model:
    """Sees in each image the numbers of its cells and its name, in three parts."""

    looks_around = True
    row_bytes = 16

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def see(self, view: View) -> Generator[None, None, Tensor]:
        self.seen.append(view.digest)
        yield
        yield
        return torch.stack((torch.arange(view.rows * view.columns), torch.full((view.rows * view.columns,), view.digest[0])), 1)

    def coordinates(self, views: Sequence[View], length: int) -> Integers | None:
        return Qwen25Vl.coordinates(self, views, length)  # type: ignore[arg-type]


def batch(*rows: tuple[int, int, int]) -> Rehearsal:
    made = Rehearsal.of(rows, block_size=4, num_blocks=8)
    return replace(made, sequence_ids=np.arange(1, len(rows) + 1).astype(np.uint64))


def look(sights: Sights, sequence_id: int) -> int:
    """Looks until nothing is missing; tells how many parts that took."""
    parts = 1
    while sights.look(sequence_id) != "all":
        parts += 1
    return parts


def test_a_step_without_images_sees_nothing() -> None:
    sights = Sights(Model(), device=CPU)
    assert sights.of(batch((0, 8, 8))) is None
    sights.open(5, [square(1, 1, 2, b"a")], 4)
    look(sights, 5)
    assert sights.of(batch((0, 8, 8))) is None
    sights.close(5)
    sights.close(5)


def test_rows_of_an_image_are_found_in_every_part_of_it() -> None:
    model = Model()
    sights = Sights(model, device=CPU)
    sights.open(2, [square(2, 2, 3, b"a"), square(10, 1, 1, b"b")], 12)
    assert look(sights, 2) == 6
    whole = sights.of(batch((0, 4, 4), (0, 12, 12)))
    assert whole is not None
    assert whole.rows.tolist() == [6, 7, 8, 9, 10, 11, 14]
    assert whole.embeddings.tolist() == [[0, 97], [1, 97], [2, 97], [3, 97], [4, 97], [5, 97], [0, 98]]
    part = sights.of(batch((0, 4, 4), (4, 4, 12)))
    assert part is not None
    assert part.rows.tolist() == [4, 5, 6, 7]
    assert part.embeddings[:, 0].tolist() == [2, 3, 4, 5]
    assert model.seen == [b"a", b"b"]


def test_who_looks_hears_where_an_image_ends() -> None:
    sights = Sights(Model(), device=CPU)
    sights.open(1, [square(2, 2, 3, b"a"), square(10, 1, 1, b"b")], 12)
    assert [sights.look(1) for _ in range(6)] == ["part", "part", "image", "part", "part", "all"]


def test_coordinates_go_over_the_page_and_on_from_its_longer_side() -> None:
    sights = Sights(Model(), device=CPU)
    sights.open(1, [square(2, 2, 3, b"a")], 10)
    look(sights, 1)
    seen = sights.of(batch((0, 10, 10), (3, 1, 2)))
    assert seen is not None
    assert seen.coordinates is not None
    assert seen.coordinates.tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5, 6, 3, 0],
        [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, 3, 0],
        [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 3, 0],
    ]
    drawn = sights.of(batch((12, 1, 10)))
    assert drawn is not None
    assert drawn.coordinates is not None
    assert drawn.coordinates[:, 0].tolist() == [9, 9, 9]
    assert not len(drawn.rows)


def test_spans_of_images_are_told_where_they_look_around() -> None:
    model = Model()
    sights = Sights(model, device=CPU)
    assert sights.spans(batch((0, 4, 4))) == []
    sights.open(2, [square(2, 2, 3, b"a"), square(10, 1, 1, b"b")], 12)
    assert sights.spans(batch((0, 4, 4), (0, 12, 12))) == [[], [(2, 8), (10, 11)]]
    model.looks_around = False
    assert sights.spans(batch((0, 4, 4), (0, 12, 12))) == []


def test_a_picture_is_computed_once_for_all_who_show_it() -> None:
    model = Model()
    sights = Sights(model, device=CPU)
    for sequence_id in (1, 2, 3):
        sights.open(sequence_id, [square(0, 2, 2, b"a"), square(4, 2, 2, b"a")], 8)
    assert sights.look(1) == "part"
    # It goes on where the first one was, who may leave.
    sights.close(1)
    assert (look(sights, 2), look(sights, 3)) == (2, 1)
    assert model.seen == [b"a"]


def test_what_was_begun_is_dropped_with_the_last_who_shows_it() -> None:
    model = Model()
    sights = Sights(model, device=CPU)
    sights.open(1, [square(0, 2, 2, b"a")], 8)
    sights.look(1)
    sights.close(1)
    assert sights._begun is None
    assert sights.look(1) == "all"  # of one that is closed nothing is missing
    sights.open(2, [square(0, 2, 2, b"a")], 8)
    assert look(sights, 2) == 3
    assert model.seen == [b"a", b"a"]


def test_a_step_never_computes_a_picture() -> None:
    sights = Sights(Model(), device=CPU)
    sights.open(1, [square(0, 2, 2, b"a"), square(4, 2, 2, b"b")], 8)
    sights.look(1)
    with pytest.raises(InternalError, match="was not looked at"):
        sights.of(batch((0, 4, 8)))


def test_pictures_of_open_sequences_are_there_whatever_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sight, "KEPT_BYTES", 100)  # less than two of them
    model = Model()
    sights = Sights(model, device=CPU)
    sights.open(1, [square(0, 2, 2, b"a"), square(4, 2, 2, b"b")], 8)
    look(sights, 1)
    for _ in range(2):  # the second time as after a preemption
        seen = sights.of(batch((0, 8, 8)))
        assert seen is not None
        assert seen.embeddings[:, 1].tolist() == [97] * 4 + [98] * 4
    sights.open(2, [square(0, 2, 2, b"a")], 4)
    assert look(sights, 2) == 1
    sights.close(1)
    sights.close(2)
    # The last one was kept, and the other is gone with those who showed it.
    sights.open(3, [square(0, 2, 2, b"b")], 4)
    assert look(sights, 3) == 1
    sights.open(4, [square(0, 2, 2, b"a")], 4)
    assert look(sights, 4) == 3
    assert model.seen == [b"a", b"b", b"a"]


def test_a_picture_that_fails_begins_anew_for_the_next_one() -> None:
    class Failing(Model):
        def see(self, view: View) -> Generator[None, None, Tensor]:
            yield
            if self.seen == [b"a"]:
                raise MemoryError("full")
            rows = yield from super().see(view)
            return rows

    sights = Sights(Failing(), device=CPU)
    sights._model.seen = [b"a"]  # type: ignore[attr-defined]
    sights.open(1, [square(0, 2, 2, b"a")], 8)
    assert sights.look(1) == "part"
    with pytest.raises(MemoryError):
        sights.look(1)
    sights._model.seen = []  # type: ignore[attr-defined]
    assert look(sights, 1) == 4


def test_a_picture_of_other_rows_than_its_tokens_is_no_picture() -> None:
    class Finer(Model):
        def see(self, view: View) -> Generator[None, None, Tensor]:
            rows = yield from super().see(view)
            return rows.repeat(4, 1)

    sights = Sights(Finer(), device=CPU)
    sights.open(1, [square(0, 2, 2, b"a")], 8)
    with pytest.raises(InternalError, match="an image of 4 tokens was seen as 16 rows"):
        look(sights, 1)
    assert sights.look(1) == "part"  # nothing of it is kept: it begins anew
