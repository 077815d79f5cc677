"""A server on the mock engine in a process of its own: ecocore's, or the plain one that it is measured beside.

`python -m benches.load_server ecocore` prints one line of JSON, its URL and key, and answers until SIGTERM. The plain server
is what one writes in an hour: Starlette on Hypercorn, a queue for each stream, a dictionary and `json.dumps` for each event,
no keys, no limits. Both get their events from the same engine, in the same process, through the same door.
"""

import argparse
import asyncio
import json
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from benches.plain_frames import MODEL, Told, first_frame, frames
from ecocore._core import EventBatch
from ecocore.capacity import Capacity
from ecocore.regions.local import LocalRegion
from ecocore.regions.region import Owner
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime
from ecocore.server import serve as serving
from ecocore.server.tidy import share_one_pool

KINDS: Final = ("ecocore", "plain")
BACKLOG: Final = 2048


def main() -> None:
    options = _parser().parse_args()
    share_one_pool()
    with ExitStack() as stack:
        runtime = stack.enter_context(
            Runtime.mock(
                MODEL,
                tokens_per_second=options.tokens_per_second,
                capacity=Capacity(running=options.sequences),
                context_length=options.context,
            )
        )
        region = LocalRegion(runtime)
        stack.callback(region.close)
        listening = stack.enter_context(serving.bind("127.0.0.1", 0))
        if options.kind == "plain":
            asyncio.run(_serve_plainly(region, listening))
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        database = f"sqlite:///{Path(folder) / 'ecocore.db'}"
        serving.serve([region], database, listening, lambda welcome: _announce(welcome.url, welcome.first_key))


def _announce(url: str, key: str | None) -> None:
    sys.stdout.write(json.dumps({"url": url, "key": key}) + "\n")
    sys.stdout.flush()


async def _serve_plainly(region: LocalRegion, listening: socket.socket) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    plain = _Plain(region)
    unsubscribe = region.subscribe(plain.on_step(asyncio.get_running_loop()))
    app = Starlette(routes=[Route("/v1/chat/completions", plain.chat, methods=["POST"])])
    config = Config()
    host, port = listening.getsockname()
    config.bind = [f"fd://{listening.detach()}"]
    config.backlog = BACKLOG
    ending = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ending.set)

    async def until_signal() -> None:
        _announce(f"http://{host}:{port}", None)
        await ending.wait()

    await serve(app, config, shutdown_trigger=until_signal)  # type: ignore[arg-type]
    unsubscribe()


class _Plain:
    """A queue for each stream, and a generator for Starlette's streaming response that renders what comes."""

    def __init__(self, region: LocalRegion) -> None:
        self._region = region
        self._queues: dict[int, asyncio.Queue[Told]] = {}

    async def chat(self, request: Request) -> StreamingResponse:
        admission = await self._region.prepare(ChatRequest.parse(await request.json()))
        number = admission.request_id
        self._queues[number] = asyncio.Queue()
        await admission.start(Owner())
        return StreamingResponse(self._pieces(number), media_type="text/event-stream")

    def on_step(self, loop: asyncio.AbstractEventLoop) -> Callable[[EventBatch], None]:
        """What the engine's thread calls after each step."""

        def tell(events: EventBatch) -> None:
            told: list[Told] = [(row.request_id, row.kind, row.text, row.reason) for row in events.rows()]
            loop.call_soon_threadsafe(self._put, told)

        return tell

    def _put(self, told: list[Told]) -> None:
        for event in told:
            if queue := self._queues.get(event[0]):
                queue.put_nowait(event)

    async def _pieces(self, number: int) -> AsyncIterator[bytes]:
        try:
            yield first_frame(number, self._region.fingerprint)
            while True:
                event = await self._queues[number].get()
                yield frames(event, self._region.fingerprint)
                if event[1] != "text":
                    return
        finally:
            self._region.cancel(number)
            del self._queues[number]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.load_server", description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--tokens-per-second", type=float, default=0.0, help="of each stream; 0 is as fast as it can")
    parser.add_argument("--sequences", type=int, default=64, help="that compute at a time (default 64)")
    parser.add_argument("--context", type=int, default=2048, help="tokens of prompt and answer together (default 2048)")
    return parser


if __name__ == "__main__":
    main()
