"""Two ecocore servers as regions of a third, under load: one is killed, then both, then one is back. `python -m tests.failover`.

Clients ask for plain answers and streams all the time. What each saw is kept, with its times; `tests/test_failover.py` judges it.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from tests.live_server import answering
from tests.regions.peer_process import PACED, PeerProcess, peer_process

from ecocore.regions.remote import RemoteRegion

CLIENTS = 8
TOKENS = 5


@dataclass
class Seen:
    """One request as its client saw it; times are of the monotonic clock."""

    stream: bool
    began: float
    first_byte: float = 0.0
    ended: float = 0.0
    status: int = 0
    code: str | None = None
    """Of an error, or of the error event that ended a stream."""
    whole: bool = False


@dataclass
class Story:
    """What happened, in order."""

    seen: list[Seen] = field(default_factory=list)
    first_killed: float = 0.0
    both_killed: float = 0.0
    back: float = 0.0
    """When the port of the first was open again."""
    served_again: float = 0.0
    ready_without: int = 0
    """What /ready said while both were dead."""
    served: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the first answer after both were killed."""

    def waits(self, began: float, ended: float) -> list[float]:
        """Seconds to the first byte of the answers to requests that began between two moments."""
        return [one.first_byte - one.began for one in self.seen if began <= one.began < ended and one.status == 200]

    def caught(self) -> list[Seen]:
        """Requests that ran when the first was killed, and had no byte yet."""
        return [one for one in self.seen if one.began < self.first_killed < one.first_byte]

    def failover_seconds(self) -> float:
        """The longest from the kill to the first byte from elsewhere, without the time that an answer takes anyway."""
        usual = statistics.median(self.waits(0.0, self.first_killed))
        return max((one.first_byte - self.first_killed for one in self.caught()), default=usual) - usual


async def _client(http: httpx.AsyncClient, story: Story, stop: asyncio.Event, number: int) -> None:
    turn = number
    while not stop.is_set():
        turn += 1
        one = Seen(stream=turn % 2 == 0, began=time.monotonic())
        body = {
            "model": PACED,
            "messages": [{"role": "user", "content": f"{number} {turn}"}],
            "temperature": 0,
            "max_tokens": TOKENS,
            "stream": one.stream,
        }
        data = b""
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            one.status = answer.status_code
            async for piece in answer.aiter_raw():
                one.first_byte = one.first_byte or time.monotonic()
                data += piece
        one.ended = time.monotonic()
        one.whole = one.status == 200 and (b"[DONE]" in data or not one.stream)
        one.code = next((code for code in ("engine_lost", "all_regions_unavailable") if code.encode() in data), None)
        story.seen.append(one)
        if story.both_killed and one.began > story.both_killed and one.status == 200:
            story.served.set()
        if one.status != 200:
            await asyncio.sleep(0.02)


async def tell(url: str, key: str, peers: list[PeerProcess], again: ExitStack, folder: Path, *, seconds: float) -> Story:
    """Runs the load while the servers die and come back."""
    story, stop = Story(), asyncio.Event()
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30)
        )
        clients = [asyncio.create_task(_client(http, story, stop, number)) for number in range(CLIENTS)]
        await asyncio.sleep(seconds)
        story.first_killed = time.monotonic()
        await asyncio.to_thread(peers[0].send, signal.SIGKILL)
        await asyncio.sleep(seconds)
        story.both_killed = time.monotonic()
        await asyncio.to_thread(peers[1].send, signal.SIGKILL)
        await asyncio.sleep(seconds)
        story.ready_without = (await http.get("/ready")).status_code
        port = int(peers[0].url.rsplit(":", 1)[1])
        await asyncio.to_thread(lambda: again.enter_context(peer_process(folder, port=port)))
        story.back = time.monotonic()
        await asyncio.wait_for(story.served.wait(), 60)
        story.served_again = time.monotonic()
        stop.set()
        await asyncio.gather(*clients)
    return story


def run(folder: Path, *, seconds: float) -> Story:
    """The whole story, in a folder of its own."""
    with ExitStack() as stack:
        folders = [folder / name for name in ("front", "first", "second")]
        for one in folders:
            one.mkdir()
        peers = [stack.enter_context(peer_process(one)) for one in folders[1:]]
        elsewhere = [
            (number, RemoteRegion(name, peer.url, PACED, api_key=peer.key))
            for number, (name, peer) in enumerate(zip(("first", "second"), peers, strict=True))
        ]
        welcome, _ = stack.enter_context(answering(folders[0], [], elsewhere=elsewhere))
        assert welcome.first_key is not None
        again = stack.enter_context(ExitStack())
        return asyncio.run(tell(welcome.url, welcome.first_key, peers, again, folders[1], seconds=seconds))


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(prog="python -m tests.failover", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="from one event to the next")
    with tempfile.TemporaryDirectory() as folder:
        story = run(Path(folder), seconds=parser.parse_args().seconds)
    told = [
        f"{len(story.seen)} requests, {sum(one.whole for one in story.seen)} whole",
        f"running without a byte when the first was killed: {len(story.caught())}, all answered by the second",
        f"failover, the longest: {story.failover_seconds() * 1000:.0f} ms beyond an answer's usual time",
        f"streams that had begun there: {sum(one.code == 'engine_lost' for one in story.seen)} ended with an error event",
        f"both killed: {sum(one.status == 503 for one in story.seen)} answers of 503",
        f"served again {story.served_again - story.back:.1f} s after the first was back",
    ]
    sys.stdout.write("\n".join(told) + "\n")


if __name__ == "__main__":
    main()
