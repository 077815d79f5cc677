"""What a step sees of images: which rows they are, what stands there instead of tokens, and where on the page they lie.

Takes the views of open sequences, looks at each image once, in parts, and gives a `Sight` for each batch. How an image becomes
rows is the model's own; when it is looked at is the loop's.
"""

from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol
from weakref import WeakValueDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecocore.errors import InternalError
from ecocore.model.attention import Spans
from ecocore.model.batch import ComputedBatch, Integers
from ecocore.model.layers import padded

Progress = Literal["part", "image", "all"]
"""What of a sequence's images was looked at last: a part of one, the rest of one, or all that was missing."""

# Of one image whose tokens see each other, which one step computes: the largest budget that Gemma's makers know.
IMAGE_TOKENS: Final = 1120
# Of images that were seen lately: the same picture comes again with each turn of a conversation. Those that open sequences
# show are kept besides, until they are closed.
KEPT_BYTES: Final = 128 * 2**20


class View(Protocol):
    """An image and its place in the prompt."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 3), at the size that the model looks at."""

    @property
    def start(self) -> int:
        """Position of its first token."""

    @property
    def rows(self) -> int:
        """Tokens from top to bottom."""

    @property
    def columns(self) -> int:
        """Tokens from left to right."""

    @property
    def digest(self) -> bytes:
        """Differs between images."""


@dataclass(frozen=True, slots=True)
class Sight:
    """`embeddings` (n, hidden) take the place of the tokens at `rows` (n,) of the step.

    `coordinates` (3, step's rows, padded): time, height and width of each row, for models that turn by them.
    """

    rows: Tensor
    embeddings: Tensor
    coordinates: Tensor | None

    def to(self, device: torch.device) -> "Sight":
        """The same on a device."""
        coordinates = None if self.coordinates is None else self.coordinates.to(device)
        return Sight(self.rows.to(device), self.embeddings.to(device), coordinates)


class SeeingModel(Protocol):
    """What a model that sees images has besides."""

    @property
    def looks_around(self) -> bool:
        """Whether the tokens of an image see all of each other in layers with a window."""

    @property
    def row_bytes(self) -> int:
        """What a row of `see` takes."""

    def see(self, view: View) -> Generator[None, None, Tensor]:
        """(rows * columns, hidden_size) of an image, which depend on nothing else: where it pauses changes no bit."""

    def coordinates(self, views: Sequence[View], length: int) -> Integers | None:
        """(3, length + 1): where the positions of a prompt lie, and its next one; None where it is their number."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a sequence shows, and the rows of it that are computed, by digest."""

    views: tuple[View, ...]
    prompt_length: int
    coordinates: Integers | None
    embeddings: dict[bytes, Tensor] = field(default_factory=dict)

    def missing(self) -> View | None:
        """The first image that was not looked at."""
        return next((view for view in self.views if view.digest not in self.embeddings), None)


@dataclass(frozen=True, slots=True)
class _Begun:
    """An image that is being looked at."""

    digest: bytes
    parts: Generator[None, None, Tensor]


def uncut_tokens(*, looks_around: bool, block_size: int) -> int:
    """Most positions of a prompt that no two steps share, and by how many a step may exceed its budget for them.

    That is an image and the rest of the block in which it ends: steps may part where the next image begins.
    """
    return IMAGE_TOKENS + block_size - 1 if looks_around else 0


class Sights:
    """The images of open sequences. `open` and `close` may be called while another thread is in `look` or `of`."""

    def __init__(self, model: SeeingModel, *, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._open: dict[int, _Seen] = {}
        self._begun: _Begun | None = None
        # All that is still there, whoever keeps it: an open sequence, or what follows.
        self._known: WeakValueDictionary[bytes, Tensor] = WeakValueDictionary()
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def open(self, sequence_id: int, views: Sequence[View], prompt_length: int) -> None:
        """Starts a sequence that has images."""
        coordinates = self._model.coordinates(views, prompt_length)
        self._open[sequence_id] = _Seen(tuple(views), prompt_length, coordinates)

    def close(self, sequence_id: int) -> None:
        """Forgets a sequence, and an image that was begun if nobody else shows it; unknown ones are ignored."""
        self._open.pop(sequence_id, None)
        begun = self._begun
        if begun is not None and not any(view.digest == begun.digest for one in list(self._open.values()) for view in one.views):
            self._begun = None

    def look(self, sequence_id: int) -> Progress:
        """Computes a part of what the images of a sequence need; "all" once nothing is missing, and for one that is closed.

        An image that others show or showed lately is not computed again. Of several sequences one comes after the other: an
        image that was begun is dropped for another one.
        """
        seen = self._open.get(sequence_id)
        if seen is None:
            return "all"
        self._recall(seen)
        view = seen.missing()
        if view is None:
            return "all"
        self._go_on(view)
        if self._begun is not None:
            return "part"
        self._recall(seen)
        return "image" if seen.missing() else "all"

    def _recall(self, seen: _Seen) -> None:
        for view in seen.views:
            if (embedding := self._known.get(view.digest)) is not None:
                seen.embeddings[view.digest] = embedding
                if view.digest in self._kept:
                    self._kept.move_to_end(view.digest)

    def _go_on(self, view: View) -> None:
        begun = self._begun
        if begun is None or begun.digest != view.digest:
            begun = self._begun = _Begun(view.digest, self._model.see(view))
        try:
            next(begun.parts)
        except StopIteration as end:
            self._begun = None
            self._keep(view, end.value)
        except BaseException:
            self._begun = None
            raise

    def _keep(self, view: View, embedding: Tensor) -> None:
        if len(embedding) != view.rows * view.columns:
            # Others than these tokens' would be taken for them.
            raise InternalError(f"an image of {view.rows * view.columns} tokens was seen as {len(embedding)} rows")
        self._known[view.digest] = self._kept[view.digest] = embedding
        self._kept_bytes += embedding.nbytes
        while self._kept_bytes > KEPT_BYTES and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes

    def spans(self, batch: ComputedBatch) -> list[Spans]:
        """Of each row of the batch, the spans of its prompt whose positions see each other."""
        if not self._open or not self._model.looks_around:
            return []
        seen = [self._open.get(sequence_id) for sequence_id in batch.sequence_ids.tolist()]
        return [
            [] if one is None else [(view.start, view.start + view.rows * view.columns) for view in one.views] for one in seen
        ]

    def of(self, batch: ComputedBatch) -> Sight | None:
        """What this step sees; None if none of its sequences has images. All of these must have been looked at."""
        seen = [self._open.get(sequence_id) for sequence_id in batch.sequence_ids.tolist()] if self._open else []
        if not any(seen):
            return None
        coordinates = np.zeros((3, padded(len(batch.positions))), np.int64)
        coordinates[:, : len(batch.positions)] = batch.positions
        rows: list[Integers] = []
        parts: list[Tensor] = []
        offset = 0
        for one, start, length in zip(seen, batch.starts.tolist(), batch.lengths.tolist(), strict=True):
            if one is not None:
                if one.coordinates is not None:
                    coordinates[:, offset : offset + length] = _coordinates(one, one.coordinates, start, length)
                for view in one.views:
                    first = max(start, view.start)
                    last = min(start + length, view.start + view.rows * view.columns)
                    if first < last:
                        rows.append(np.arange(first, last) - start + offset)
                        parts.append(_embedding(one, view)[first - view.start : last - view.start])
            offset += length
        turned = any(one is not None and one.coordinates is not None for one in seen)
        return Sight(
            rows=torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *rows])).to(self._device),
            embeddings=torch.cat(parts) if parts else torch.empty((0, 0), device=self._device),
            coordinates=torch.from_numpy(coordinates).to(self._device) if turned else None,
        )


def _embedding(seen: _Seen, view: View) -> Tensor:
    embedding = seen.embeddings.get(view.digest)
    if embedding is None:
        raise InternalError("a step has come to an image that was not looked at")
    return embedding


def _coordinates(seen: _Seen, told: Integers, start: int, length: int) -> Integers:
    """Those of the prompt as they were told, and from there on one after the other."""
    positions = np.arange(start, start + length)
    beyond = np.maximum(positions - seen.prompt_length, 0)
    return told[:, np.minimum(positions, seen.prompt_length)] + beyond
