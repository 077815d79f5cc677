"""The value that leaves this room: one image as models see it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Pixels as uint8 (height, width, 3), read-only. `digest`: 32 bytes that change with pixels or shape, for cache keys."""

    pixels: NDArray[np.uint8]
    digest: bytes
