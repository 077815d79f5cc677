"""Requests that break HTTP, or that two readers of HTTP would take apart differently."""

import random

import pytest
from tests.abuse.server import MODEL
from tests.abuse.target import Target, chat_body, statuses

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1",
        b"GET /nowhere HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET / http/1.1\r\nHost: x\r\n\r\n",
        b"GET  /health  HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /hea lth HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G\xc3\x89T / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"a" * 200 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /health HTTP/1.1\r\n: x\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n folded: at the start\r\n\r\n"[:22] + b" x\r\n\r\n",
        b"GET " + b"/a" * 50_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"A" * 200_000,
        b"GET /health HTTP/1.1\r\n" + b"A" * 200_000,
    ],
)
def test_what_is_no_http_is_refused(target: Target, data: bytes) -> None:
    """Some of it is no end of a head: then the connection is closed when the time for a head is over."""
    answers = target.exchange(data)
    assert all(answer.status in (400, 404, 414, 431) for answer in answers)
    assert len(answers) <= 1


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5, 6"],
        ["Content-Length: +5"],
        ["Content-Length: -1"],
        ["Content-Length: 0x5"],
        ["Content-Length: 5 "[:-1] + "a"],
        ["Content-Length: "],
        ["Content-Length: 99999999999999999999999"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding : chunked"],
        ["Transfer-Encoding:\x0bchunked"],
        ["Transfer-Encoding:\n chunked"],
        ["X: y\nTransfer-Encoding: chunked"],
    ],
)
def test_smuggled_lengths_never_make_two_requests_of_one(target: Target, lines: list[str]) -> None:
    """Behind the head stands what one reader takes for a body and another for a request that needs no key."""
    hidden = b"0\r\n\r\n" + HEALTH
    answers = target.exchange(target.head("POST", "/v1/chat/completions", *lines) + b"\r\n" + hidden, answers=2)
    assert len(answers) == 1
    assert 400 <= answers[0].status < 500
    assert answers[0].headers["connection"] == "close"


@pytest.mark.parametrize(
    "chunks",
    [
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nA b: c\r\n\r\n",
        b"FFFFFFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_broken_chunks_end_the_connection(target: Target, chunks: bytes) -> None:
    head = target.head("POST", "/v1/chat/completions", "Transfer-Encoding: chunked") + b"\r\n"
    answers = target.exchange(head + chunks + HEALTH, answers=2)
    assert len(answers) <= 1
    assert all(400 <= status < 500 for status in statuses(answers))


def test_odd_chunks_are_the_body_they_say(target: Target) -> None:
    head = target.head("POST", "/v1/chat/completions", "Transfer-Encoding: chunked", "Content_Length: 500") + b"\r\n"
    for chunks in (b"5;" + b"a" * 30_000 + b"\r\nhello\r\n0\r\n\r\n", b"0005\r\nhello\r\n000\r\nTrailer: x\r\n\r\n"):
        answers = target.exchange(head + chunks + HEALTH, answers=2)
        assert statuses(answers) == [400, 200]


def test_many_tiny_chunks_are_one_body(target: Target) -> None:
    body = target.request(chat_body()).partition(b"\r\n\r\n")[2]
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = target.head("POST", "/v1/chat/completions", "Transfer-Encoding: chunked") + b"\r\n"
    assert statuses(target.exchange(head + chunks)) == [200]
    filler = b"1\r\n \r\n" * 200_000 + b"0\r\n\r\n"
    assert statuses(target.exchange(head + filler)) in ([400], [408])


def test_folded_header_lines_are_not_another_header(target: Target) -> None:
    answers = target.exchange(
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: y\r\n Authorization: Bearer " + target.key.encode() + b"\r\n\r\n"
    )
    assert statuses(answers) in ([400], [401])


@pytest.mark.parametrize(
    ("number", "size", "status"),
    [(90, 10, 200), (97, 10, 200), (200, 10, 431), (5000, 1, 431), (3, 12_000, 431), (1, 70_000, 431)],
)
def test_headers_are_bounded(target: Target, number: int, size: int, status: int) -> None:
    lines = [f"x-{index}: {'a' * size}" for index in range(number)]
    answers = target.exchange(target.head("GET", "/v1/models", *lines) + b"\r\n")
    assert statuses(answers) == [status]


@pytest.mark.parametrize(("length", "status"), [(8000, 404), (9000, 414), (40_000, 414)])
def test_a_path_is_bounded(target: Target, length: int, status: int) -> None:
    for path in ("/" + "a" * length, "/nowhere?" + "a" * length, "/" + "%41" * (length // 3)):
        assert statuses(target.exchange(target.head("GET", path) + b"\r\n")) == [status]


# --- who may pass: CVE-2026-48710 and its kin --------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "x/health",
            "x/health?",
            "x#",
            "x\\health",
            "a b",
            "a\tb",
            "user@x",
            "x:99999999",
            "x:port",
            "[::1",
            "]",
            "é",
            "x\0",
            "x;/health",
        ),
        *("/health", "http://x/health", "x,x", "x%2fhealth", "<script>"),
    ],
)
def test_a_host_that_is_none_opens_nothing(target: Target, host: str) -> None:
    request = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
    assert statuses(target.exchange(request)) == [400]


def test_no_host_and_two_hosts_are_refused(target: Target) -> None:
    for hosts in (b"", b"Host: x\r\nHost: x\r\n", b"Host: x\r\nhost: y\r\n"):
        assert statuses(target.exchange(b"GET /v1/models HTTP/1.1\r\n" + hosts + b"\r\n")) == [400]


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/v1/models",
            "/v1/models/",
            "//v1/models",
            "/v1//models",
            "/health/../v1/models",
            "/v1/models/../models",
            "/health/%2e%2e/v1/models",
        ),
        *(
            "/v1/models%00",
            "/v1/models;x=/health",
            "/v1/models?/health",
            "/V1/MODELS",
            "/v1%2fmodels",
            "/%76%31/models",
            "http://x/v1/models",
        ),
        *(
            "http://x/health/../v1/models",
            "/health%2f..%2fv1/models",
            f"/v1/models/{MODEL}",
            "/v1/models/x/../..",
            "*",
            "x",
            "?",
            "#",
        ),
        *("/v1/keys", "/admin", "/metrics/../v1/models", "/docs/../v1/models", "/.env", "/v1/models/%ff%fe"),
    ],
)
def test_without_a_key_no_spelling_of_a_path_shows_a_model(target: Target, path: str) -> None:
    for headers in (
        "",
        "X-Original-URL: /health\r\nX-Rewrite-URL: /health\r\nX-Forwarded-Host: x/health\r\nX-Forwarded-Prefix: /health\r\n",
    ):
        (answer,) = target.exchange(f"GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode("latin-1"))
        assert answer.status in (400, 401, 404)
        assert MODEL.encode() not in answer.body


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD", "GET", "CONNECT", "PROPFIND", "get", "X" * 1000]
)
def test_a_method_that_is_not_taken_is_told(target: Target, method: str) -> None:
    with target.connect() as connection:
        connection.sendall(target.head(method, "/v1/chat/completions", "X-HTTP-Method-Override: POST") + b"\r\n")
        first = connection.recv(12)
    assert first in (b"HTTP/1.1 405", b"HTTP/1.1 400")


# --- other protocols: CVE-2023-44487 has no door here ----------------------------------------------------


def test_http2_is_not_spoken_in_clear(target: Target) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"
    resets = b"".join(b"\0\0\x04\x03\0" + number.to_bytes(4) + b"\0\0\0\x08" for number in range(1, 2000, 2))
    answers = target.exchange(preface + resets)
    assert all(status in (400, 404, 405) for status in statuses(answers))
    upgrade = target.head(
        "GET", "/v1/models", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
    )
    (answer,) = target.exchange(upgrade + b"\r\n")
    assert (answer.status, "upgrade" in answer.headers) == (200, False)


def test_websockets_are_not_opened(target: Target) -> None:
    lines = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]
    answers = target.exchange(target.head("GET", "/v1/chat/completions", *lines) + b"\r\n")
    assert statuses(answers) == [405]


def test_who_expects_a_continue_gets_one_answer(target: Target) -> None:
    with target.connect() as connection:
        body = target.request(chat_body()).partition(b"\r\n\r\n")[2]
        connection.sendall(
            target.head("POST", "/v1/chat/completions", f"Content-Length: {len(body)}", "Expect: 100-continue") + b"\r\n"
        )
        told = connection.makefile("rb")
        assert told.readline().startswith(b"HTTP/1.1 100")
        while told.readline() != b"\r\n":
            pass
        answers = target.read(connection, body)
    assert statuses(answers)[-1] == 200
    assert target.exchange(target.head("POST", "/v1/chat/completions", "Content-Length: 2", "Expect: the-unexpected") + b"\r\n{}")


# --- chance ----------------------------------------------------------------------------------------------


def test_changed_bytes_never_make_more_than_a_refusal(target: Target) -> None:
    chance = random.Random(4)
    whole = target.request(chat_body())
    seen: set[int] = set()
    for _ in range(250):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(changed))
            match chance.randrange(3):
                case 0:
                    changed[at] = chance.randrange(256)
                case 1:
                    changed[at : at + chance.randint(1, 20)] = b""
                case _:
                    changed[at:at] = chance.randbytes(chance.randint(1, 20))
        # The end is there in any case, so that no test waits for a deadline.
        answers = target.exchange(bytes(changed) + b"\r\n\r\n" + b" " * 300 + b"\r\n\r\n")
        seen.update(statuses(answers))
    assert seen <= {200, 400, 401, 404, 405, 408, 413, 414, 415, 431}
    assert {400, 401} <= seen
