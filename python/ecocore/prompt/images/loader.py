"""The images of a request, all of them or an error that names the one at fault.

Takes image parts as the request spells them, gives `Image` values for as long as they are held. Judges every URL before
anything is fetched, and every size before anything is decoded; bounds what all requests together hold.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ssl import SSLContext
from typing import Final, Protocol, TypeVar

from ecocore.errors import InvalidParameter, Overloaded
from ecocore.prompt.images.decode import decode
from ecocore.prompt.images.fetch import Fetcher, Resolve
from ecocore.prompt.images.header import Header, read_header
from ecocore.prompt.images.held import HeldBytes, Share
from ecocore.prompt.images.image import Image
from ecocore.prompt.images.source import BadImage, InlineImage, Origin, RemoteImage, parse_source

Done = TypeVar("Done")

# More would only take cores from the engine. Who reads does not stand in line behind who decodes: a picture may take
# seconds, base64 and a header take milliseconds.
DECODERS: Final = 2
READERS: Final = 2


class Part(Protocol):
    """An image part of a message, as `request.ImagePart`."""

    @property
    def url(self) -> str:
        """A data URL, or where the image is."""


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What the images of one request may weigh."""

    images: int = 16
    image_bytes: int = 10 * 2**20
    bytes: int = 128 * 2**20
    """Of all files together; as much is held at most for all requests together."""
    image_pixels: int = 32_000_000
    pixels: int = 64_000_000
    """Of all images together; as much is held at most for all requests together."""
    min_side: int = 2
    max_side: int = 16_384
    fetch_seconds: float = 10.0
    """For all images of a request, redirects included."""
    wait_seconds: float = 5.0
    """For room to decode."""


class ImageLoader:
    """Loads images for the requests of one process, on one event loop."""

    def __init__(
        self,
        *,
        allowed_origins: Iterable[str] = (),
        remote: bool = True,
        limits: ImageLimits | None = None,
        resolve: Resolve | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        """`allowed_origins`: exempt from the https and public-address rules. `remote` False: data URLs only.

        Raises InvalidConfiguration.
        """
        self._limits = limits or ImageLimits()
        self._trusted = Origin.configured(allowed_origins)
        self._remote = remote
        self._fetcher = Fetcher(self._trusted, max_bytes=self._limits.image_bytes, resolve=resolve, ssl=ssl)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="read images")
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode images")
        self._files = HeldBytes(self._limits.bytes)
        self._room = _Room(self._limits.pixels, self._limits.wait_seconds)

    @asynccontextmanager
    async def load(self, parts: Sequence[Part]) -> AsyncIterator[list[Image]]:
        """The images in order; they count as held until the block ends. Raises InvalidParameter("messages"), Overloaded."""
        if len(parts) > self._limits.images:
            raise InvalidParameter(
                "messages", f"holds {len(parts)} images, at most {self._limits.images} are allowed", "array_above_max_length"
            )
        sources = [_named(number, self._source, part.url) for number, part in enumerate(parts, 1)]
        with self._files.share() as share:
            files = await self._read_all(sources, share)
            pixels = sum(file.header.width * file.header.height for file in files)
            if pixels > self._limits.pixels:
                raise InvalidParameter(
                    "messages",
                    f"its images have {pixels} pixels together, at most {self._limits.pixels} are allowed",
                    "invalid_image_url",
                )
            async with self._room.hold(pixels):
                yield await self._decode_all(files, share)

    def close(self) -> None:
        """Takes no more work."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def _source(self, url: str) -> InlineImage | RemoteImage:
        source = parse_source(url, self._trusted)
        if isinstance(source, RemoteImage) and not self._remote:
            raise BadImage("this server fetches no images; send it as data:image/...;base64,...")
        return source

    async def _read_all(self, sources: Sequence[InlineImage | RemoteImage], share: Share) -> list["_File"]:
        """Every file, fetched side by side; the first failure ends all."""
        reading = [asyncio.ensure_future(self._read(number, source, share)) for number, source in enumerate(sources, 1)]
        try:
            return list(await asyncio.gather(*reading))
        finally:
            for task in reading:
                task.cancel()
            await asyncio.gather(*reading, return_exceptions=True)

    async def _read(self, number: int, source: InlineImage | RemoteImage, share: Share) -> "_File":
        if isinstance(source, InlineImage):
            # One that is too large is refused before anything is decoded.
            share.take(min(source.most_bytes, self._limits.image_bytes))
            work = partial(_named, number, self._opened, source)
        else:
            work = partial(_named, number, self._judged, await _named_async(number, self._fetch(source, share)))
        return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    async def _decode_all(self, files: list["_File"], share: Share) -> list[Image]:
        """One after another, and each file is let go as soon as it is decoded. Leaves `files` empty."""
        images: list[Image] = []
        for number in range(1, len(files) + 1):
            file = files.pop(0)
            work = partial(_named, number, decode, file.data, file.header)
            images.append(await asyncio.get_running_loop().run_in_executor(self._decoders, work))
            share.give_back(len(file.data))
        return images

    async def _fetch(self, image: RemoteImage, share: Share) -> bytes:
        try:
            async with asyncio.timeout(self._limits.fetch_seconds):
                return await self._fetcher.fetch(image, share.take)
        except TimeoutError:
            raise BadImage(f"its host did not deliver it within {self._limits.fetch_seconds:g} seconds") from None

    def _opened(self, image: InlineImage) -> "_File":
        return self._judged(image.decode(self._limits.image_bytes))

    def _judged(self, data: bytes) -> "_File":
        header = read_header(data)
        sides, limits = (header.width, header.height), self._limits
        if min(sides) < limits.min_side or max(sides) > limits.max_side:
            raise BadImage(f"each side must have {limits.min_side} to {limits.max_side} pixels")
        if header.width * header.height > limits.image_pixels:
            raise BadImage(f"it has more than {limits.image_pixels} pixels")
        return _File(data, header)


def load_images(parts: Sequence[Part]) -> list[Image]:
    """The images of one request, for callers without an event loop. Raises InvalidParameter("messages")."""

    async def load() -> list[Image]:
        loader = ImageLoader()
        try:
            async with loader.load(parts) as images:
                return images
        finally:
            loader.close()

    # A caller may well stand inside a loop of its own.
    with ThreadPoolExecutor(1, thread_name_prefix="load images") as worker:
        return worker.submit(asyncio.run, load()).result()


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    header: Header


class _Room:
    """So many pixels are held at a time; whoever comes then waits in line."""

    def __init__(self, pixels: int, seconds: float) -> None:
        self._free = pixels
        self._seconds = seconds
        self._change = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._seconds), self._change:
                await self._change.wait_for(lambda: self._free >= pixels)
                self._free -= pixels
        except TimeoutError:
            raise Overloaded("many images are being decoded; retry in a moment") from None
        try:
            yield
        finally:
            self._free += pixels
            async with self._change:
                self._change.notify_all()


def _named(number: int, work: Callable[..., Done], *arguments: object) -> Done:
    """Does the work; what is wrong with an image becomes an error that says which."""
    try:
        return work(*arguments)
    except BadImage as error:
        raise _refused(number, error) from None


async def _named_async(number: int, work: Awaitable[Done]) -> Done:
    try:
        return await work
    except BadImage as error:
        raise _refused(number, error) from None


def _refused(number: int, error: BadImage) -> InvalidParameter:
    return InvalidParameter("messages", f"image {number} cannot be used: {error}", "invalid_image_url")
