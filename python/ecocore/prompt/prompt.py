"""The value that leaves this room: what the engine is asked to continue."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ecocore._core import Grammar
from ecocore.prompt.images.image import Image


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

    `max_tokens` is already clamped to what remains of the context. `image_digest` changes with the images that the
    token ids stand for, so that a prefix cache never takes one picture for another; empty without images.
    """

    token_ids: NDArray[np.uint32]
    max_tokens: int
    image_digest: bytes = b""
    cache_salt: bytes = b""
    """What the request wants kept apart from others in the prefix cache."""
    scores: bool = False
    """Whether the log-probabilities of the prompt's own tokens are wanted."""
    form: AnswerForm = AnswerForm()

    def showing(self, images: Sequence[Image]) -> Self:
        """The same prompt with the images that its text names, in order: all that a prompt lacks until they are loaded."""
        digests = b"".join(image.digest for image in images)
        return replace(self, image_digest=hashlib.blake2b(digests, digest_size=32).digest())
