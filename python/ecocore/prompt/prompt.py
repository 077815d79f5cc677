"""The value that leaves this room: what the engine is asked to continue."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ecocore._core import Grammar
from ecocore.errors import ContextLengthExceeded
from ecocore.prompt.images.image import Image
from ecocore.prompt.images.view import View, Viewer, laid_out


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What the answer may be made of; the same for every choice. The defaults are plain text."""

    grammar: Grammar | None = None
    tool_syntax: str | None = None
    """How the model writes calls of `tool_names`; None looks for none."""
    tool_names: tuple[str, ...] = ()
    forced_tool: bool = False
    """Whether the answer is a call from its first character."""
    max_tool_calls: int | None = None
    reasoning: bool = False
    """Whether a thought before the answer is told as such."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids (uint32, at least one) and how many tokens the answer may have.

    `max_tokens` is already clamped to what remains of the context. `image_digest` changes with images that nobody looks at, so
    that a prefix cache never takes one picture for another; empty where `views` tell each of them.
    """

    token_ids: NDArray[np.uint32]
    max_tokens: int
    image_digest: bytes = b""
    cache_salt: bytes = b""
    """What the request wants kept apart from others in the prefix cache."""
    scores: bool = False
    """Whether the log-probabilities of the prompt's own tokens are wanted."""
    form: AnswerForm = AnswerForm()
    in_thought: bool = False
    """Whether it ends in a thought that it has opened, which the answer goes on with."""
    viewer: Viewer | None = None
    """How the model looks at images; None where nobody does."""
    views: tuple[View, ...] = ()
    """What it looks at."""
    context_length: int | None = None
    """What prompt and answer must fit in, should images make the prompt longer."""

    @property
    def whole(self) -> tuple[tuple[int, int], ...]:
        """Spans of tokens that are computed in one step."""
        if self.viewer is None or not self.viewer.looks_around:
            return ()
        return tuple((view.start, view.start + view.rows * view.columns) for view in self.views)

    def showing(self, images: Sequence[Image]) -> Self:
        """The same prompt with the images that its text names, in order: all that a prompt lacks until they are loaded.

        Costs CPU time with their areas. Raises InvalidParameter("messages"), ContextLengthExceeded.
        """
        if self.viewer is None:
            digests = b"".join(image.digest for image in images)
            return replace(self, image_digest=hashlib.blake2b(digests, digest_size=32).digest())
        token_ids, views = laid_out(self.token_ids, images, self.viewer)
        remaining = self.max_tokens if self.context_length is None else self.context_length - len(token_ids)
        if remaining < 1:
            raise ContextLengthExceeded(
                "messages",
                f"{len(token_ids)} tokens, those of its images included, are too many: the context here is "
                f"{self.context_length} and the answer needs at least one; {_less(views, 1 - remaining)}",
            )
        return replace(self, token_ids=token_ids, views=views, max_tokens=min(self.max_tokens, remaining))


def _less(views: Sequence[View], excess: int) -> str:
    """Advice on how to send so many tokens less: the last images go first."""
    for number in range(len(views), 0, -1):
        excess -= views[number - 1].rows * views[number - 1].columns
        if excess <= 0:
            return f"leave out image {number}" if number == len(views) else f"leave out images {number} to {len(views)}"
    return "send less text, for leaving out its images is not enough"
