"""Fetches images from the internet, and from nowhere else.

Takes a `RemoteImage`, gives the bytes of a 200 answer, or a BadImage. A name is resolved once, all of its addresses are
judged, and the connection goes to those addresses only; a redirect is a new URL that is judged from the start. Who asks
counts the bytes as they come.
"""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from ssl import SSLContext
from typing import Any, Final

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from ecocore.errors import InvalidRequest, Overloaded
from ecocore.prompt.images.address import is_public
from ecocore.prompt.images.source import BadImage, Origin, RemoteImage

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Take = Callable[[int], None]
"""Is told of so many bytes before they are kept; may raise."""

MAX_REDIRECTS: Final = 3
MAX_OPEN: Final = 256
MAX_RESOLVING: Final = 64
_CHUNK: Final = 64 * 1024
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {
    "Accept": "image/png, image/jpeg, image/webp, image/gif",
    "Accept-Encoding": "identity",
    "User-Agent": "ecocore",
}


class Fetcher:
    """Fetches for all requests of a process, so that together they open a bounded number of connections."""

    def __init__(
        self,
        trusted: frozenset[Origin] = frozenset(),
        *,
        max_bytes: int,
        resolve: Resolve | None = None,
        ssl: SSLContext | None = None,
    ) -> None:
        """`trusted`: origins exempt from the https and public-address rules. `ssl`: None trusts what the system trusts."""
        self._trusted = trusted
        self._max_bytes = max_bytes
        self._resolve = resolve or _SystemResolver()
        self._ssl = ssl
        self._open = 0

    async def fetch(self, image: RemoteImage, take: Take) -> bytes:
        """The image's bytes. Has no deadline of its own. Raises BadImage, Overloaded, and what `take` raises."""
        if self._open >= MAX_OPEN:
            raise Overloaded("many images are being fetched; retry in a moment")
        self._open += 1
        try:
            return await self._follow(image, take)
        except InvalidRequest:
            raise
        except (ClientError, OSError, ValueError):
            # What a library says may hold an address or a part of the answer.
            raise BadImage("its host cannot be reached, or does not speak HTTP") from None
        finally:
            self._open -= 1

    async def _follow(self, image: RemoteImage, take: Take) -> bytes:
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._exchange(image, take)
            if isinstance(found, bytes):
                return found
            image = image.redirected(found, self._trusted)
        raise BadImage(f"its host redirects more than {MAX_REDIRECTS} times")

    async def _exchange(self, image: RemoteImage, take: Take) -> bytes | str:
        """One request: the answer's body, or where it redirects to."""
        addresses = await self._addresses(image)
        connector = TCPConnector(
            resolver=_Pinned(addresses),
            socket_factory=_only(addresses),
            use_dns_cache=False,
            force_close=True,
            ssl=self._ssl or True,
        )
        # Nothing of this machine goes along: no proxy, no cookie, no password file, no referrer.
        session = ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=ClientTimeout(total=None),
        )
        async with session, session.get(image.url, headers=_HEADERS, allow_redirects=False) as response:
            if response.status in _REDIRECTS:
                return response.headers.get("Location", "")
            if response.status != 200:
                raise BadImage(f"its host answered with status {response.status}")
            if response.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
                raise BadImage("its host sent it compressed")
            return await self._body(response, take)

    async def _body(self, response: ClientResponse, take: Take) -> bytes:
        if (response.content_length or 0) > self._max_bytes:
            raise BadImage(f"it has more than {self._max_bytes} bytes")
        body = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            if len(body) + len(chunk) > self._max_bytes:
                raise BadImage(f"it has more than {self._max_bytes} bytes")
            take(len(chunk))
            body += chunk
        return bytes(body)

    async def _addresses(self, image: RemoteImage) -> Sequence[str]:
        """Where the connection may go. Raises BadImage unless every address of the host is public."""
        host, port = image.url.raw_host, image.url.port
        assert host is not None
        assert port is not None
        try:
            addresses = await self._resolve(host, port)
        except OSError:
            raise BadImage("its host has no address") from None
        if not addresses:
            raise BadImage("its host has no address")
        if not image.trusted and not all(map(is_public, addresses)):
            raise BadImage("its host is not on the public internet")
        return addresses


class _SystemResolver:
    """Asks the C library, each name on a thread of its own.

    A name whose servers are silent holds its thread for half a minute: it must keep neither other names waiting,
    nor the process from ending.
    """

    def __init__(self) -> None:
        self._asking = 0

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        if self._asking >= MAX_RESOLVING:
            raise Overloaded("many hosts of images are being looked up; retry in a moment")
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Sequence[str]] = loop.create_future()

        def settle(found: Sequence[str] | OSError) -> None:
            self._asking -= 1
            if answered.cancelled():
                return
            if isinstance(found, OSError):
                answered.set_exception(found)
            else:
                answered.set_result(found)

        def ask() -> None:
            found: Sequence[str] | OSError
            try:
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                found = list(dict.fromkeys(str(address[0]) for *_, address in infos))
            except OSError as error:
                found = error
            except UnicodeError:
                found = []
            # A loop that is closed has nobody left to tell.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, found)

        self._asking += 1
        threading.Thread(target=ask, name="look up an image's host", daemon=True).start()
        return await answered


class _Pinned(AbstractResolver):
    """Resolves any name to the addresses that were judged."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> list[ResolveResult]:  # noqa: ARG002  # every family is in the list
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        """Holds nothing."""


def _only(addresses: Sequence[str]) -> Callable[[Any], socket.socket]:
    """Makes sockets for these addresses and for no other: the last gate, whatever stands before it."""

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, address = info
        if address[0] not in addresses:
            raise OSError("this address was not judged")
        return socket.socket(family, kind, protocol)

    return make
