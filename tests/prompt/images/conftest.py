"""An image host on loopback that answers with whatever bytes a test wants, and pictures to serve."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext

import numpy as np
import PIL.Image
import pytest

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ImageHost:
    """`answers`: path -> the whole answer as bytes, or a coroutine that writes it."""

    port: int = 0
    scheme: str = "http"
    answers: dict[str, bytes | Handler] = field(default_factory=dict)
    heads: list[bytes] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def serves(self, path: str, body: bytes, *headers: str, status: str = "200 OK") -> str:
        """The URL under which `body` is served."""
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        self.answers[path] = "\r\n".join(lines).encode() + body
        return self.origin + path

    def redirects(self, path: str, location: str) -> str:
        return self.serves(path, b"", f"Location: {location}", status="302 Found")

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            answer = self.answers[head.split(b" ")[1].decode()]
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def image_host(ssl: SSLContext | None = None) -> AsyncIterator[ImageHost]:
    """A host that listens while inside."""
    host = ImageHost(scheme="https" if ssl else "http")
    server = await asyncio.start_server(host.handle, "127.0.0.1", 0, ssl=ssl)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()


@pytest.fixture
async def host() -> AsyncIterator[ImageHost]:
    async with image_host() as started:
        yield started


async def until(holds: Callable[[], object]) -> None:
    """Lets the loop run until it holds."""
    while not holds():  # noqa: ASYNC110  # there is no event for what nobody else needs to know
        await asyncio.sleep(0)


def picture(width: int = 5, height: int = 3, seed: int = 0) -> PIL.Image.Image:
    """Noise, so that no two pixels are likely to be alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def encoded(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
