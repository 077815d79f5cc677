"""What an image says of itself in its first bytes: format and size, before any decoder sees it.

Takes bytes, gives a `Header`, or a BadImage. Fixed offsets for PNG, GIF and WebP; for JPEG, one walk over its segments.
"""

from dataclasses import dataclass
from typing import Final, Literal

from ecocore.prompt.images.source import BadImage

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]

_NOT_SIZES: Final = frozenset({0xC4, 0xC8, 0xCC})  # between C0 and CF, these begin tables
_NO_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})


@dataclass(frozen=True, slots=True)
class Header:
    """Format, and width and height in pixels as stored."""

    format: Format
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """Raises BadImage for what is no PNG, JPEG, WebP or GIF, or is cut before its size."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and len(data) >= 24:
        return Header("PNG", int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))
    if data[:6] in (b"GIF87a", b"GIF89a") and len(data) >= 10:
        return Header("GIF", int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little"))
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP" and len(data) >= 30:
        return _webp(data)
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    raise BadImage("it is no PNG, JPEG, WebP or GIF")


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8X":
        return Header("WEBP", int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    if kind == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return Header("WEBP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return Header("WEBP", int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF)
    raise BadImage("it is no WebP that can be read")


def _jpeg(data: bytes) -> Header:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif marker in _NO_LENGTH:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in _NOT_SIZES:
            return Header("JPEG", int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7]))
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    raise BadImage("it is no JPEG that can be read")
