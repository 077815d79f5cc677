"""A real server on a real socket, and plain ASGI exchanges for what needs no socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message
from tests.live_server import live, serving_with, slow

from ecocore.accounts.database import Database
from ecocore.accounts.keys import KeyStore

__all__ = ["live", "serving_with", "slow"]


@pytest.fixture
async def keys(tmp_path: Path) -> AsyncIterator[KeyStore]:
    """A key store of its own."""
    database = await Database.open(f"sqlite:///{tmp_path / 'keys.db'}")
    yield KeyStore(database)
    await database.close()


@dataclass
class Answered:
    """What an ASGI application sent."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def error(self) -> dict[str, Any]:
        """The envelope, whose form is checked."""
        told = json.loads(self.body)
        assert told.keys() == {"error"}
        error: dict[str, Any] = told["error"]
        assert list(error) == ["message", "type", "param", "code"]
        assert len(self.body) <= 4000
        return error


Exchange = Callable[..., Awaitable[Answered]]


@pytest.fixture
def exchange() -> Exchange:
    """One request to an ASGI application, without a server between."""

    async def run(
        app: ASGIApp,
        *,
        method: str = "POST",
        path: str = "/",
        headers: Iterable[tuple[bytes, bytes]] = ((b"host", b"localhost"),),
        body: Iterable[Message] = (),
        query: bytes = b"",
    ) -> Answered:
        incoming = iter(body)
        answered = Answered()

        async def receive() -> Message:
            for message in incoming:
                return message
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Message) -> None:
            answered.messages.append(message)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "headers": list(headers),
        }
        await app(scope, receive, send)
        return answered

    return run
