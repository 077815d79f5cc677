"""What an image says of itself in its first bytes: format and size, before any decoder sees it.

Takes bytes, gives a `Header`, or a BadImage. Fixed offsets for PNG, GIF and WebP; for JPEG, one walk over its markers, which
also refuses what would hold a decoder for long: scans, segments and padding without end.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from ecocore.prompt.images.source import BadImage

Format = Literal["PNG", "JPEG", "WEBP", "GIF"]

_NOT_SIZES: Final = frozenset({0xC4, 0xC8, 0xCC})  # between C0 and CF, these begin tables
_NO_LENGTH: Final = 0x01
_END: Final = 0xD9
_SCAN: Final = 0xDA
# Where decoders, too, see a marker: FF 00 is a byte of pixels, FF FF is padding, and D0 to D7 stand among pixels.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# A search keeps the interpreter to itself; between two pieces others get their turn.
_PIECE: Final = 2**20

# Cameras write 1 scan, the usual progressive files 10. Each costs a pass over all pixels, though it be empty.
MAX_SCANS: Final = 100
# A colour profile may have 255, and 160 of full length fill a file.
MAX_SEGMENTS: Final = 1024
# Before the first scan; decoders read it byte by byte.
MAX_PADDING: Final = 4096


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
    header: Header | None = None
    at, scans, padding = 2, 0, 0
    for _ in range(MAX_SEGMENTS):
        begin = _marker(data, at, len(data) if scans else at + MAX_PADDING - padding)
        if begin is None or data[begin + 1] == _END:
            break
        marker = data[begin + 1]
        if not scans:
            padding += begin - at
        if header is None and 0xC0 <= marker <= 0xCF and marker not in _NOT_SIZES:
            header = Header("JPEG", int.from_bytes(data[begin + 7 : begin + 9]), int.from_bytes(data[begin + 5 : begin + 7]))
        scans += marker == _SCAN
        if scans > MAX_SCANS:
            raise BadImage(f"it is a JPEG of more than {MAX_SCANS} scans")
        at = begin + 2 if marker == _NO_LENGTH else begin + 2 + max(2, int.from_bytes(data[begin + 2 : begin + 4]))
    else:
        raise BadImage(f"it is no JPEG that can be read: it has more than {MAX_SEGMENTS} segments")
    if header is None or not scans:
        raise BadImage("it is no JPEG that can be read")
    return header


def _marker(data: bytes, start: int, end: int) -> int | None:
    """Where the first marker begins, if it does so from `start` on and before `end`."""
    for at in range(start, end, _PIECE):
        if found := _MARKER.search(data, at, min(at + _PIECE, end) + 1):
            return found.start()
    return None
