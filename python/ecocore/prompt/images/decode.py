"""From an image's bytes to its pixels, as models see them: upright, opaque, RGB.

Takes bytes whose header was judged, gives an `Image`. Works in strips, so that a large image is held about twice and not
five times. Resizing is the model's own matter.
"""

import hashlib
import io
from typing import Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ecocore.prompt.images.header import Header
from ecocore.prompt.images.image import Image
from ecocore.prompt.images.source import BadImage

Pixels = NDArray[np.uint8]

_STRIP_PIXELS: Final = 2**20
_ORIENTATION: Final = 0x0112
_DEEP_GREY: Final = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})


def decode(data: bytes, header: Header) -> Image:
    """The first frame. Costs CPU time with the image's area, mostly without the GIL. Raises BadImage."""
    try:
        pixels = _pixels(data, header)
    except BadImage:
        raise
    except Exception:  # noqa: BLE001  # decoders raise whatever they like, in words that are not for clients
        raise BadImage(f"it is damaged, or no {header.format} that can be read") from None
    pixels.flags.writeable = False
    return Image(pixels, _digest(pixels))


def _pixels(data: bytes, header: Header) -> Pixels:
    with PIL.Image.open(io.BytesIO(data), formats=(header.format,)) as image:
        # A file that tells the decoder another size than it told us is made to deceive.
        if image.size != (header.width, header.height):
            raise BadImage("it names two different sizes")
        image.load()
        orientation = _orientation(image)
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        rows = max(1, _STRIP_PIXELS // image.width)
        for top in range(0, image.height, rows):
            bottom = min(top + rows, image.height)
            pixels[top:bottom] = _opaque(image.crop((0, top, image.width, bottom)))
    return np.ascontiguousarray(_upright(pixels, orientation))


def _opaque(strip: PIL.Image.Image) -> Pixels:
    """RGB; what is transparent shows white, as on paper."""
    if strip.mode in _DEEP_GREY:
        grey = (np.asarray(strip).astype(np.uint32) * 255 + 32767) // 65535
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if not strip.has_transparency_data:
        return np.asarray(strip.convert("RGB"))
    rgba = np.asarray(strip.convert("RGBA")).astype(np.uint16)
    color, alpha = rgba[:, :, :3], rgba[:, :, 3:]
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _orientation(image: PIL.Image.Image) -> int:
    """How the camera was held, 1 to 8; notes that cannot be read are no reason to refuse the picture."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  # see decode
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _digest(pixels: Pixels) -> bytes:
    height, width, _ = pixels.shape
    hashed = hashlib.blake2b(b"%d %d " % (height, width), digest_size=32)
    hashed.update(pixels.data)
    return hashed.digest()
