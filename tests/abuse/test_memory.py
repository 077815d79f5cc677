"""What a crowd of bad requests may leave behind: nothing to speak of."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.abuse.target import Target, attacked, chat_body

MIB = 2**20


@pytest.fixture
def alone(tmp_path: Path) -> object:
    return attacked(tmp_path, limits={"body_seconds": 5.0})


def refusals(target: Target) -> list[bytes]:
    """Four kinds of refused request: large, deep, wide, and wrong."""
    large = target.request(b'{"messages": "' + b"x" * (3 * MIB) + b'"}')
    deep = target.request(b"[" * (2 * MIB))
    wide = target.request(b'{"messages": [' + b'{"role": "user", "content": ""},' * 49_990 + b"1]}")
    wrong = target.request(chat_body(messages=[{"role": "user", "content": "y" * MIB}]))
    return [large, deep, wide, wrong]


def test_a_hundred_and_twenty_refusals_leave_48_mib_at_most(tmp_path: Path) -> None:
    with attacked(tmp_path) as target:
        for _ in range(50):
            assert target.is_well()
        rest, descriptors = target.memory(), target.descriptors()
        requests = refusals(target) * 30
        with ThreadPoolExecutor(8) as crowd:
            for answers in crowd.map(target.exchange, requests):
                assert [answer.status for answer in answers] in ([400], [503])
        assert target.is_well()
        assert target.eventually(lambda: target.memory() <= rest + 48 * MIB), (target.memory() - rest) / MIB
        assert target.eventually(lambda: target.descriptors() <= descriptors + 24)
        assert target.peak() <= rest + 900 * MIB


def test_a_crowd_of_large_bodies_is_shed(tmp_path: Path) -> None:
    """Forty clients that each announce and send 15 MiB: some get a 503 with Retry-After, all get an answer."""
    with attacked(tmp_path, limits={"body_seconds": 10.0}) as target:
        assert target.is_well()
        rest = target.memory()
        request = target.request(b'{"model": "' + b"x" * (15 * MIB) + b'"}')
        with ThreadPoolExecutor(40) as crowd:
            seen = {answer.status for answers in crowd.map(lambda _: target.exchange(request), range(40)) for answer in answers}
        assert seen <= {400, 404, 503}
        assert target.is_well()
        assert target.eventually(lambda: target.memory() <= rest + 256 * MIB)
        assert target.peak() <= rest + 900 * MIB


def test_more_requests_than_may_wait_are_told_to_come_back(tmp_path: Path) -> None:
    from tests.abuse.server import PACED

    with attacked(tmp_path, pace={"answer_seconds": 3.0, "tick_seconds": 0.1}) as target:
        assert target.is_well()
        descriptors = target.descriptors()
        connections = [target.connect() for _ in range(340)]
        for connection in connections:
            connection.sendall(target.request(chat_body(model=PACED, max_tokens=5000)))
        answers = [target.read(connection) for connection in connections]
        # All come with one key: so many run and so many wait until their time is over, and the rest is refused at once.
        refused = [answer for (answer,) in answers if answer.status == 429]
        assert 0 < len(refused) <= 340 - 256 - 64
        assert {answer.error["code"] for answer in refused} == {"rate_limit_exceeded"}
        assert all(answer.headers["retry-after"] for answer in refused)
        assert all(answer.status == 503 for (answer,) in answers if answer not in refused)
        for connection in connections:
            connection.close()
        assert target.is_well()
        assert target.eventually(lambda: target.descriptors() <= descriptors + 24)


def test_requests_that_wait_for_their_images_are_bounded(tmp_path: Path) -> None:
    """Each holds 14 MiB and waits for a host that never answers; what they hold together has an end."""
    stalling = socket.create_server(("127.0.0.1", 0), backlog=64)
    origin = f"http://127.0.0.1:{stalling.getsockname()[1]}"
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in (origin, "data:image/png;base64," + "A" * (13 * MIB))]
    settings = {"origins": [origin], "limits": {"body_seconds": 10.0}, "images": {"fetch_seconds": 2.0}}
    with stalling, attacked(tmp_path, **settings) as target:
        assert target.is_well()
        rest = target.memory()
        request = target.request(chat_body(messages=[{"role": "user", "content": parts}]))
        with ThreadPoolExecutor(24) as crowd:
            seen = [answer.status for answers in crowd.map(lambda _: target.exchange(request), range(24)) for answer in answers]
        assert set(seen) == {400, 503}
        assert target.is_well()
        assert target.eventually(lambda: target.memory() <= rest + 256 * MIB)
        assert target.peak() <= rest + 900 * MIB
