"""What the front end bears, over real HTTP on the mock engine: `python -m benches.load [held] [overload] [frames]`.

- held: many slow streams at once, for a minute. How late the latest events are, and what the streams weigh in memory.
- overload: requests arrive at several times the rate that can be served. How much is still served, how the rest is refused.
- frames: frames in a second at full speed, beside a plain Starlette server on the same engine, in turns.

The server runs in a process of its own, the client in this one; on a machine with two cores they share what there is.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benches.load_server import KINDS
from benches.plain_frames import MODEL, values
from ecocore.bench.answer import ChatAnswer
from ecocore.bench.endpoint import Endpoint
from ecocore.bench.load import Client, Load, chat_body, closed_loop, open_loop
from ecocore.bench.machine import machine, machine_line
from ecocore.bench.outcome import Outcome

ROOT: Final = Path(__file__).parents[1]

HELD_RATE: Final = 10.0
RAMP_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 1.0

OVERLOAD: Final = 4.0
OVERLOAD_SEQUENCES: Final = 64
OVERLOAD_RATE: Final = 50.0
OVERLOAD_TOKENS: Final = 64
QUICK_TOKENS: Final = 4
# The queue fills up meanwhile, so the first seconds of an overload are better than what it is like.
FILLING_PART: Final = 0.2
REFUSALS: Final = (429, 503)

FRAMES_STREAMS: Final = 64
FRAMES_TOKENS: Final = 512
FRAMES_REQUESTS: Final = 256

WORDS: Final = ("the", "sea", "old", "trains", "bread", "moon", "winter", "a", "lost", "key", "owls", "letter", "of", "and")


@dataclass(frozen=True, slots=True)
class Settings:
    """How much. `rate` is the mock engine's in the overload, tokens of a stream in a second; 0 leaves it to the processor."""

    streams: int = 1000
    seconds: float = 60.0
    rounds: int = 5
    rate: float = OVERLOAD_RATE
    quick: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One figure, and whether it is what was aimed at; None where nothing was."""

    part: str
    what: str
    value: str
    target: str = ""
    met: bool | None = None
    figures: dict[str, Any] = field(default_factory=dict)


# --- the server -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Served:
    """A server that answers."""

    endpoint: Endpoint
    pid: int

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        return pages * resource.getpagesize() / 1e6

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(kind: str, **options: float) -> Iterator[Served]:
    """A server in a process of its own, until the end of the context."""
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", f"{value:g}")]
    command = [sys.executable, "-m", "benches.load_server", kind, "--with-stdin", *flags]
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, cwd=ROOT, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if not (line := process.stdout.readline()):
                status = process.wait()
                words.seek(0)
                raise RuntimeError(f"the server ended with status {status} before it answered: {words.read()}")
            said = json.loads(line)
            yield Served(Endpoint.parse(said["url"], said["key"]), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdin.close()
            process.stdout.close()


def asking(tokens: int, part: str) -> Callable[[int], bytes]:
    """Requests whose prompts differ from the first word on; the same number asks the same."""

    def ask(number: int) -> bytes:
        rng = random.Random(f"{part}/{number}")
        prompt = " ".join(rng.choices(WORDS, k=12))
        return chat_body(MODEL, f"{number} {prompt}", max_tokens=tokens, temperature=0, ignore_eos=True)

    return ask


def failures(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return dict(Counter(str(outcome.failure) for outcome in outcomes if outcome.failure is not None))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the others does not exceed; 0 of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


# --- many slow streams ----------------------------------------------------------------------------------


def held(settings: Settings) -> Iterator[Line]:
    """RELIABILITY: streams that are held for a time at ten tokens a second each."""
    tokens = int(HELD_RATE * (settings.seconds + RAMP_SECONDS))
    with serving("ecocore", tokens_per_second=HELD_RATE, sequences=settings.streams, context=tokens + 512) as served:
        yield from asyncio.run(_held(served, settings, asking(tokens, "held")))


async def _held(served: Served, settings: Settings, ask: Callable[[int], bytes]) -> list[Line]:
    with Client(served.endpoint) as client:
        await closed_loop(client, asking(4, "warm"), streams=8, count=8)
        await asyncio.sleep(SETTLE_SECONDS)
        idle = served.resident_mb()
        load = Load()
        running = asyncio.create_task(closed_loop(client, ask, streams=settings.streams, count=settings.streams, load=load))
        await _all_stream(load, settings.streams)
        began, server_cpu, client_cpu = time.perf_counter(), served.cpu_seconds(), time.process_time()
        peak = idle
        while (now := time.perf_counter()) < began + settings.seconds and not running.done():
            peak = max(peak, served.resident_mb())
            await asyncio.sleep(min(0.5, max(0.0, began + settings.seconds - now)))
        ended, server_cpu, client_cpu = time.perf_counter(), served.cpu_seconds() - server_cpu, time.process_time() - client_cpu
        streams = list(load.open.values())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        again = await client.ask(0, asking(4, "again")(0))
    gaps = sorted(gap for outcome in streams for gap in _gaps(outcome, began, ended))
    firsts = sorted(outcome.times[0] - outcome.due for outcome in streams if outcome.times)
    seconds = ended - began
    wrong = failures(load.outcomes) | failures([again])
    part = f"{settings.streams:,} streams at {HELD_RATE:g} tokens/s, held {seconds:.0f} s"
    p99, rate = quantile(gaps, 0.99), len(gaps) / seconds / max(1, len(streams))
    cost = {"server": server_cpu / seconds, "client": client_cpu / seconds}
    return [
        Line(part, "gap p50 / p99 / max", _ms(quantile(gaps, 0.5), p99, quantile(gaps, 1)), "p99 <= 250 ms", p99 <= 0.25),
        Line(part, "errors", str(wrong or 0), "0", not wrong and len(streams) == settings.streams),
        Line(part, "memory above idle", f"{peak - idle:.0f} MB (idle {idle:.0f} MB)", "<= 400 MB", peak - idle <= 400),
        Line(part, "tokens/s of a stream", f"{rate:.2f}"),
        Line(part, "first token p50 / max, all streams begun at once", _ms(quantile(firsts, 0.5), quantile(firsts, 1))),
        Line(part, "cores used: server, client", f"{cost['server']:.2f}, {cost['client']:.2f}"),
    ]


async def _all_stream(load: Load, streams: int) -> None:
    """Waits until every stream has begun, but for those that failed, and for some time at most."""
    end = time.perf_counter() + RAMP_SECONDS
    while time.perf_counter() < end:
        if len(load.open) + len(load.outcomes) >= streams and all(outcome.times for outcome in load.open.values()):
            return
        await asyncio.sleep(0.1)


def _gaps(outcome: Outcome, began: float, ended: float) -> Iterator[float]:
    """Between the events of one stream; a stream that says nothing more has a gap until the end."""
    before = None
    for at in outcome.times:
        if before is not None and began <= at <= ended:
            yield at - max(before, began)
        before = at
    if before is not None and before < ended - 1 / HELD_RATE:
        yield ended - max(before, began)


# --- more than can be served ----------------------------------------------------------------------------


def overload(settings: Settings) -> Iterator[Line]:
    """RELIABILITY: requests come at four times the rate that a full engine serves."""
    with serving("ecocore", tokens_per_second=settings.rate, sequences=OVERLOAD_SEQUENCES) as served:
        yield from asyncio.run(_overload(served, settings))


async def _overload(served: Served, settings: Settings) -> list[Line]:
    tokens = QUICK_TOKENS if settings.quick else OVERLOAD_TOKENS
    ask = asking(tokens, "overload")
    with Client(served.endpoint) as client:
        await closed_loop(client, asking(tokens, "warm"), streams=OVERLOAD_SEQUENCES, count=OVERLOAD_SEQUENCES)
        # Half as many wait as run, so that the engine is full and nobody is refused.
        streams = OVERLOAD_SEQUENCES * 3 // 2
        full = await closed_loop(client, asking(tokens, "peak"), streams=streams, seconds=settings.seconds / 3)
        peak = _served_in(full)
        cpu = served.cpu_seconds()
        load = await open_loop(client, ask, rate=OVERLOAD * peak, seconds=settings.seconds)
        cpu = served.cpu_seconds() - cpu
    good = _served_in(load)
    refused = [outcome for outcome in load.outcomes if outcome.status in REFUSALS]
    delays = sorted(outcome.head - outcome.due for outcome in refused if outcome.head is not None)
    silent = sum(outcome.retry_after is None for outcome in refused)
    other = failures([outcome for outcome in load.outcomes if outcome.status not in REFUSALS])
    within = sum(delay <= 0.1 for delay in delays) / max(1, len(delays))
    firsts = sorted(outcome.times[0] - outcome.due for outcome in load.outcomes if outcome.succeeded and outcome.times)
    engine = f"{settings.rate:g} tokens/s a stream" if settings.rate else "as fast as it can"
    part = f"{OVERLOAD:g}x overload for {settings.seconds:.0f} s, {OVERLOAD_SEQUENCES} sequences, {engine}"
    cost = {"server": cpu / load.seconds, "client": load.client_cpu / load.seconds}
    return [
        Line(part, "peak, closed loop", f"{peak:.1f} requests/s, errors {failures(full.outcomes) or 0}"),
        Line(part, "goodput", f"{good:.1f} requests/s = {good / peak:.0%} of peak", ">= 90 %", good >= 0.9 * peak),
        Line(part, "refused", f"{len(refused)} of {len(load.outcomes)} = {len(refused) / len(load.outcomes):.0%}"),
        Line(
            part,
            "refusal p50 / p99 / max",
            f"{_ms(*(quantile(delays, share) for share in (0.5, 0.99, 1)))}; {within:.1%} within 100 ms",
            "<= 100 ms",
            quantile(delays, 0.99) <= 0.1,
        ),
        Line(part, "refusals without Retry-After", str(silent), "0", silent == 0),
        Line(part, "other errors", str(other or 0), "0", not other),
        Line(part, "first token of the served p50 / p99", _ms(quantile(firsts, 0.5), quantile(firsts, 0.99))),
        Line(part, "client late by at most", _ms(load.lateness)),
        Line(part, "cores used: server, client", f"{cost['server']:.2f}, {cost['client']:.2f}"),
    ]


def _served_in(load: Load) -> float:
    """Whole answers in a second, while the load was on, but for its first part. An answer counts by the part of it within."""
    assert load.busy_until is not None
    began = load.began + FILLING_PART * (load.busy_until - load.began)
    spans = [(one.due, one.ended) for one in load.outcomes if one.succeeded and one.ended is not None]
    parts = (max(0.0, min(end, load.busy_until) - max(due, began)) / (end - due) for due, end in spans)
    return sum(parts) / (load.busy_until - began)


# --- full speed, beside a plain server ------------------------------------------------------------------


class _Raw(ChatAnswer):
    """Keeps the bytes and looks at them later: at full speed a client that reads JSON is slower than the server."""

    def __init__(self, outcome: Outcome, bodies: dict[int, bytearray]) -> None:
        super().__init__(outcome)
        self._body = bodies[outcome.number] = bytearray()

    def on_body(self, data: bytes, at: float) -> None:  # noqa: ARG002
        self._body += data

    def on_end(self) -> None:
        if not self._body.endswith(b"data: [DONE]\n\n"):
            self.fail("no [DONE]", "the stream ended without data: [DONE]")


@dataclass(frozen=True, slots=True)
class _Round:
    """One turn of one server."""

    frames_per_second: float
    server_us: float
    client_us: float


def frames(settings: Settings) -> Iterator[Line]:
    streams, tokens, requests = (4, 16, 8) if settings.quick else (FRAMES_STREAMS, FRAMES_TOKENS, FRAMES_REQUESTS)
    ask = asking(tokens, "frames")
    rounds: dict[str, list[_Round]] = {kind: [] for kind in KINDS}
    with serving("ecocore", sequences=streams) as ours, serving("plain", sequences=streams) as theirs:
        sides = dict(zip(KINDS, (ours, theirs), strict=True))
        warm = {kind: asyncio.run(_frames(side, ask, streams, requests)) for kind, side in sides.items()}
        bodies = [[bytes(body) for _, body in sorted(told.items())] for _, told in warm.values()]
        equal = values(bodies[0]) == values(bodies[1])
        for _ in range(settings.rounds):
            for kind, side in sides.items():
                rounds[kind].append(asyncio.run(_frames(side, ask, streams, requests))[0])
    part = f"{streams} streams of {tokens} tokens at full speed, {settings.rounds} rounds in turns"
    ratios = [mine.frames_per_second / peer.frames_per_second for mine, peer in zip(*rounds.values(), strict=True)]
    names = {"ecocore": "ecocore", "plain": "Starlette + json.dumps on Hypercorn, the same engine"}
    for kind, name in names.items():
        speeds = [one.frames_per_second for one in rounds[kind]]
        costs = [statistics.median(getattr(one, cost) for one in rounds[kind]) for cost in ("server_us", "client_us")]
        yield Line(
            part,
            name,
            f"{statistics.median(speeds):,.0f} frames/s ({min(speeds):,.0f} to {max(speeds):,.0f}); "
            f"server {costs[0]:.1f} us of CPU a frame, client {costs[1]:.1f} us",
            figures={"rounds": [asdict(one) for one in rounds[kind]]},
        )
    ratio = statistics.median(ratios)
    yield Line(part, "outputs", "equal" if equal else "DIFFERENT", "equal", equal)
    yield Line(part, "ratio", f"{ratio:.2f}x ({min(ratios):.2f} to {max(ratios):.2f})", ">= 4x", equal and ratio >= 4)


async def _frames(
    served: Served, ask: Callable[[int], bytes], streams: int, requests: int
) -> tuple[_Round, dict[int, bytearray]]:
    bodies: dict[int, bytearray] = {}
    cpu = served.cpu_seconds()
    with Client(served.endpoint, hearing=lambda outcome: _Raw(outcome, bodies)) as client:
        load = await closed_loop(client, ask, streams=streams, count=requests)
    cpu = served.cpu_seconds() - cpu
    if wrong := failures(load.outcomes):
        raise RuntimeError(f"a server failed while its speed was measured: {wrong}")
    count = sum(body.count(b"\n\n") for body in bodies.values())
    return _Round(count / load.seconds, 1e6 * cpu / count, 1e6 * load.client_cpu / count), bodies


# --- the run --------------------------------------------------------------------------------------------

PARTS: Final[dict[str, Callable[[Settings], Iterator[Line]]]] = {"held": held, "overload": overload, "frames": frames}


def main() -> int:
    options = _parser().parse_args()
    settings = Settings(options.streams, options.seconds, options.rounds, options.engine_rate, options.quick)
    if options.quick:
        settings = Settings(streams=20, seconds=1.5, rounds=2, rate=options.engine_rate, quick=True)
    where = machine()
    lines: list[Line] = []
    print(machine_line(where) + "\n\n| | figure | | aim | |\n|---|---|---|---|---|", flush=True)
    for name in options.parts or PARTS:
        for line in PARTS[name](settings):
            lines.append(line)
            print(_row(line), flush=True)
    if options.json is not None:
        document = {"machine": where, **asdict(settings), "lines": [asdict(line) for line in lines]}
        options.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return 0


def _row(line: Line) -> str:
    verdict = "" if line.met is None else "met" if line.met else "missed"
    return f"| {line.part} | {line.what} | {line.value} | {line.target} | {verdict} |"


def _ms(*seconds: float) -> str:
    return " / ".join(f"{1e3 * value:,.1f}" for value in seconds) + " ms"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches.load", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure (default: all)")
    parser.add_argument("--streams", type=int, default=1000, help="held at once (default 1000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="of holding and of overload (default 60)")
    parser.add_argument("--rounds", type=int, default=5, help="of frames, for each server (default 5)")
    parser.add_argument(
        "--engine-rate", type=float, default=OVERLOAD_RATE, help="tokens/s of a stream in the overload; 0: no limit (default 50)"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures here too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
