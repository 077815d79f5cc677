"""The client's reading of HTTP/1.1: wherever the bytes are cut, and as h11 reads them."""

import asyncio
import ssl
from itertools import pairwise

import h11
import pytest
import trustme
from tests.bench.fake_server import END, STREAM_HEAD, Asked, chunk, fake, plain, until

from ecocore.bench.http1 import AnswerReader, BrokenAnswer, ConnectionCut, Head, Pool


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self.body = b""
        self.times: list[float] = []

    def on_head(self, head: Head, at: float) -> None:
        self.heads.append(head)
        self.times.append(at)

    def on_body(self, data: bytes, at: float) -> None:
        assert data
        self.body += data
        self.times.append(at)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
ANSWERS = {
    "chunks": CHUNKED + b"5\r\nhello\r\nB\r\n, big world\r\n0\r\n\r\n",
    "extensions": CHUNKED + b'5;name=value\r\nhello\r\n00b;q="a b"\r\n, big world\r\n0;last\r\n\r\n',
    "trailers": CHUNKED + b"10\r\nhello, big world\r\n0\r\nX-Sum: 7\r\nX-More: 1\r\n\r\n",
    "line ends in chunks": CHUNKED + b"10\r\nhello\r\n\r\n0\r\n\r\nab\r\n0\r\n\r\n",
    "a length": HEAD + b"content-length: 16\r\n\r\nhello, big world",
    "no body": HEAD + b"Content-Length: 0\r\n\r\n",
    "until the end": HEAD + b"\r\nhello, big world",
    "an interim answer": b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + b"Content-Length: 16\r\n\r\nhello, big world",
    "no reason": b"HTTP/1.1 503\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}",
    "a repeated header": HEAD + b"X-A: 1\r\nx-a:2\r\nContent-Length: 0\r\n\r\n",
}


def read(pieces: list[bytes]) -> tuple[Heard, bool]:
    """What is heard of one answer, and whether it was whole."""
    heard, reader = Heard(), AnswerReader()
    reader.begin(heard)
    whole = False
    for number, piece in enumerate(pieces):
        assert not whole
        whole = reader.feed(piece, float(number))
    return heard, whole or reader.end()


def as_h11_reads(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(answer)
    status, body = 0, b""
    headers: dict[str, str] = {}
    while True:
        told = connection.next_event()
        if isinstance(told, h11.Response):
            status = told.status_code
            for name, value in told.headers:
                key, text = name.decode(), value.decode()
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
        elif isinstance(told, h11.Data):
            body += bytes(told.data)
        elif told is h11.NEED_DATA:
            connection.receive_data(b"")
        elif isinstance(told, h11.EndOfMessage):
            return status, headers, body


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_read_as_h11_reads_it_wherever_it_is_cut(answer: bytes) -> None:
    status, headers, body = as_h11_reads(answer)
    cuts = [[answer], [bytes([byte]) for byte in answer], *([answer[:place], answer[place:]] for place in range(1, len(answer)))]
    cuts += [[answer[a:b] for a, b in pairwise((*range(0, len(answer), step), len(answer)))] for step in (2, 3, 7)]
    for pieces in cuts:
        heard, whole = read(pieces)
        assert whole
        assert [(head.status, dict(head.headers)) for head in heard.heads] == [(status, headers)]
        assert heard.body == body


@pytest.mark.parametrize("name", [name for name in ANSWERS if name != "until the end"])
def test_an_answer_that_ends_early_is_not_whole(name: str) -> None:
    answer = ANSWERS[name]
    for length in range(len(answer)):
        _, whole = read([answer[:length]])
        assert not whole


def test_the_time_of_a_piece_is_that_of_the_read_that_brought_it() -> None:
    heard, _ = read([CHUNKED, b"2\r\nab\r\n2\r\ncd\r\n3\r\ne", b"fg\r\n", b"1\r\nh\r\n0\r\n\r\n"])
    assert heard.times == [0.0, 1.0, 2.0, 3.0]
    assert heard.body == b"abcdefgh"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "is not HTTP/1.1"),
        (b"HTTP/2 200\r\n\r\n", "is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "the head is longer"),
        (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "compressed"),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "not chunked"),
        (HEAD + b"Content-Length: -1\r\n\r\n", "content length"),
        (HEAD + b"Content-Length: 1, 2\r\n\r\n", "content length"),
        (CHUNKED + b"xyz\r\n", "does not begin with its size"),
        (CHUNKED + b"0x5\r\nhello\r\n", "does not begin with its size"),
        (CHUNKED + b"1_0\r\n", "does not begin with its size"),
        (CHUNKED + b"5;" + b"x" * 5000, "does not begin with its size"),
        (CHUNKED + b"5\r\nhello!\r\n", "longer than it says"),
        (CHUNKED + b"0\r\nX: " + b"x" * 5000, "does not end"),
    ],
)
def test_what_is_no_answer_is_told_so(answer: bytes, words: str) -> None:
    size = max(1, len(answer) // 100)
    for pieces in ([answer], [answer[place : place + size] for place in range(0, len(answer), size)]):
        with pytest.raises(BrokenAnswer, match=words):
            read(pieces)


def test_a_reader_takes_the_next_answer_only_when_it_was_asked_for() -> None:
    reader = AnswerReader()
    for _ in range(2):
        heard = Heard()
        reader.begin(heard)
        assert reader.feed(ANSWERS["chunks"], 0.0)
        assert reader.reusable
        assert heard.body == b"hello, big world"
    with pytest.raises(BrokenAnswer, match="nobody asked for"):
        reader.feed(b"HTTP/1.1 200 OK\r\n\r\n", 0.0)


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        ANSWERS["chunks"] + b"HTTP/1.1 200 OK\r\n",
    ],
)
def test_such_a_connection_is_not_used_again(answer: bytes) -> None:
    reader = AnswerReader()
    reader.begin(Heard())
    assert reader.feed(answer, 0.0)
    assert not reader.reusable


# --- connections ----------------------------------------------------------------------------------------


def pool_of(url: str, tls: ssl.SSLContext | None = None) -> Pool:
    host, _, port = url.rpartition("//")[2].partition(":")
    return Pool(host, int(port), tls)


async def test_a_connection_is_used_again_and_pieces_arrive_one_after_another() -> None:
    go_on = asyncio.Event()

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(b"first"))
        await go_on.wait()
        writer.write(chunk(b" second") + END)

    async with fake(answer) as server:
        pool = pool_of(server.url)
        for _ in range(2):
            heard = Heard()
            go_on.clear()
            exchange = asyncio.create_task(pool.exchange(b"GET / HTTP/1.1\r\n\r\n", heard))
            await until(lambda heard=heard: heard.body == b"first")  # type: ignore[misc]
            go_on.set()
            await exchange
            assert heard.body == b"first second"
            assert heard.times[-1] > heard.times[0]
        assert server.connections == 1
        pool.close()


async def test_a_closed_idle_connection_is_replaced_without_a_word() -> None:
    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        # It says that the connection lives on, and closes it all the same.
        writer.write(plain(200, "yes"))
        await writer.drain()
        writer.close()

    async with fake(answer) as server:
        pool = pool_of(server.url)
        for count in range(1, 4):
            heard = Heard()
            await pool.exchange(b"GET / HTTP/1.1\r\n\r\n", heard)
            assert heard.body == b'"yes"'
            assert server.connections == count
        pool.close()


async def test_a_cut_answer_is_not_asked_for_again() -> None:
    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(b"half"))
        await writer.drain()
        writer.transport.abort()

    async with fake(answer) as server:
        pool, heard = pool_of(server.url), Heard()
        with pytest.raises(ConnectionCut, match="in the middle of the answer") as raised:
            await pool.exchange(b"GET / HTTP/1.1\r\n\r\n", heard)
        assert raised.value.began
        assert (len(server.asked), server.connections) == (1, 1)


async def test_a_cancelled_exchange_closes_its_connection() -> None:
    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)

    async with fake(answer) as server:
        pool, heard = pool_of(server.url), Heard()
        exchange = asyncio.create_task(pool.exchange(b"GET / HTTP/1.1\r\n\r\n", heard))
        await until(lambda: bool(heard.heads))
        exchange.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange
        await until(lambda: server.open == 0)


async def test_tls_is_spoken_and_a_stranger_is_refused() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in (STREAM_HEAD, chunk(b"in "), chunk(b"secret"), END):
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    trusting = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await Pool("localhost", port, trusting).exchange(b"GET / HTTP/1.1\r\n\r\n", Heard())
    authority.configure_trust(trusting)
    pool, heard = Pool("localhost", port, trusting), Heard()
    await pool.exchange(b"GET / HTTP/1.1\r\n\r\n", heard)
    assert heard.body == b"in secret"
    pool.close()
    server.close()
