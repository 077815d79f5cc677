"""Clients that are slow, silent, half gone, or in a hurry. The deadlines are the server's own, set short in conftest."""

import select
import socket
import struct
import time

import pytest
from tests.abuse.server import PACED
from tests.abuse.target import Target, chat_body, statuses

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


def dribbled(connection: socket.socket, data: bytes, seconds: float) -> float:
    """Sends byte after byte until the server has had enough; the time that took."""
    connection.settimeout(0.05)
    begun = time.monotonic()
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
            if connection.recv(65536) == b"":
                break
        except TimeoutError:
            pass
        except ConnectionError:
            break
        if time.monotonic() - begun > seconds:
            break
    return time.monotonic() - begun


@pytest.mark.parametrize("start", [b"", b"G", b"GET /health HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_head_that_does_not_come_ends_the_connection(target: Target, start: bytes) -> None:
    with target.connect() as connection:
        begun = time.monotonic()
        answers = target.read(connection, start)
        assert time.monotonic() - begun < 3
    assert statuses(answers) in ([], [400], [408])


def test_a_head_that_dribbles_ends_the_connection(target: Target) -> None:
    with target.connect() as connection:
        assert dribbled(connection, b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1000, 10) < 5


def test_a_second_head_that_dribbles_ends_the_connection(target: Target) -> None:
    with target.connect() as connection:
        assert statuses(target.read(connection, HEALTH)) == [200]
        connection.setblocking(True)
        assert dribbled(connection, b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1000, 10) < 5


def test_a_body_that_does_not_come_is_told(target: Target) -> None:
    for sent in (b"", b'{"model": '):
        (answer,) = target.exchange(target.head("POST", "/v1/chat/completions", "Content-Length: 1000") + b"\r\n" + sent)
        assert answer.status == 408


def test_a_body_that_dribbles_is_told(target: Target) -> None:
    with target.connect() as connection:
        connection.sendall(target.head("POST", "/v1/chat/completions", "Content-Length: 100000") + b"\r\n")
        assert dribbled(connection, b" " * 1000, 10) < 5


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/v1/models"])
def test_a_body_that_nobody_wants_holds_nobody(target: Target, path: str) -> None:
    (answer,) = target.exchange(target.head("GET", path, "Content-Length: 100000000") + b"\r\n")
    assert answer.status in (200, 404)
    assert answer.headers["connection"] == "close"


def test_a_body_is_not_read_for_who_has_no_key(target: Target) -> None:
    head = target.head("POST", "/v1/chat/completions", "Content-Length: 10000000", key="eco_" + "0" * 49)
    (answer,) = target.exchange(head + b"\r\n" + b"x" * 1000)
    assert answer.status == 401


def test_readers_that_stall_are_cut(target: Target) -> None:
    """F10: their answers end, and what gathers for them is bounded."""
    memory = target.memory()
    stalled = []
    for _ in range(20):
        connection = target.connect()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(target.request(chat_body(max_tokens=8000, stream=True)))
        stalled.append(connection)
    assert target.is_well()
    descriptors = target.descriptors()
    assert target.eventually(lambda: target.descriptors() <= descriptors - 20)
    assert target.memory() < memory + 64 * 2**20
    for connection in stalled:
        connection.close()


def test_answers_without_end_are_ended(target: Target) -> None:
    """A thousand tokens at this engine's pace would take ten seconds; an answer may take two here."""
    plain = target.chat(model=PACED, max_tokens=1000)
    assert (plain.status, plain.error["code"]) == (503, "overloaded")
    streamed = target.chat(model=PACED, max_tokens=1000, stream=True)
    assert streamed.status == 200
    assert b'data: {"error": ' in streamed.body
    assert b"[DONE]" not in streamed.body


def leave(connection: socket.socket, how: str) -> None:
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()


@pytest.mark.parametrize("how", ["reset", "close", "half"])
def test_who_leaves_at_any_moment_leaves_nothing_behind(target: Target, how: str) -> None:
    whole = target.request(chat_body(model=PACED, max_tokens=200, stream=True))
    connections = []
    for cut in range(1, len(whole), max(1, len(whole) // 30)):
        connection = target.connect()
        connection.sendall(whole[:cut])
        leave(connection, how)
        connections.append(connection)
    for _ in range(20):
        connection = target.connect()
        connection.sendall(whole)
        connection.recv(20)
        leave(connection, how)
        connections.append(connection)
    assert target.is_well()
    for connection in connections:
        connection.close()


def test_a_pipeline_is_answered_in_order_and_has_an_end(target: Target) -> None:
    answers = target.exchange(HEALTH * 50 + target.request(chat_body()) + HEALTH * 50, answers=101)
    assert statuses(answers) == [200] * 101
    assert b"chat.completion" in answers[50].body
    # While an answer is being made, only so much may wait behind it.
    busy = target.request(chat_body(model=PACED, max_tokens=200))
    answers = target.exchange(busy + HEALTH * 20_000, answers=20_001)
    assert len(answers) < 20_001


def test_connections_without_a_word_are_bounded_and_go(target: Target) -> None:
    """The limit is 400 here. Who comes beyond it is closed at once, and the silent ones when their time is over."""
    before = target.descriptors()
    silent = [target.connect() for _ in range(500)]
    watch = select.poll()
    for connection in silent:
        watch.register(connection, select.POLLIN)
    try:
        assert target.eventually(lambda: len(watch.poll(0)) >= 90, 0.9)
        assert len(watch.poll(0)) <= 110
        assert target.eventually(lambda: len(watch.poll(0)) == 500)
        assert target.eventually(lambda: target.descriptors() <= before + 24)
    finally:
        for connection in silent:
            connection.close()


def test_a_crowd_of_new_connections_is_served(target: Target) -> None:
    for _ in range(300):
        with target.connect() as connection:
            connection.sendall(HEALTH[:10])
    assert target.is_well()
