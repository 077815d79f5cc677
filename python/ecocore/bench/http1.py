"""HTTP/1.1 as a load client needs it: one exchange at a time on a connection, the answer told as its bytes arrive.

Takes bytes cut anywhere, gives head and body to whoever hears them; leaves events and figures to others. A client for
general use costs several times as much for each piece of a stream, and beside the server it measures that is felt:
docs/performance.md has both figures.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 4096

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
# A size, perhaps with extensions, which mean nothing to us.
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")


# Asyncio's plain way makes 256 KiB for each read and gives most of it back, which costs as much as reading the event.
_BUFFER: Final = memoryview(bytearray(64 * 1024))


class BrokenAnswer(Exception):
    """What came is no answer in HTTP/1.1."""


class ConnectionCut(Exception):
    """The connection ended before the answer. `began`: whether any of it had come."""

    def __init__(self, message: str, *, began: bool) -> None:
        super().__init__(message)
        self.began = began


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers of an answer; names are in small letters, the values of a repeated one are joined."""

    status: int
    headers: Mapping[str, str]


class Hears(Protocol):
    """Is told one answer. `at`: when the bytes arrived; what came in one read shares it."""

    def on_head(self, head: Head, at: float) -> None:
        """Once, first."""

    def on_body(self, data: bytes, at: float) -> None:
        """As often as bytes come; never empty."""


class AnswerReader:
    """Reads one answer after another, without a connection of its own."""

    def __init__(self) -> None:
        """Hears nothing until `begin`."""
        self.reusable = False
        """After a whole answer: whether the connection may carry another one."""
        self._held = b""
        self._left = 0
        self._after_data = False
        self._read: Callable[[bytes, float], bool] = self._between
        self._hears: Hears | None = None

    def begin(self, hears: Hears) -> None:
        """The next bytes are a new answer."""
        self._hears = hears
        self._held = b""
        self._read = self._head

    @property
    def began(self) -> bool:
        """Whether any byte of the present answer has come."""
        return self._read != self._head or bool(self._held)

    def feed(self, data: bytes, at: float) -> bool:
        """Whether the answer is whole now. Raises BrokenAnswer."""
        return self._read(self._held + data if self._held else data, at)

    def end(self) -> bool:
        """The connection ended: whether that makes the answer whole."""
        whole = self._read in (self._until_end, self._between)
        self._read, self.reusable = self._between, False
        return whole

    # --- the states: each takes all that is there, gives on what it may, and says whether the answer is whole -------

    def _between(self, _data: bytes, _at: float) -> bool:
        raise BrokenAnswer("bytes came that nobody asked for")

    def _head(self, data: bytes, at: float) -> bool:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise BrokenAnswer(f"the head is longer than {MAX_HEAD_BYTES} bytes")
            self._held = data
            return False
        self._held = b""
        minor, head = _parse_head(data[: end + 4])
        rest = data[end + 4 :]
        if head.status < 200:
            return self._head(rest, at) if rest else False
        headers = head.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise BrokenAnswer("the answer is compressed, though none was asked to be")
        self.reusable = minor == 1 and "close" not in headers.get("connection", "").lower()
        self._hear.on_head(head, at)
        if head.status in (204, 304):
            return self._whole(rest)
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise BrokenAnswer(f"the transfer encoding is {headers['transfer-encoding'][:40]!r}, not chunked")
            self._left, self._after_data, self._read = 0, False, self._chunks
        elif "content-length" in headers:
            self._left, self._read = _length(headers["content-length"]), self._sized
            return self._sized(rest, at)
        else:
            self._read, self.reusable = self._until_end, False
        return self._read(rest, at) if rest else False

    def _sized(self, data: bytes, at: float) -> bool:
        body, rest = data[: self._left], data[self._left :]
        self._left -= len(body)
        if body:
            self._hear.on_body(body, at)
        return self._whole(rest) if self._left == 0 else False

    def _until_end(self, data: bytes, at: float) -> bool:
        self._hear.on_body(data, at)
        return False

    def _chunks(self, data: bytes, at: float) -> bool:
        pieces, place, last = [], 0, False
        while place < len(data) and not last:
            if self._left:
                piece = data[place : place + self._left]
                pieces.append(piece)
                place += len(piece)
                self._left -= len(piece)
                self._after_data = not self._left
            elif self._after_data:
                line = data[place : place + 2]
                if not b"\r\n".startswith(line):
                    raise BrokenAnswer("a chunk is longer than it says")
                if len(line) < 2:
                    break
                place += 2
                self._after_data = False
            else:
                size = _CHUNK_SIZE.match(data, place)
                if size is None:
                    _refuse_endless_line(data, place, "a chunk does not begin with its size")
                    break
                place = size.end()
                self._left = int(size[1], 16)
                last = not self._left
        self._held = data[place:]
        if pieces:
            self._hear.on_body(pieces[0] if len(pieces) == 1 else b"".join(pieces), at)
        if not last:
            return False
        self._read, rest, self._held = self._trailers, self._held, b""
        return self._trailers(rest, at)

    def _trailers(self, data: bytes, _at: float) -> bool:
        place = 0
        while (end := data.find(b"\r\n", place)) >= 0:
            if end == place:
                return self._whole(data[end + 2 :])
            place = end + 2
        _refuse_endless_line(data, place, "a trailer does not end")
        self._held = data[place:]
        return False

    def _whole(self, rest: bytes) -> bool:
        # Whoever says more than he was asked is not asked again.
        self.reusable = self.reusable and not rest
        self._held, self._read = b"", self._between
        return True

    @property
    def _hear(self) -> Hears:
        assert self._hears is not None
        return self._hears


def _parse_head(data: bytes) -> tuple[int, Head]:
    line = _STATUS_LINE.match(data)
    if line is None:
        raise BrokenAnswer(f"the answer begins with {data[:40]!r}, which is not HTTP/1.1")
    headers: dict[str, str] = {}
    for field in data[line.end() :].split(b"\r\n"):
        name, colon, value = field.partition(b":")
        if colon:
            key, text = name.strip().lower().decode("latin-1"), value.strip().decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return int(line[1]), Head(int(line[2]), headers)


def _length(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise BrokenAnswer(f"the content length is {text[:40]!r}")
    return int(text)


def _refuse_endless_line(data: bytes, place: int, words: str) -> None:
    """A line that has not come whole yet is no fault, unless it cannot become right any more."""
    if len(data) - place > MAX_LINE_BYTES or b"\n" in data[place:]:
        raise BrokenAnswer(words)


class Connection(asyncio.BufferedProtocol):
    """One connection; it carries one exchange at a time."""

    def __init__(self) -> None:
        """Made by a `Pool`."""
        self._reader = AnswerReader()
        self._transport: asyncio.Transport | None = None
        self._whole: asyncio.Future[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it can still carry a request."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether it may carry another one, after an exchange."""
        return self.is_open and self._reader.reusable

    async def exchange(self, request: bytes, hears: Hears) -> None:
        """Sends, and tells `hears` the whole answer. Raises BrokenAnswer, ConnectionCut."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionCut("the connection was closed", began=False)
        self._whole = asyncio.get_running_loop().create_future()
        self._reader.begin(hears)
        self._transport.write(request)
        await self._whole

    def abort(self) -> None:
        """Closes at once, whatever is on its way."""
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio tells -------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Asyncio's transports of TCP and of TLS."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  # asyncio's own form
        """Where the next bytes go. One buffer serves all: each read is taken out of it before the next begins."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """The moment of arrival is now, before anything is made of the bytes."""
        at = time.perf_counter()
        try:
            whole = self._reader.feed(bytes(_BUFFER[:nbytes]), at)
        except BrokenAnswer as error:
            self._settle(error)
            self.abort()
            return
        if whole:
            self._settle(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended, by an error or not."""
        self._transport = None
        began = self._reader.began
        whole = self._reader.end()
        if whole:
            self._settle(None)
        else:
            reason = type(exc).__name__ if exc is not None else "closed"
            where = "in the middle of the answer" if began else "before the answer"
            self._settle(ConnectionCut(f"the connection ended {where} ({reason})", began=began))

    def _settle(self, error: Exception | None) -> None:
        future, self._whole = self._whole, None
        if future is None or future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)


class Pool:
    """Connections to one server: idle ones are used again, the latest first, and new ones are made as needed."""

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Connects when it is asked to."""
        self._host = host
        self._port = port
        self._tls = tls
        # A name is looked up once: afterwards every connection goes to the address that answered.
        self._address = host
        self._idle: list[Connection] = []
        self._all: set[Connection] = set()

    async def exchange(self, request: bytes, hears: Hears) -> None:
        """One exchange on any connection. Raises OSError if none can be made, BrokenAnswer, ConnectionCut."""
        connection, used = await self._take()
        try:
            try:
                await connection.exchange(request, hears)
            except ConnectionCut as cut:
                if not used or cut.began:
                    raise
                # The server closed an idle connection just as it was used again, which is its right.
                self._drop(connection)
                connection = await self._connect()
                await connection.exchange(request, hears)
        except BaseException:
            self._drop(connection)
            raise
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            self._drop(connection)

    def close(self) -> None:
        """Closes every connection at once."""
        for connection in list(self._all):
            self._drop(connection)
        self._idle.clear()

    async def _take(self) -> tuple[Connection, bool]:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection, True
            self._drop(connection)
        return await self._connect(), False

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        name = self._host if self._tls is not None else None
        transport, connection = await loop.create_connection(
            Connection, self._address, self._port, ssl=self._tls, server_hostname=name
        )
        self._address = transport.get_extra_info("peername")[0]
        self._all.add(connection)
        return connection

    def _drop(self, connection: Connection) -> None:
        self._all.discard(connection)
        connection.abort()
