"""The value that leaves this room: what the engine is asked to continue."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids (uint32, at least one) and how many tokens the answer may have.

    `max_tokens` is already clamped to what remains of the context. `image_digest` changes with the images that the
    token ids stand for, so that a prefix cache never takes one picture for another; empty without images.
    """

    token_ids: NDArray[np.uint32]
    max_tokens: int
    image_digest: bytes = b""
