"""From the bytes of a body to a checked value: the first steps of every POST.

Takes what the connection receives, gives what a parser makes of the JSON object in it. Long bodies are parsed
beside the event loop, at most two at a time.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from starlette.types import Receive, Scope

from ecocore.server.guard import BodyReader
from ecocore.server.json_in import parse_object

# Parsing a body up to this size takes less time than handing it to a thread.
PARSE_INLINE_BYTES: Final = 16 * 1024
PARSE_WORKERS: Final = 2

Parsed = TypeVar("Parsed")


class Intake:
    """Reads and parses bodies for all endpoints."""

    def __init__(self, bodies: BodyReader, decode: Callable[[bytes], dict[str, Any]] = parse_object) -> None:
        """`bodies`: counts the memory of all of them. `decode`: how JSON is read; unless given, as from strangers."""
        self._bodies = bodies
        self._decode = decode
        self._parsing = asyncio.Semaphore(PARSE_WORKERS)

    async def read(self, scope: Scope, receive: Receive, parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed:
        """What `parse` makes of the body. Raises what `BodyReader.read`, `parse_object` and `parse` raise."""
        async with self.holding(scope, receive, parse) as parsed:
            return parsed

    @asynccontextmanager
    async def holding(
        self, scope: Scope, receive: Receive, parse: Callable[[Mapping[str, Any]], Parsed]
    ) -> AsyncIterator[Parsed]:
        """`read`; the body's bytes count as held until the block ends, for a request that may keep them in itself."""
        async with self._bodies.read(scope, receive) as body:
            if len(body) <= PARSE_INLINE_BYTES:
                yield parse(self._decode(body))
            else:
                async with self._parsing:
                    parsed = await asyncio.to_thread(lambda: parse(self._decode(body)))
                yield parsed
