"""The images of a request: all of them in order, or an error that says which one is at fault."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tests.prompt.images.conftest import ImageHost, encoded, picture, until

from ecocore.errors import InvalidConfiguration, InvalidParameter, Overloaded
from ecocore.prompt.images import fetch as fetching
from ecocore.prompt.images import loader as loading
from ecocore.prompt.images.decode import decode
from ecocore.prompt.images.header import read_header
from ecocore.prompt.images.loader import ImageLimits, ImageLoader


@dataclass
class Part:
    url: str


def data_url(data: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(data).decode()


def inline(*pictures: Any) -> list[Part]:
    return [Part(data_url(encoded(image))) for image in pictures]


@pytest.fixture
async def loader(host: ImageHost) -> AsyncIterator[ImageLoader]:
    loader = ImageLoader(allowed_origins=[host.origin])
    yield loader
    loader.close()


async def refusal(loader: ImageLoader, parts: list[Part]) -> InvalidParameter:
    with pytest.raises(InvalidParameter) as refused:
        async with loader.load(parts):
            pass
    assert refused.value.param == "messages"
    assert len(str(refused.value)) <= 200
    return refused.value


async def test_images_come_in_order_however_they_are_sent(host: ImageHost, loader: ImageLoader) -> None:
    pictures = [picture(10, 5, seed) for seed in range(6)]
    go = asyncio.Event()

    async def late(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        body = encoded(pictures[0])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async def last(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = encoded(pictures[5], "GIF")
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n\r\n" + body)
        go.set()

    host.answers.update({"/late": late, "/last": last})
    parts = [
        Part(host.origin + "/late"),
        *inline(*pictures[1:3]),
        Part(host.serves("/3", encoded(pictures[3], "WEBP", lossless=True))),
        *inline(pictures[4]),
        Part(host.origin + "/last"),
    ]
    async with loader.load(parts) as images:
        for image, expected in zip(images[:5], pictures, strict=False):
            np.testing.assert_array_equal(image.pixels, np.asarray(expected))
        assert len({image.digest for image in images}) == 6


async def test_no_images_are_no_work(loader: ImageLoader) -> None:
    async with loader.load([]) as images:
        assert images == []


async def test_the_one_at_fault_is_named(host: ImageHost, loader: ImageLoader) -> None:
    good = inline(picture())
    for bad, words in {
        "data:image/png;base64,AAAA": "no PNG, JPEG, WebP or GIF",
        "data:image/png;base64,A": "no valid base64",
        "data:image/png,AAAA": "must read data:image",
        "http://example.com/x": "must begin with https://",
        "https://127.0.0.1/x": "not on the public internet",
        host.serves("/page", b"<html>404</html>"): "no PNG, JPEG, WebP or GIF",
        host.serves("/gone", b"", status="404 Not Found"): "answered with status 404",
        data_url(encoded(picture())[:-30]): "damaged",
    }.items():
        error = await refusal(loader, [*good, *good, Part(bad)])
        assert (error.code, str(error)) == ("invalid_image_url", str(error))
        assert str(error).startswith("messages: image 3 cannot be used: ")
        assert words in str(error)


async def test_nothing_is_fetched_if_any_url_is_wrong(host: ImageHost, loader: ImageLoader) -> None:
    await refusal(loader, [Part(host.serves("/x", encoded(picture()))), Part("file:///etc/passwd")])
    assert host.heads == []


async def test_a_server_may_fetch_nothing(host: ImageHost) -> None:
    loader = ImageLoader(allowed_origins=[host.origin], remote=False)
    async with loader.load(inline(picture())) as images:
        assert len(images) == 1
    error = await refusal(loader, [Part(host.serves("/x", encoded(picture())))])
    assert "fetches no images" in str(error)
    assert host.heads == []
    loader.close()


async def test_images_are_counted(loader: ImageLoader) -> None:
    async with loader.load(inline(picture()) * 16) as images:
        assert len(images) == 16
    error = await refusal(loader, inline(picture()) * 17)
    assert (error.code, "17 images" in str(error)) == ("array_above_max_length", True)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((1, 1), "2 to 50"),
        ((1, 50), "2 to 50"),
        ((51, 2), "2 to 50"),
        ((2, 50), None),
        ((10, 10), None),
        ((10, 11), "more than 100 pixels"),
    ],
)
async def test_a_picture_has_a_least_and_a_greatest_size(size: tuple[int, int], words: str | None) -> None:
    loader = ImageLoader(limits=ImageLimits(image_pixels=100, min_side=2, max_side=50))
    if words is None:
        async with loader.load(inline(picture(*size))) as images:
            assert images[0].pixels.shape == (size[1], size[0], 3)
    else:
        assert words in str(await refusal(loader, inline(picture(*size))))
    loader.close()


async def test_pictures_have_a_size_together() -> None:
    loader = ImageLoader(limits=ImageLimits(pixels=200))
    async with loader.load(inline(picture(10, 10), picture(10, 10))):
        pass
    assert "204 pixels together" in str(await refusal(loader, inline(picture(10, 10), picture(10, 10), picture(2, 2))))
    loader.close()


async def test_a_bomb_is_refused_by_its_header(loader: ImageLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("PIL.Image.open", never)
    png = bytearray(encoded(picture()))
    for width, height in ((16_384, 16_384), (5657, 5657), (2**31, 2), (0, 0), (2, 2**32 - 1)):
        png[16:24] = width.to_bytes(4) + height.to_bytes(4)
        error = await refusal(loader, [Part(data_url(bytes(png)))])
        assert "pixels" in str(error)
    webp = b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0\xff\x3f\0\xff\x3f\0" + bytes(10)
    jpeg = b"\xff\xd8\xff\xc0\0\x11\x08\x40\0\x40\0\x03" + bytes(9) + b"\xff\xda" + bytes(20)
    gif = b"GIF89a\xff\xff\xff\xff\0\0\0"
    for data in (webp, jpeg, gif):
        assert "pixels" in str(await refusal(loader, [Part(data_url(data))]))


async def test_a_file_has_a_greatest_size(host: ImageHost) -> None:
    loader = ImageLoader(allowed_origins=[host.origin], limits=ImageLimits(image_bytes=100))
    for url in (data_url(bytes(101)), host.serves("/x", bytes(101))):
        assert "more than 100 bytes" in str(await refusal(loader, [Part(url)]))
    loader.close()


async def test_a_host_that_dribbles_is_given_up(host: ImageHost) -> None:
    gone = asyncio.Event()

    async def dribbling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
        await reader.read()
        gone.set()

    host.answers["/x"] = dribbling
    loader = ImageLoader(allowed_origins=[host.origin], limits=ImageLimits(fetch_seconds=0.2))
    error = await refusal(loader, [Part(host.origin + "/x")])
    assert "within 0.2 seconds" in str(error)
    await asyncio.wait_for(gone.wait(), 5)
    loader.close()


async def test_a_name_server_that_is_silent_is_given_up() -> None:
    async def silent(_name: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        raise AssertionError

    loader = ImageLoader(resolve=silent, limits=ImageLimits(fetch_seconds=0.05))
    assert "within" in str(await refusal(loader, [Part("https://example.com/x")]))
    loader.close()


async def test_the_first_failure_ends_the_other_fetches(host: ImageHost, loader: ImageLoader) -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def stalling(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        begun.set()
        await reader.read()
        gone.set()

    async def failing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await begun.wait()
        writer.write(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n")

    host.answers.update({"/stalling": stalling, "/failing": failing})
    error = await refusal(loader, [Part(host.origin + "/stalling"), Part(host.origin + "/failing")])
    assert "image 2" in str(error)
    await asyncio.wait_for(gone.wait(), 5)


async def test_pixels_are_held_by_so_many_requests_at_a_time() -> None:
    loader = ImageLoader(limits=ImageLimits(pixels=100, wait_seconds=0.05))
    async with loader.load(inline(picture(10, 6))):
        with pytest.raises(Overloaded):
            async with loader.load(inline(picture(10, 5))):
                pass
        async with loader.load(inline(picture(10, 4))):
            pass
    async with loader.load(inline(picture(10, 10))):
        pass
    loader.close()


async def test_who_waits_for_room_gets_it() -> None:
    loader = ImageLoader(limits=ImageLimits(pixels=100))
    order: list[str] = []

    async def second() -> None:
        async with loader.load(inline(picture(10, 10))):
            order.append("second")

    async with loader.load(inline(picture(10, 10))):
        waiting = asyncio.create_task(second())
        await until(lambda: loader._room._change._waiters)
        order.append("first")
    await waiting
    assert order == ["first", "second"]
    loader.close()


async def test_room_is_given_back_whatever_happens() -> None:
    loader = ImageLoader(limits=ImageLimits(pixels=100))
    with pytest.raises(ZeroDivisionError):
        async with loader.load(inline(picture(10, 10))):
            raise ZeroDivisionError
    bad = Part(data_url(encoded(picture(10, 10))[:-30]))
    await refusal(loader, [bad])
    assert (loader._room._free, loader._files.held, loader._fetcher._open) == (100, 0, 0)
    loader.close()


async def test_files_count_from_their_first_byte_until_they_are_decoded(host: ImageHost) -> None:
    """A request that waits for its slowest image holds all the others meanwhile."""
    go = asyncio.Event()
    small, large = encoded(picture(2, 2)), encoded(picture(30, 30))

    async def slow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(small) + small[:10])
        await writer.drain()
        await go.wait()
        writer.write(small[10:])

    host.answers["/slow"] = slow
    fast = [Part(host.serves(f"/{number}", large)) for number in range(2)]
    loader = ImageLoader(allowed_origins=[host.origin], limits=ImageLimits(bytes=4 * len(large)))

    async def load() -> int:
        async with loader.load([*fast, Part(data_url(large)), Part(host.origin + "/slow")]) as images:
            assert loader._files.held <= 2, "what base64 rounds up"
            return len(images)

    waiting = asyncio.create_task(load())
    inline_bytes = len(base64.b64encode(large)) // 4 * 3
    await until(lambda: loader._files.held == 2 * len(large) + inline_bytes + 10)
    for another in (fast[:1], inline(picture(30, 30))):
        with pytest.raises(Overloaded):
            async with loader.load(another):
                pass
    async with loader.load(inline(picture(2, 2))) as images:
        assert len(images) == 1
    go.set()
    assert await waiting == 4
    assert loader._files.held == 0
    async with loader.load(fast):
        pass
    loader.close()


async def test_what_is_held_is_given_back_when_a_request_ends_in_the_middle(host: ImageHost) -> None:
    async def stalling(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    host.answers["/stalling"] = stalling
    loader = ImageLoader(allowed_origins=[host.origin])

    async def load() -> None:
        async with loader.load([*inline(picture()), Part(host.origin + "/stalling")]):
            pass

    leaving = asyncio.create_task(load())
    await until(lambda: loader._files.held)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert loader._files.held == 0
    loader.close()


async def test_a_request_that_could_never_be_held_is_not_told_to_come_back(host: ImageHost) -> None:
    data = encoded(picture(9, 9))
    loader = ImageLoader(allowed_origins=[host.origin], limits=ImageLimits(bytes=3 * len(data)))
    error = await refusal(loader, [*inline(*[picture(9, 9)] * 3), Part(host.serves("/x", data))])
    assert (error.code, f"more than {3 * len(data)} bytes together" in str(error)) == ("invalid_image_url", True)
    loader.close()


async def test_who_reads_does_not_wait_for_who_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both decoders are busy, and a file that is none is refused all the same."""
    go = threading.Event()
    busy = threading.Semaphore(0)

    def slowly(*arguments: Any) -> Any:
        busy.release()
        go.wait()
        return decode(*arguments)

    monkeypatch.setattr(loading, "decode", slowly)
    loader = ImageLoader()

    async def load() -> int:
        async with loader.load(inline(picture())) as images:
            return len(images)

    waiting = [asyncio.create_task(load()) for _ in range(loading.DECODERS)]
    for _ in waiting:
        assert await asyncio.to_thread(busy.acquire, timeout=10)
    try:
        async with asyncio.timeout(10):
            assert "no PNG" in str(await refusal(loader, [Part(data_url(b"x" * 99))]))
    finally:
        go.set()
    assert await asyncio.gather(*waiting) == [1] * loading.DECODERS
    loader.close()


async def test_no_header_is_judged_on_the_event_loop(
    host: ImageHost, loader: ImageLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def noting(data: bytes) -> Any:
        threads.append(threading.current_thread().name)
        return read_header(data)

    monkeypatch.setattr(loading, "read_header", noting)
    async with loader.load([*inline(picture()), Part(host.serves("/x", encoded(picture())))]):
        pass
    assert len(threads) == 2
    assert all(name.startswith("read images") for name in threads)


def test_a_wrong_origin_is_told_at_the_start() -> None:
    with pytest.raises(InvalidConfiguration, match="allow_image_origin"):
        ImageLoader(allowed_origins=["images.internal"])


def test_redirects_and_bytes_are_bounded_as_documented() -> None:
    assert (fetching.MAX_REDIRECTS, ImageLimits().images, ImageLimits().image_bytes) == (3, 16, 10 * 2**20)
    assert ImageLimits().bytes == 128 * 2**20
    assert (ImageLimits().image_pixels, ImageLimits().pixels, ImageLimits().fetch_seconds) == (32_000_000, 64_000_000, 10)
