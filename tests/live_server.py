"""The whole product on loopback: a real server over the mock engine or any other, and the fixtures that start one."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from ecocore.prompt.images.loader import ImageLoader
from ecocore.regions.local import LocalRegion
from ecocore.regions.region import Region
from ecocore.runtime import Runtime
from ecocore.server.guard import Limits
from ecocore.server.serve import Welcome, bind, serve_until
from ecocore.server.wire import Pace

MODEL = "some-maker/some-model"


@dataclass
class Live:
    """A server that answers, with the runtime behind it."""

    runtime: Runtime
    url: str
    port: int
    key: str
    database_url: str
    _stop: Callable[[], None]

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=20)

    def http(self, **options: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=20, **options)

    def chat(self, **fields: Any) -> httpx.Response:
        with self.http() as http:
            return http.post("/v1/chat/completions", json=chat_body(**fields))

    def raw(self, *pieces: bytes) -> socket.socket:
        """A connection on which the pieces were sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        for piece in pieces:
            connection.sendall(piece)
        return connection

    def raw_chat(self, **fields: Any) -> bytes:
        """The bytes of a chat request."""
        body = json.dumps(chat_body(**fields)).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def becomes_idle(self, seconds: float = 5.0) -> bool:
        """Whether the engine has nothing left to do within the time."""
        return self.eventually(lambda: self.runtime.stats()["open"] == 0, seconds)

    def becomes_busy(self, requests: int = 1) -> bool:
        return self.eventually(lambda: self.runtime.stats()["open"] == requests, 5.0)

    def stop(self) -> None:
        """What SIGTERM does; does not wait."""
        self._stop()

    @staticmethod
    def eventually(holds: Callable[[], bool], seconds: float) -> bool:
        """Whether it holds within the time."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            threading.Event().wait(0.005)
        return True


def chat_body(**fields: Any) -> dict[str, Any]:
    """At temperature 0 the mock engine never draws its end token."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}


@contextmanager
def serving(
    folder: Path,
    *,
    tokens_per_second: float = 0.0,
    context_length: int = 8192,
    model: Runtime | None = None,
    images: ImageLoader | None = None,
    database_url: str | None = None,
    **settings: Any,
) -> Iterator[Live]:
    """A live server in a thread of its own, over a mock engine or `model`. Afterwards the engine must have nothing left to do."""
    with ExitStack() as rooms:
        runtime = model or rooms.enter_context(
            Runtime.mock(MODEL, tokens_per_second=tokens_per_second, context_length=context_length)
        )
        region = LocalRegion(runtime, images)
        rooms.callback(region.close)
        database_url = database_url or database_in(folder)
        with answering(folder, [region], database_url=database_url, **settings) as (welcome, end):
            assert welcome.first_key is not None
            port = int(welcome.url.rsplit(":", 1)[1])
            live = Live(runtime, welcome.url, port, welcome.first_key, database_url, end)
            yield live
            assert live.becomes_idle()


def database_in(folder: Path) -> str:
    return f"sqlite:///{folder / 'ecocore.db'}"


@contextmanager
def answering(
    folder: Path, regions: Sequence[Region], *, database_url: str | None = None, **settings: Any
) -> Iterator[tuple[Welcome, Callable[[], None]]]:
    """A server over any regions, in a thread of its own: what it said when its port was open, and what SIGTERM would do."""
    listening = bind("127.0.0.1", 0)
    opened = threading.Event()
    welcomes: list[Welcome] = []
    stop = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def announce(welcome: Welcome) -> None:
        welcomes.append(welcome)
        opened.set()

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await serve_until(stop, regions, database_url or database_in(folder), listening, announce, **settings)

    def end() -> None:
        loops[0].call_soon_threadsafe(stop.set)

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert opened.wait(20)
        (welcome,) = welcomes
        yield welcome, end
    finally:
        if thread.is_alive():
            end()
        thread.join(20)
        listening.close()
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server whose engine is as fast as it can be; shared by the tests of a file."""
    with serving(tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Live]:
    """A server whose engine would take minutes for a whole answer."""
    with serving(tmp_path, tokens_per_second=50, grace=0.2) as server:
        yield server


@pytest.fixture
def serving_with(tmp_path: Path) -> Callable[..., Any]:
    """A server with settings of one's own, as a context."""

    def start(*, limits: Limits | None = None, pace: Pace | None = None, **settings: Any) -> Any:
        return serving(tmp_path, limits=limits, pace=pace, **settings)

    return start
