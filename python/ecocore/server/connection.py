"""Connections: Hypercorn's, with the habits changed that this server cannot live with. Its insides are known here alone.

Takes sockets' bytes, gives requests to the application and its answers back. Hypercorn misses a client's leaving while
another request waits on the connection, it waits for ever on a reader that stalls, and its own refusals have no body.
See docs/http-server.md.
"""

import asyncio
import socket
from http import HTTPStatus
from typing import Any, Final

import h11
import hypercorn.asyncio.run
import hypercorn.protocol
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Event
from hypercorn.protocol.h11 import H11Protocol

from ecocore.server.error_table import ApiError
from ecocore.server.guard import fresh_request_id
from ecocore.server.wire import error_body

MAX_CONNECTIONS: Final = 4096
WRITE_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 5.0
MAX_PIPELINED_BYTES: Final = 64 * 1024


def adapt_hypercorn() -> None:
    """From here on Hypercorn's connections are these."""
    # There is no setting for it; the tests of pipelining and of stalled readers tell if the names move.
    vars(hypercorn.asyncio.run)["TCPServer"] = Connection
    vars(hypercorn.protocol)["H11Protocol"] = Http1


class Connection(TCPServer):
    """A connection that ends, whatever its client does: a write and the last flush have a deadline."""

    _open = 0

    async def run(self) -> None:
        """Serves until the end of the connection."""
        if Connection._open >= MAX_CONNECTIONS and not self._is_from_the_server():
            self.writer.transport.abort()
            return
        Connection._open += 1
        try:
            await super().run()
        finally:
            Connection._open -= 1

    def _is_from_the_server(self) -> bool:
        """An engine's socket: its server bounds the clients, and one that it cannot ask for a sign of life it kills."""
        return bool(self.writer.get_extra_info("socket").family == socket.AF_UNIX)

    async def _read_data(self) -> None:
        await super()._read_data()
        # The client has closed: Hypercorn would hold the connection until its time for the next request is over.
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        """Hypercorn's protocol has bytes to send, or news of the connection."""
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await super().protocol_send(event)
        except TimeoutError:
            self.writer.transport.abort()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await super()._close()
        except TimeoutError:
            pass
        finally:
            self.writer.transport.abort()


class Http1(H11Protocol):
    """HTTP/1.1 and nothing else, read without pause.

    Hypercorn stops reading when a second request arrives before the first is answered, and so does not see the
    client go. Here the bytes wait in h11's buffer, up to a bound, until their turn comes.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.connection = _Unpaused(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)
        self._parsing = asyncio.Lock()

    async def _handle_events(self) -> None:
        async with self._parsing:
            await super()._handle_events()

    async def _maybe_recycle(self) -> None:
        await super()._maybe_recycle()
        if self.connection.their_state is h11.IDLE and self.connection.trailing_data[0]:
            self.task_group.spawn(self._handle_events)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Changes to HTTP/2 for nobody: its limits would be others, and a proxy in front speaks it better."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Changes to WebSockets for nobody: who asks is answered as if he had not."""
        if any(name == b"upgrade" for name, _ in request.headers):
            kept = [(name, value) for name, value in request.headers if name != b"upgrade"]
            request = h11.Request(method=request.method, target=request.target, headers=kept, http_version=request.http_version)
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        # A transfer coding that h11 does not know is its 501, which clients would retry: it is their mistake.
        status_code = status_code if status_code < 500 else 400
        phrase = HTTPStatus(status_code).phrase
        body = error_body(ApiError(status_code, "invalid_request_error", None, f"this is no valid HTTP/1.1 request ({phrase})"))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"x-request-id", fresh_request_id().encode()),
            (b"openai-processing-ms", b"0"),
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class _Unpaused(h11.Connection):
    """Says that it needs data where h11 says that it pauses."""

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            _refuse_loose_lines(self.trailing_data[0])
        event = super().next_event()
        if event is not h11.PAUSED:
            return event
        if len(self.trailing_data[0]) > MAX_PIPELINED_BYTES:
            raise h11.RemoteProtocolError("too much is sent before the answer")
        return h11.NEED_DATA


def _refuse_loose_lines(received: bytes) -> None:
    """Lines of a head end with CR LF and are not folded.

    h11 takes a bare LF for an end of a line and joins folded lines. A proxy in front may not, and would then see other
    headers than we: lengths among them.
    """
    head = received.partition(b"\r\n\r\n")[0]
    if head.count(b"\n") != head.count(b"\r\n") or b"\n " in head or b"\n\t" in head:
        raise h11.RemoteProtocolError("a line of the head is folded, or ends without CR LF")
