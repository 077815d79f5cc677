"""The figures of docs/isolation.md: what an engine in a process of its own costs, and how soon its loss is told and mended.

    python -m benches.isolation [--embedded]

Runs `ecocore serve` with and without `--isolate` on the mock engine, or on the embedded model. The two take turns while
first tokens and 64 streams are timed; then the engine of the isolated one is killed and stopped under an open stream.
"""

import argparse
import asyncio
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from benches.report import machine
from ecocore.regions.child_process import Watch
from ecocore.weights.embedded import EMBEDDED_MODEL_ID

STREAMS = 64
LOSSES = 3


@dataclass
class Server:
    """A running `ecocore serve`."""

    name: str
    process: subprocess.Popen[str]
    url: str
    key: str

    @classmethod
    def start(cls, name: str, *arguments: str) -> "Server":
        environment = {**os.environ, "ECOCORE_HOME": tempfile.mkdtemp(), "ECOCORE_DATABASE": ""}
        command = [sys.executable, "-m", "ecocore", "serve", "--port", "0", *arguments]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        curl = shlex.split(next(line for line in process.stdout if line.startswith("curl ")))
        key = next(text for text in curl if text.startswith("Authorization"))
        return cls(name, process, curl[1].removesuffix("/v1/chat/completions"), key.split()[-1])

    def engine(self) -> int:
        """The number of the engine's process."""
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        return int(found.stdout.split()[0])

    def ask(self, http: aiohttp.ClientSession, **fields: Any) -> Any:
        body = {
            "model": EMBEDDED_MODEL_ID,
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0,
            "ignore_eos": True,
            **fields,
        }
        return http.post(f"{self.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {self.key}"})

    async def stream(self, http: aiohttp.ClientSession, max_tokens: int) -> AsyncIterator[bytes]:
        async with self.ask(http, stream=True, max_tokens=max_tokens) as answer:
            assert answer.status == 200, await answer.text()
            async for piece in answer.content.iter_any():
                yield piece


async def first_token(server: Server, http: aiohttp.ClientSession) -> float:
    """Seconds from the request to the first piece of its stream."""
    begun = time.perf_counter()
    took = 0.0
    async for _ in server.stream(http, 1):
        took = took or time.perf_counter() - begun
    return took


async def throughput(server: Server, http: aiohttp.ClientSession, tokens: int) -> float:
    """Tokens per second of so many streams at once."""

    async def drain() -> None:
        async for _ in server.stream(http, tokens):
            pass

    begun = time.perf_counter()
    await asyncio.gather(*(drain() for _ in range(STREAMS)))
    return STREAMS * tokens / (time.perf_counter() - begun)


async def lose(server: Server, http: aiohttp.ClientSession, number: int) -> tuple[float, float]:
    """Seconds until an open stream has its error event, and until the next request is answered."""
    # Who is lost twice in a row waits before it is started again.
    await asyncio.sleep(Watch().well + 1)
    pieces = server.stream(http, 8000)
    await anext(pieces)
    begun = time.perf_counter()
    os.kill(server.engine(), number)
    last = b""
    async for piece in pieces:
        last = piece
    told = time.perf_counter() - begun
    event = json.loads(last.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
    assert event["error"]["code"] == "engine_lost", event
    while True:
        async with server.ask(http, max_tokens=1) as answer:
            if answer.status == 200:
                return told, time.perf_counter() - begun
        await asyncio.sleep(0.02)


async def compare(servers: list[Server], http: aiohttp.ClientSession, *, requests: int, tokens: int, rounds: int) -> None:
    firsts: dict[str, list[float]] = {server.name: [] for server in servers}
    rates: dict[str, list[float]] = {server.name: [] for server in servers}
    for number in range(requests + 10):
        for server in servers:
            took = await first_token(server, http)
            if number >= 10:
                firsts[server.name].append(took * 1000)
    for _ in range(rounds):
        for server in servers:
            rates[server.name].append(await throughput(server, http, tokens))
    for server in servers:
        some = sorted(firsts[server.name])
        p50, p99 = statistics.median(some), some[int(len(some) * 0.99)]
        print(f"{server.name:12} first token p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    for server in servers:
        spread = f"{min(rates[server.name]):.0f} to {max(rates[server.name]):.0f}"
        print(f"{server.name:12} {STREAMS} streams: {statistics.median(rates[server.name]):.0f} tokens/s ({spread})")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedded", action="store_true", help="the embedded model in the place of the mock engine")
    embedded: bool = parser.parse_args().embedded
    model = [] if embedded else ["--model", f"{EMBEDDED_MODEL_ID}=mock"]
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, load average {where['load_average']}, Python {where['python']}")
    begun = time.perf_counter()
    servers = [Server.start("one process", *model)]
    took = time.perf_counter() - begun
    begun = time.perf_counter()
    servers.append(Server.start("isolated", *model, "--isolate"))
    print(f"start: {took:.1f} s in one process, {time.perf_counter() - begun:.1f} s isolated")
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            await compare(
                servers, http, requests=60 if embedded else 500, tokens=40 if embedded else 1000, rounds=3 if embedded else 5
            )
            for number in (signal.SIGKILL, signal.SIGSTOP):
                losses = [await lose(servers[1], http, number) for _ in range(LOSSES)]
                told, mended = (statistics.median(figures) for figures in zip(*losses, strict=True))
                worst = max(figure for figure, _ in losses)
                print(f"{number.name}: error event after {told:.3f} s (worst {worst:.3f}), answers again after {mended:.2f} s")
    finally:
        for server in servers:
            server.process.terminate()
            server.process.wait()


if __name__ == "__main__":
    asyncio.run(main())
