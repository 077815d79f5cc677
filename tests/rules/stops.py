"""A second opinion on stop strings: their definition, tried after every byte, without an automaton."""

import codecs
from collections.abc import Sequence
from itertools import pairwise


def answer(said: bytes, stops: Sequence[str]) -> tuple[str, bool]:
    """The text of an answer whose tokens are the bytes of `said`, and whether a stop string ended it."""
    for length in range(1, len(said) + 1):
        text = complete(said[:length])
        found = [stop for stop in stops if text.endswith(stop)]
        if found:
            return text[: len(text) - max(map(len, found))], True
    return said.decode("utf-8", "replace"), False


def pieces(said: bytes, stops: Sequence[str]) -> list[str]:
    """What a stream shows with each token: all but the longest end that may still become a stop string.

    The last token brings what was held back.
    """
    final, _ = answer(said, stops)
    shown = [""]
    for length in range(1, len(said)):
        text = complete(said[:length])
        if any(text.endswith(stop) for stop in stops):
            break
        held = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
        shown.append(text[: len(text) - max(held, default=0)])
    shown.append(final)
    return [later[len(earlier) :] for earlier, later in pairwise(shown) if later != earlier]


def complete(said: bytes) -> str:
    """The text so far, without a character that may still be completed."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(said)
