"""The value that leaves this room: what the engine is asked to continue."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids (uint32, at least one) and how many tokens the answer may have.

    `max_tokens` is already clamped to what remains of the context. `images`: uint8 arrays (height, width, 3) in the order
    in which the text refers to them.
    """

    token_ids: NDArray[np.uint32]
    max_tokens: int
    images: tuple[NDArray[np.uint8], ...] = field(default=())
