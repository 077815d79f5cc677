"""The outermost layer: limits, ids, and an envelope for whatever happens."""

import asyncio
import json
import logging
import socket
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from ecocore.errors import InvalidParameter
from ecocore.server.error_table import BodyTooLarge, BodyTooSlow, EncodingUnsupported, ServerBusy
from ecocore.server.guard import HEADERS, LATE_HEADERS, BodyReader, Guard, Limits

HOST = (b"host", b"localhost:8000")


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("fine")(scope, receive, send)


def failing_with(error: Exception) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([HOST, *[(b"x-%d" % number, b"1") for number in range(99)]], 200),
        ([HOST, *[(b"x-%d" % number, b"1") for number in range(100)]], 431),
        ([HOST, (b"x", b"1" * 32_000)], 200),
        ([HOST, (b"x", b"1" * 33_000)], 431),
        ([HOST, (b"content-length", b"0"), (b"transfer-encoding", b"chunked")], 400),
        ([], 400),
        ([HOST, HOST], 400),
        ([(b"host", b"a/b")], 400),
        ([(b"host", b"a b")], 400),
        ([(b"host", b"user@host")], 400),
        ([(b"host", b"")], 400),
        ([(b"host", b"[::1]:8000")], 200),
        ([(b"host", b"api.example.com")], 200),
    ],
)
async def test_the_head_of_a_request_has_limits(exchange: Any, headers: list[tuple[bytes, bytes]], status: int) -> None:
    # The body ends at once, for those that announce one.
    answered = await exchange(Guard(fine, Limits()), headers=headers, body=[{"type": "http.request", "body": b""}])
    assert answered.status == status
    if status != 200:
        assert answered.error["type"] == "invalid_request_error"
        assert answered.headers["connection"] == "close"


@pytest.mark.parametrize("status", [200, 400])
async def test_who_stands_behind_may_add_headers_to_every_answer(exchange: Any, status: int) -> None:
    async def late() -> list[tuple[bytes, bytes]]:
        return [(b"x-late", b"2")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[HEADERS].append((b"x-early", b"1"))
        scope[LATE_HEADERS].append(late)
        if status == 400:
            raise InvalidParameter("n", "no")
        await fine(scope, receive, send)

    for _ in range(2):
        answered = await exchange(Guard(app, Limits()), headers=[HOST])
        assert answered.status == status
        assert [value for name, value in answered.messages[0]["headers"] if name in {b"x-early", b"x-late"}] == [b"1", b"2"]


async def test_a_path_has_a_limit(exchange: Any) -> None:
    assert (await exchange(Guard(fine, Limits()), path="/" + "a" * 8000)).status == 200
    assert (await exchange(Guard(fine, Limits()), path="/" + "a" * 8192)).status == 414
    assert (await exchange(Guard(fine, Limits()), query=b"a" * 8192)).status == 414


@pytest.mark.parametrize(
    ("target", "host", "told"),
    [
        ("http://localhost:8000/a/b%20c", b"localhost:8000", (200, "/a/b c /a/b%20c")),
        ("HTTPS://LocalHost:8000/a", b"localhost:8000", (200, "/a /a")),
        ("http://localhost", b"localhost", (200, "/ /")),
        ("http://elsewhere/a", b"localhost", (400, None)),
        ("http://localhost:1/a", b"localhost", (400, None)),
        ("http://user@localhost/a", b"localhost", (400, None)),
        ("http:///a", b"localhost", (400, None)),
        ("/http://localhost/a", b"localhost", (200, "/http://localhost/a /http://localhost/a")),
    ],
)
async def test_an_absolute_url_is_its_path_if_it_names_this_host(exchange: Any, target: str, host: bytes, told: Any) -> None:
    async def paths(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(f"{scope['path']} {scope['raw_path'].decode()}")(scope, receive, send)

    answered = await exchange(Guard(paths, Limits()), path=target, headers=[(b"host", host)])
    assert (answered.status, answered.body.decode() if answered.status == 200 else None) == told


async def test_a_websocket_is_closed() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Guard(fine, Limits())({"type": "websocket"}, send, send)  # type: ignore[arg-type]
    assert sent == [{"type": "websocket.close", "code": 1008}]


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [(b"abc-1.2_3", True), (b"a" * 64, True), (b"a" * 65, False), (b"a b", False), (b"<b>", False), (b"", False)],
)
async def test_a_request_id_is_kept_if_it_is_short_and_plain(exchange: Any, theirs: bytes, *, kept: bool) -> None:
    answered = await exchange(Guard(fine, Limits()), headers=[HOST, (b"x-request-id", theirs)])
    assert (answered.headers["x-request-id"] == theirs.decode()) is kept
    assert answered.headers["x-request-id"]
    assert int(answered.headers["openai-processing-ms"]) >= 0


async def test_a_bug_tells_the_log_and_not_the_client(exchange: Any, caplog: pytest.LogCaptureFixture) -> None:
    answered = await exchange(Guard(failing_with(KeyError("/secret/path")), Limits()), headers=[HOST, (b"x-request-id", b"r1")])
    assert answered.status == 500
    assert answered.error["type"] == "server_error"
    assert "secret" not in answered.body.decode()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "r1" in record.getMessage()
    assert record.exc_info is not None


async def test_our_own_errors_are_told_and_not_logged(exchange: Any, caplog: pytest.LogCaptureFixture) -> None:
    answered = await exchange(Guard(failing_with(InvalidParameter("top_p", "must be between 0 and 1")), Limits()))
    assert (answered.status, answered.error["param"]) == (400, "top_p")
    assert caplog.records == []


async def test_a_client_that_leaves_is_no_error(exchange: Any, caplog: pytest.LogCaptureFixture) -> None:
    answered = await exchange(Guard(failing_with(ClientDisconnect()), Limits()))
    assert (answered.messages, caplog.records) == ([], [])


async def test_an_error_after_the_status_ends_the_answer_without_its_last_piece(
    exchange: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError

    answered = await exchange(Guard(app, Limits()))
    assert [message.get("more_body") for message in answered.messages] == [None, True]
    assert len(caplog.records) == 1


async def test_an_answer_before_the_body_waits_for_the_client_to_read_it(exchange: Any) -> None:
    pieces = [{"type": "http.request", "body": b"x" * 1000, "more_body": number < 29} for number in range(30)]
    left = iter(pieces)
    headers = [HOST, (b"content-length", b"30000")]
    answered = await exchange(Guard(fine, Limits()), headers=headers, body=left)
    assert answered.headers["connection"] == "close"
    assert [message.get("more_body") for message in answered.messages] == [None, True, False]
    assert answered.body == b"fine"
    assert list(left) == []


def receiving(*messages: Message) -> Receive:
    left = iter(messages)

    async def receive() -> Message:
        for message in left:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def piece(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def scope(*headers: tuple[bytes, bytes]) -> Scope:
    return {"type": "http", "headers": list(headers)}


async def test_a_body_is_joined() -> None:
    async with BodyReader(Limits()).read(scope(), receiving(piece(b"a", more=True), piece(b"b"))) as body:
        assert body == b"ab"


async def test_a_body_too_large_is_refused_by_its_header_before_it_is_read() -> None:
    with pytest.raises(BodyTooLarge, match=r"at most 4194304 bytes \(4 MiB\)"):
        async with BodyReader(Limits()).read(scope((b"content-length", b"4194305")), receiving()):
            pass


async def test_a_body_too_large_is_refused_by_counting() -> None:
    pieces = [piece(b"x" * 1000, more=True)] * 20
    with pytest.raises(BodyTooLarge):
        async with BodyReader(Limits(body_bytes=10_000)).read(scope(), receiving(*pieces)):
            pass


async def test_a_slow_body_is_refused() -> None:
    with pytest.raises(BodyTooSlow):
        async with BodyReader(Limits(body_seconds=0.01)).read(scope(), receiving(piece(b"{", more=True))):
            pass


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"deflate", b"identity, gzip"])
async def test_a_compressed_body_is_refused(encoding: bytes) -> None:
    with pytest.raises(EncodingUnsupported):
        async with BodyReader(Limits()).read(scope((b"content-encoding", encoding)), receiving()):
            pass


async def test_a_client_that_leaves_during_its_body_is_told_apart() -> None:
    with pytest.raises(ClientDisconnect):
        async with BodyReader(Limits()).read(scope(), receiving(piece(b"{", more=True), {"type": "http.disconnect"})):
            pass


async def test_large_bodies_share_their_room_and_small_ones_always_pass() -> None:
    bodies = BodyReader(Limits(small_body_bytes=10, large_bodies_bytes=100))
    large, small = piece(b"x" * 60), piece(b"x" * 10)
    async with bodies.read(scope(), receiving(large)):
        with pytest.raises(ServerBusy):
            async with bodies.read(scope(), receiving(large)):
                pass
        async with bodies.read(scope(), receiving(small)) as body:
            assert len(body) == 10
    async with bodies.read(scope(), receiving(large)) as body:
        assert len(body) == 60


async def test_what_fails_inside_a_body_is_not_called_slow() -> None:
    with pytest.raises(TimeoutError):
        async with BodyReader(Limits()).read(scope(), receiving(piece(b"{}"))):
            raise TimeoutError


async def test_every_error_is_json(exchange: Any) -> None:
    answered = await exchange(Guard(failing_with(InvalidParameter("x", "\0\n\u2028" * 3000)), Limits()))
    assert json.loads(answered.body)["error"]["message"].startswith("x: ")
    assert len(answered.body) <= 4000


def test_an_absolute_url_reaches_its_route(live: Any) -> None:
    host = f"127.0.0.1:{live.port}"
    for authority, status in ((host, b"200"), ("elsewhere", b"400")):
        with socket.create_connection(("127.0.0.1", live.port), timeout=10) as connection:
            head = f"GET http://{authority}/health?x=1 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            connection.sendall(head.encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.split(b" ", 2)[1] == status
