"""Pixels as models see them, held against Pillow's own ways and against formulas; and files that mean harm."""

import hashlib
import io
import resource
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompt.images.conftest import encoded, picture

from ecocore.prompt.images import decode as decoding
from ecocore.prompt.images.decode import decode
from ecocore.prompt.images.header import read_header
from ecocore.prompt.images.image import Image
from ecocore.prompt.images.source import BadImage


def decoded(data: bytes) -> Image:
    return decode(data, read_header(data))


def check(data: bytes, expected: object) -> None:
    image = decoded(data)
    assert image.pixels.dtype == np.uint8
    assert (image.pixels.flags.c_contiguous, image.pixels.flags.writeable) == (True, False)
    np.testing.assert_array_equal(image.pixels, np.asarray(expected))


@pytest.mark.parametrize("size", [(5, 3), (2, 2), (1, 7), (300, 200)])
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"quality": 90})])
def test_every_format_gives_what_pillow_gives(kind: str, options: dict[str, object], size: tuple[int, int]) -> None:
    data = encoded(picture(*size), kind, **options)
    assert (read_header(data).format, read_header(data).width, read_header(data).height) == (kind, *size)
    check(data, PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def test_strips_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture(40, 30))
    whole = decoded(data).pixels
    for pixels in (1, 40, 41, 399, 1199):
        monkeypatch.setattr(decoding, "_STRIP_PIXELS", pixels)
        np.testing.assert_array_equal(decoded(data).pixels, whole)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = picture(20, 10).convert(mode)
    data = encoded(image, "JPEG" if mode in ("CMYK", "YCbCr") else "PNG")
    check(data, PIL.Image.open(io.BytesIO(data)).convert("RGB"))


def test_grey_is_repeated() -> None:
    grey = np.arange(200, dtype=np.uint8).reshape(10, 20)
    check(encoded(PIL.Image.fromarray(grey)), np.stack([grey] * 3, axis=2))


def test_sixteen_bits_of_grey_become_eight() -> None:
    deep = np.linspace(0, 65535, 200).astype(np.uint16).reshape(10, 20)
    grey = np.rint(deep / 257).astype(np.uint8)
    check(encoded(PIL.Image.fromarray(deep)), np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_shows_white(mode: str) -> None:
    values = np.random.default_rng(1).integers(0, 256, (16, 16, len(mode)), dtype=np.uint8)
    values[0, :, -1], values[1, :, -1] = 0, 255
    rgba = np.asarray(PIL.Image.fromarray(values, mode).convert("RGBA")).astype(np.float64)
    alpha = rgba[:, :, 3:] / 255
    expected = np.floor(rgba[:, :, :3] * alpha + 255 * (1 - alpha) + 0.5).astype(np.uint8)
    data = encoded(PIL.Image.fromarray(values, mode))
    assert np.abs(decoded(data).pixels.astype(int) - expected).max() <= 1
    assert (decoded(data).pixels[0] == 255).all()
    np.testing.assert_array_equal(decoded(data).pixels[1], rgba[1, :, :3])


def test_a_transparent_color_and_a_transparent_palette_show_white() -> None:
    red, green = (255, 0, 0), (0, 255, 0)
    image = PIL.Image.new("RGB", (4, 2), red)
    image.paste(green, (0, 0, 2, 2))
    expected = np.asarray(image).copy()
    expected[:, :2] = 255
    check(encoded(image, transparency=green), expected)
    palette = image.quantize(4)
    check(encoded(palette, transparency=palette.getpixel((0, 0))), expected)
    check(encoded(palette, "GIF", transparency=palette.getpixel((0, 0))), expected)
    check(
        encoded(image.convert("L"), transparency=image.convert("L").getpixel((0, 0))),
        np.where(expected == 255, 255, 76)[:, :, [1] * 3],
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_camera_is_held_upright(kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(7, 4), kind, exif=exif)
    check(data, PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
)
def test_notes_that_cannot_be_read_do_not_matter(exif: bytes) -> None:
    data = encoded(picture(7, 4), "JPEG", exif=exif)
    check(data, PIL.Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_only_the_first_frame_is_looked_at(kind: str) -> None:
    frames = [picture(6, 5, seed).quantize(16) if kind == "GIF" else picture(6, 5, seed) for seed in range(50)]
    options = {} if kind == "PNG" else {"duration": 10}
    if kind == "WEBP":
        options["lossless"] = True
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    check(data, frames[0].convert("RGB"))


def test_the_digest_changes_with_pixels_and_with_shape_alone() -> None:
    wide, tall = np.zeros((2, 8, 3), np.uint8), np.zeros((8, 2, 3), np.uint8)
    digests = [
        decoded(encoded(PIL.Image.fromarray(pixels), kind)).digest for pixels in (wide, tall, wide + 1) for kind in ("PNG", "GIF")
    ]
    assert len(digests[0]) == 32
    assert digests[0::2] == digests[1::2], "the file's format is not part of it"
    assert len(set(digests)) == 3
    assert digests[0] == hashlib.blake2b(b"2 8 " + wide.tobytes(), digest_size=32).digest()


# --- files that mean harm --------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, pixels: bytes, *extra: bytes, depth: int = 8, color: int = 2) -> bytes:
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return start + b"".join(extra) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_file_that_is_cut_is_refused_wherever_it_is_cut(kind: str) -> None:
    data = encoded(picture(64, 64), kind)
    for length in [*range(0, min(len(data), 600), 7), *range(600, len(data) - 64, 301)]:
        with pytest.raises(BadImage):
            decoded(data[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"BM" + bytes(100),
        b"II*\0" + bytes(100),
        b"%PDF-1.7",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"\0\0\1\0" + bytes(100),
        b"RIFF\0\0\0\0WAVEfmt " + bytes(100),
        b"\0\0\0\x1cftypavif" + bytes(100),
        b"\xff\xd8\xff",
        b"\xff\xd8" + b"\xff" * 100_000,
        b"\xff\xd8" + b"\xff\xd0" * 50_000,
        b"\xff\xd8" + b"\xff\xe0\0\0" * 50_000,
        b"GIF89a\x05\0\x05\0\0\0\0;",
        b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\x04\0\0\x04\0\0" + bytes(10),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        # a PNG behind an HTML page, and a page behind the PNG's first bytes
        b"<html>" + png(2, 2, bytes(14)),
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\2\0\0\0\2<html>",
    ],
)
def test_what_is_no_picture_is_refused_without_the_decoder_s_words(data: bytes) -> None:
    with pytest.raises(BadImage) as refused:
        decoded(data)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None
    for leak in ("0x", "BytesIO", "object", "Error", "/", "line"):
        assert leak not in str(refused.value)


def test_a_picture_with_something_behind_it_is_that_picture() -> None:
    data = encoded(picture())
    check(data + b"<script>" + b"PK\3\4" * 1000, picture())


def test_two_sizes_in_one_file_are_refused() -> None:
    small = encoded(picture(8, 8), "JPEG")
    start = small.index(b"\xff\xc0")
    length = 2 + int.from_bytes(small[start + 2 : start + 4])
    first = bytearray(small[start : start + length])
    first[5:9] = struct.pack(">HH", 4, 4)
    with pytest.raises(BadImage, match="two different sizes"):
        decoded(small[:start] + bytes(first) + small[start:])
    gif = bytearray(encoded(picture(8, 8), "GIF"))
    gif[6:10] = struct.pack("<HH", 4, 4)
    with pytest.raises(BadImage, match="two different sizes"):
        decoded(bytes(gif))


def progressive(scans: int) -> bytes:
    """A progressive JPEG of so many scans; those that are too many say the last one again."""
    data = encoded(PIL.Image.new("L", (16, 16), 99), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + b"\xff\xd9"


def test_a_jpeg_has_a_hundred_scans_at_most() -> None:
    """Each is a pass over all pixels, be it empty."""
    assert decoded(progressive(100)).pixels.shape == (16, 16, 3)
    for scans in (101, 200_000):
        with pytest.raises(BadImage, match="more than 100 scans"):
            decoded(progressive(scans))
    check(encoded(picture(64, 64), "JPEG", progressive=True), PIL.Image.open(io.BytesIO(encoded(picture(64, 64), "JPEG"))))


def test_what_looks_like_a_scan_and_is_none_does_not_count() -> None:
    """Phones put a film behind a picture, and a preview into its notes."""
    photo = encoded(picture(64, 64), "JPEG")
    note = b"\xff\xe2" + (60_002).to_bytes(2) + b"\xff\xda" * 30_000
    whole = photo[:2] + note + photo[2:] + b"\xff\xda" * 30_000
    check(whole, PIL.Image.open(io.BytesIO(photo)))


@pytest.mark.parametrize(
    "filler", [b"\xff", b"\xff\xd0", b"\xff\0", b"\0", b"x", b"\xff\x01", b"\xff\xe0\0\x02", b"\xff\xd9", b"\xff\xda\0\x02"]
)
@pytest.mark.parametrize("place", ["at the start", "after the size", "after the scan"])
def test_no_filler_holds_the_judge_or_the_decoder_for_long(filler: bytes, place: str) -> None:
    photo = encoded(picture(64, 64), "JPEG")
    at = {"at the start": 2, "after the size": photo.index(b"\xff\xc0") + 19, "after the scan": len(photo) - 2}[place]
    data = photo[:at] + filler * (10 * 2**20 // len(filler)) + photo[at:]
    begun = time.thread_time()
    with suppress(BadImage):
        decoded(data)
    assert time.thread_time() - begun < 2


def test_a_little_padding_is_borne() -> None:
    photo = encoded(picture(64, 64), "JPEG")
    check(photo[:2] + b"\xff" * 4000 + photo[2:], PIL.Image.open(io.BytesIO(photo)))
    with pytest.raises(BadImage, match="no JPEG"):
        read_header(photo[:2] + b"\xff" * 5000 + photo[2:])


def test_compressed_notes_do_not_blow_up() -> None:
    bomb = zlib.compress(bytes(256 * 2**20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for extra in (chunk(b"zTXt", b"a\0\0" + bomb), chunk(b"iTXt", b"a\0\1\0\0\0" + bomb), chunk(b"iCCP", b"a\0\0" + bomb)):
        data = png(2, 2, bytes(14), extra)
        with suppress(BadImage):
            check(data, np.zeros((2, 2, 3)))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_more_pixels_than_announced_are_not_read() -> None:
    check(png(2, 2, bytes(14) + bytes(50 * 2**20)), np.zeros((2, 2, 3)))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([encoded(picture(9, 9), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF")]),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=8),
)
def test_whatever_bytes_are_changed_the_answer_is_a_picture_or_a_refusal(data: bytes, changes: list[tuple[int, bytes]]) -> None:
    changed = bytearray(data)
    for place, piece in changes:
        at = place % len(changed)
        changed[at : at + len(piece)] = piece
    # Anything but a refusal in our own words fails the test.
    with suppress(BadImage):
        header = read_header(bytes(changed))
        if header.width * header.height <= 10**6:
            assert decode(bytes(changed), header).pixels.shape[2] == 3


def test_a_large_picture_is_held_about_twice(tmp_path: Path) -> None:
    """16 Mpx are 48 MB as RGB and 64 MB inside the decoder."""
    import subprocess
    import sys

    file = tmp_path / "large.png"
    file.write_bytes(encoded(PIL.Image.new("RGBA", (4000, 4000), (1, 2, 3, 4)), compress_level=1))
    script = (
        "import sys, resource; from pathlib import Path;"
        "from ecocore.prompt.images.decode import decode; from ecocore.prompt.images.header import read_header;"
        "data = Path(sys.argv[1]).read_bytes(); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "decode(data, read_header(data)); print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    grown = int(subprocess.run([sys.executable, "-c", script, file], capture_output=True, text=True, check=True).stdout)
    assert grown <= 160
