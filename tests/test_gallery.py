"""Whose images are looked at next."""

from dataclasses import dataclass

from ecocore.gallery import Gallery


@dataclass(frozen=True)
class One:
    sequence_id: int
    key: int = 0
    priority: int = 0
    request: int | None = None

    @property
    def request_id(self) -> int:
        return self.sequence_id if self.request is None else self.request


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


def shown(gallery: Gallery[One], *, images: int, each: int = 3) -> list[int]:
    """Whose images are looked at, so many of them with so many glances each."""
    order = []
    for _ in range(images):
        visitors = [gallery.turn() for _ in range(each)]
        assert len(set(visitors)) == 1, "an image was put aside"
        order += [visitor.sequence_id for visitor in visitors[:1] if visitor is not None]
        gallery.rest()
    return order


def test_what_was_begun_is_not_put_aside() -> None:
    gallery: Gallery[One] = Gallery()
    gallery.enter(One(1))
    assert gallery.turn() == One(1)
    gallery.enter(One(2, key=5, priority=-1))
    assert gallery.turn() == One(1)
    gallery.rest()
    assert gallery.turn() == One(2, key=5, priority=-1)
    gallery.leave(2)
    assert gallery.turn() == One(1)


def test_a_small_picture_waits_for_one_image_and_not_for_all_that_another_shows() -> None:
    for small in (One(2, key=2), One(2, key=1)):
        gallery: Gallery[One] = Gallery()
        gallery.enter(One(1, key=1))
        assert shown(gallery, images=2) == [1, 1]
        gallery.turn()
        gallery.enter(small)
        assert shown(gallery, images=1) == [1]
        assert shown(gallery, images=1, each=1) == [2]
        gallery.leave(2)
        assert shown(gallery, images=2) == [1, 1]


def test_a_key_and_a_request_get_no_more_turns_for_asking_more_often() -> None:
    gallery: Gallery[One] = Gallery()
    for one in (One(1, key=1), One(2, key=2, request=7), One(3, key=2, request=7), One(4, key=2, request=8)):
        gallery.enter(one)
    order = shown(gallery, images=40)
    assert order.count(1) == 20
    assert order.count(4) == 10


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
