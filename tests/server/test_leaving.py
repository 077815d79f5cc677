"""Clients that leave, stall or dawdle: their work ends, and nobody else notices."""

import contextlib
import os
import select
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ecocore.server import connection as connection_module
from ecocore.server import serve
from ecocore.server.connection import Connection
from ecocore.server.guard import Limits
from ecocore.server.wire import Pace


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def close(connection: socket.socket) -> None:
    connection.close()


def close_one_half(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [reset, close, close_one_half])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("pipelined", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["alone", "pipelined"])
def test_who_leaves_frees_the_engine(
    slow: Any, leave: Callable[[socket.socket], None], *, stream: bool, pipelined: bytes
) -> None:
    connection = slow.raw(slow.raw_chat(stream=stream) + pipelined)
    assert slow.becomes_busy()
    if stream:
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    leave(connection)
    assert slow.becomes_idle(1.0)
    connection.close()


def test_who_waits_in_line_may_leave_too(slow: Any) -> None:
    """More than the engine runs at once: some are still queued when their clients go."""
    connections = [slow.raw(slow.raw_chat()) for _ in range(100)]
    assert slow.becomes_busy(100)
    for connection in connections:
        connection.close()
    assert slow.becomes_idle(2.0)


def test_pipelined_requests_are_answered_in_their_order(live: Any) -> None:
    ask = live.raw_chat(max_tokens=2)
    health = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    connection = live.raw(ask + health + ask[:40], ask[40:] + last)
    answers = everything(connection).split(b"HTTP/1.1 ")[1:]
    assert [
        b"chat.completion" in answers[0],
        b"alive" in answers[1],
        b"chat.completion" in answers[2],
        b"ready" in answers[3],
    ] == [True] * 4
    assert len(answers) == 4


def test_who_pipelines_without_end_is_cut_off(slow: Any) -> None:
    connection = slow.raw(slow.raw_chat())
    assert slow.becomes_busy()
    endless = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000
    with pytest.raises(ConnectionError):
        connection.sendall(endless)
    assert slow.becomes_idle(1.0)
    connection.close()


@pytest.fixture
def stalled(serving_with: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, socket.socket]]:
    """A client that asks for a long stream and reads none of it."""
    monkeypatch.setattr(connection_module, "WRITE_SECONDS", 0.3)
    monkeypatch.setattr(connection_module, "CLOSE_SECONDS", 0.3)
    with serving_with(pace=Pace(buffer_bytes=64 * 1024), context_length=65536) as live, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", live.port))
        connection.sendall(live.raw_chat(stream=True, logprobs=True, top_logprobs=20, max_tokens=60_000))
        assert live.becomes_busy()
        yield live, connection


def test_a_reader_that_stalls_frees_the_engine_once_too_much_has_gathered(stalled: tuple[Any, socket.socket]) -> None:
    live, connection = stalled
    assert live.becomes_idle(20)
    assert b"[DONE]" not in everything(connection)
    assert live.chat(max_tokens=1).status_code == 200


def test_a_reader_that_stalls_does_not_hold_its_connection(stalled: tuple[Any, socket.socket]) -> None:
    live, connection = stalled
    server_ends = [number for number in range(4096) if _peer(number) == connection.getsockname()]
    assert len(server_ends) == 1
    assert live.eventually(lambda: _peer(server_ends[0]) != connection.getsockname(), 20)


def _peer(number: int) -> object:
    """Who is at the other end of an open file, if it is a connection."""
    try:
        if not stat.S_ISSOCK(os.fstat(number).st_mode):
            return None
        with socket.socket(fileno=os.dup(number)) as copy:
            return copy.getpeername()
    except OSError:
        return None


def test_a_body_that_dawdles_gets_a_408(serving_with: Any) -> None:
    with serving_with(limits=Limits(body_seconds=0.1)) as live:
        connection = live.raw(live.raw_chat()[:-5])
        answer = everything(connection)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b'"invalid_request_error"' in answer


def test_a_head_that_dawdles_is_cut_off(serving_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "KEEP_ALIVE_SECONDS", 0.1)
    with serving_with() as live:
        assert everything(live.raw(b"GET /health HTTP/1.1\r\nHost: ")) == b""


def test_refused_bodies_leave_nothing_behind(live: Any) -> None:
    """A server that does not read on after its answer would wait for ever on each of these."""
    before = threading.active_count()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    for _ in range(20):
        connection = live.raw(head, *[b"1\r\nx\r\n"] * 50)
        assert b"HTTP/1.1 401" in connection.recv(1000)
        connection.close()
    assert httpx.get(f"{live.url}/health").status_code == 200
    assert threading.active_count() <= before


def test_length_and_chunks_together_do_not_smuggle_a_request(live: Any) -> None:
    hidden = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = everything(live.raw(head + b"0\r\n\r\n" + hidden))
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"alive" not in answer
    assert answer.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000, 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x/y\r\n\r\n", 400),
    ],
)
def test_broken_http_gets_the_envelope_too(live: Any, sent: bytes, status: int) -> None:
    connection = live.raw()
    with contextlib.suppress(ConnectionError):
        connection.sendall(sent)
    answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 %d" % status)
    assert answer.partition(b"\r\n\r\n")[2].startswith(b'{"error": {"message"')


def test_an_upgrade_to_http2_is_not_taken(live: Any) -> None:
    sent = (
        b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
    )
    connection = live.raw(sent)
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()


def test_a_websocket_is_turned_away(live: Any) -> None:
    sent = (
        b"GET /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    assert everything(live.raw(sent)).startswith(b"HTTP/1.1 405")


def test_a_silent_stream_gets_comments_and_clients_skip_them(serving_with: Any) -> None:
    with serving_with(tokens_per_second=4, pace=Pace(ping_seconds=0.05, tick_seconds=0.02)) as live:
        response = live.chat(stream=True, max_tokens=3)
        assert ": ping\n\n" in response.text
        with live.client() as client:
            chunks = list(
                client.chat.completions.create(
                    model="some-maker/some-model",
                    messages=[{"role": "user", "content": "x"}],
                    temperature=0,
                    max_tokens=3,
                    stream=True,
                )
            )
        assert chunks[-1].choices[0].finish_reason == "length"


def test_an_answer_has_a_deadline(serving_with: Any) -> None:
    with serving_with(tokens_per_second=20, pace=Pace(answer_seconds=0.3, tick_seconds=0.02)) as live:
        plain = live.chat()
        assert plain.status_code == 503
        assert plain.json()["error"]["code"] == "overloaded"
        stream = live.chat(stream=True)
        assert stream.status_code == 200
        assert '"error"' in stream.text.split("\n\n")[-2]
        assert "[DONE]" not in stream.text


def everything(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    received = b""
    try:
        while select.select([connection], [], [], 20)[0] and (piece := connection.recv(65536)):
            received += piece
    except ConnectionError:
        pass
    finally:
        connection.close()
    return received


def test_a_connection_that_its_client_closed_is_let_go_at_once(live: Any) -> None:
    """Not only after its time for a next request, which is twice as long as the test waits."""
    assert live.eventually(lambda: Connection._open == 0, 20)
    with live.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        assert Connection._open == 1
    assert live.eventually(lambda: Connection._open == 0, serve.KEEP_ALIVE_SECONDS / 2)
