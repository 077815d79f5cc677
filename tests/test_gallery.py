"""Whose images are looked at next."""

from dataclasses import dataclass

from ecocore.gallery import Gallery


@dataclass(frozen=True)
class One:
    sequence_id: int
    key: int = 0
    priority: int = 0


def served(gallery: Gallery[One], *, turns: int, each: int = 1) -> list[int]:
    """Who is looked at for `each` turns and then leaves, so many times."""
    order = []
    for _ in range(turns):
        for _ in range(each):
            visitor = gallery.turn()
        if visitor is not None:
            gallery.leave(visitor.sequence_id)
            order.append(visitor.sequence_id)
    return order


def test_an_empty_line_has_nobody() -> None:
    gallery: Gallery[One] = Gallery()
    assert gallery.turn() is None
    assert gallery.leave(1) is None
    assert len(gallery) == 0


def test_what_was_begun_is_not_put_aside() -> None:
    gallery: Gallery[One] = Gallery()
    gallery.enter(One(1))
    assert gallery.turn() == One(1)
    gallery.enter(One(2, key=5, priority=-1))
    assert gallery.turn() == One(1)
    gallery.leave(1)
    assert gallery.turn() == One(2, key=5, priority=-1)


def test_keys_take_turns_however_many_images_one_of_them_has() -> None:
    gallery: Gallery[One] = Gallery()
    for number in range(6):
        gallery.enter(One(number, key=1))
    assert served(gallery, turns=2, each=3) == [0, 1]
    gallery.enter(One(10, key=2))
    gallery.enter(One(11, key=2))
    # It starts level, and who came first of those goes first.
    assert served(gallery, turns=6, each=3) == [2, 10, 3, 11, 4, 5]
    assert gallery.turn() is None


def test_a_lower_priority_goes_first() -> None:
    gallery: Gallery[One] = Gallery()
    for number, priority in enumerate([3, 1, 2]):
        gallery.enter(One(number, priority=priority))
    assert served(gallery, turns=3) == [1, 2, 0]
