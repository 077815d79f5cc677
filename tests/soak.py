"""Soaks the embedded model: many streams at once, half of them cancelled, for minutes.

Every kept answer must be bit-equal to the one its request got alone, every cancelled one a beginning of it;
at the end all KV blocks are back, and memory stayed flat. `python -m tests.soak`; exit status 1 on any violation.
"""

import argparse
import faulthandler
import gc
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from ecocore.completion import Told
from ecocore.events import Finished, TextDelta
from ecocore.runtime import Runtime

CATALOGUE: Final = 40
# Memory is judged over the last part of a run, once caches and allocator arenas are filled.
JUDGED_PART: Final = 0.6
MIN_JUDGED_SECONDS: Final = 60.0
MAX_MB_PER_MINUTE: Final = 1.0
MAX_VIOLATIONS_TOLD: Final = 20
PATIENCE_SECONDS: Final = 600

OPENINGS: Final = ("Tell me about", "Write a poem about", "Explain to a child", "Give three facts about", "Argue against")
SUBJECTS: Final = ("the sea", "old trains", "bread", "the moon", "Zürich in winter", "a lost key", "数学", "owls \N{OWL}")


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the catalogue."""

    prompt: str
    params: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What must be the same in a crowd; `events` is how many text events there were alone."""

    text: str
    reason: str
    completion_tokens: int
    events: int


@dataclass(slots=True)
class Tally:
    """What the crowd did so far; shared by its threads."""

    kept: int = 0
    cancelled: int = 0
    tokens: int = 0
    violations: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, *, kept: bool, tokens: int, violation: str | None) -> None:
        with self.lock:
            self.kept += kept
            self.cancelled += not kept
            self.tokens += tokens
            if violation is not None:
                self.violations.append(violation)


# --- the catalogue --------------------------------------------------------------------------------------


def catalogue(seed: int, size: int = CATALOGUE, max_tokens: tuple[int, int] = (16, 96)) -> list[Ask]:
    """Requests of all kinds, drawn from a seed."""
    rng = random.Random(seed)
    return [_ask(rng, max_tokens) for _ in range(size)]


def _ask(rng: random.Random, max_tokens: tuple[int, int]) -> Ask:
    params: dict[str, Any] = {
        "max_tokens": rng.randint(*max_tokens),
        "temperature": rng.choice((0.0, 0.3, 0.8, 1.0, 1.5)),
        "seed": rng.getrandbits(62),
    }
    choices: dict[str, Callable[[], Any]] = {
        "top_p": lambda: round(rng.uniform(0.3, 1.0), 3),
        "top_k": lambda: rng.choice((1, 5, 50, 200)),
        "min_p": lambda: round(rng.uniform(0.0, 0.2), 3),
        "repetition_penalty": lambda: round(rng.uniform(1.0, 1.4), 3),
        "frequency_penalty": lambda: round(rng.uniform(-0.5, 1.0), 3),
        "presence_penalty": lambda: round(rng.uniform(-0.5, 1.0), 3),
        "stop": lambda: rng.sample((".", "\n\n", " and", "the s", "é", "2."), rng.randint(1, 3)),
    }
    for name, draw in choices.items():
        if rng.random() < 0.35:
            params[name] = draw()
    words = f"{rng.choice(OPENINGS)} {rng.choice(SUBJECTS)}."
    # A few long prompts: several prefill chunks, several blocks, a prefix that others share.
    return Ask(words + " Take your time." * rng.choice((0, 0, 1, 40)), params)


def alone(runtime: Runtime, asks: list[Ask]) -> Iterator[Answer]:
    """Each request by itself on the idle engine."""
    for ask in asks:
        *deltas, end = runtime.stream(ask.prompt, **ask.params)
        assert isinstance(end, Finished)
        yield Answer(_joined(deltas), end.reason, end.usage.completion_tokens, len(deltas))


def _joined(events: list[Told]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


# --- the crowd ------------------------------------------------------------------------------------------


def crowd(
    runtime: Runtime, asks: list[Ask], answers: list[Answer], *, streams: int, seed: int, go_on: Callable[[Tally], bool]
) -> Tally:
    """Keeps `streams` streams open while `go_on` says so; about half of them are left before their end."""
    tally = Tally()

    def one(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        while go_on(tally):
            index = rng.randrange(len(asks))
            leave_after = rng.randrange(answers[index].events + 1) if rng.random() < 0.5 else None
            try:
                _live(runtime, asks[index], answers[index], leave_after, tally)
            except Exception as error:  # noqa: BLE001 - whatever a stream raises is a finding
                tally.add(kept=True, tokens=0, violation=f"request {index} raised {error!r}")

    threads = [threading.Thread(target=one, args=(number,), name=f"soak-{number}") for number in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def _live(runtime: Runtime, ask: Ask, answer: Answer, leave_after: int | None, tally: Tally) -> None:
    """One stream, lived to its end or left after so many text events."""
    stream = runtime.stream(ask.prompt, **ask.params)
    text, end, events = "", None, 0
    for event in stream:
        if isinstance(event, Finished):
            end = event
            break
        assert isinstance(event, TextDelta)
        text += event.text
        events += 1
        if leave_after is not None and events > leave_after:
            break
    stream.close()  # type: ignore[attr-defined]
    if end is None:
        wrong = None if answer.text.startswith(text) else f"a cancelled stream said {text!r}, alone {answer.text!r}"
        tally.add(kept=False, tokens=events, violation=wrong)
        return
    told = Answer(text, end.reason, end.usage.completion_tokens, answer.events)
    wrong = None if told == answer else f"in the crowd {told!r}, alone {answer!r}; {ask!r}"
    tally.add(kept=True, tokens=end.usage.completion_tokens, violation=wrong)


def blocks_missing(runtime: Runtime) -> str | None:
    """What is not back on the idle engine, or None. Two tiny requests make the engine take its inbox first."""
    for _ in range(2):
        runtime.chat("settle", max_tokens=1)
    stats = runtime.stats()
    left = {name: stats[name] for name in ("open", "running", "waiting") if stats[name]}
    if stats["free_blocks"] != stats["total_blocks"]:
        left["blocks"] = stats["total_blocks"] - stats["free_blocks"]
    return f"the idle engine still holds {left}" if left else None


# --- memory ---------------------------------------------------------------------------------------------


class MemoryWatch:
    """Resident memory once a second, from a thread of its own."""

    def __init__(self, tell: Callable[[float, float], None]) -> None:
        """`tell(seconds, megabytes)` hears every sample."""
        self.samples: list[tuple[float, float]] = []
        self._tell = tell
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="soak-memory")

    def __enter__(self) -> Self:
        # What is loaded by now stays; collecting it every second would only slow the streams.
        gc.collect()
        gc.freeze()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        gc.unfreeze()

    def _watch(self) -> None:
        began = time.monotonic()
        while not self._done.wait(1.0):
            gc.collect()
            self.samples.append((time.monotonic() - began, resident_mb()))
            self._tell(*self.samples[-1])


def resident_mb() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def growth(samples: list[tuple[float, float]], warm_up: float | None = None) -> float | None:
    """Least-squares slope over the judged part in MB per minute; None where that part is too short to judge.

    The judged part is what comes after `warm_up` seconds, or the last part of the run.
    """
    last = samples[int(len(samples) * (1 - JUDGED_PART)) :]
    judged = last if warm_up is None else [sample for sample in samples if sample[0] > warm_up]
    if not judged or judged[-1][0] - judged[0][0] < MIN_JUDGED_SECONDS:
        return None
    mean_time = sum(at for at, _ in judged) / len(judged)
    mean_memory = sum(memory for _, memory in judged) / len(judged)
    spread = sum((at - mean_time) ** 2 for at, _ in judged)
    return 60 * sum((at - mean_time) * (memory - mean_memory) for at, memory in judged) / spread


# --- the run --------------------------------------------------------------------------------------------


def soak(runtime: Runtime, *, minutes: float, streams: int, seed: int, tell: Callable[[str], None]) -> list[str]:
    """Runs the whole soak and gives the violations. `tell` hears the live line, and the report at the end."""
    asks = catalogue(seed)
    answers: list[Answer] = []
    for answer in alone(runtime, asks):
        answers.append(answer)
        tell(f"alone: {len(answers)} of {len(asks)}")
    deadline = time.monotonic() + 60 * minutes
    shown: list[Tally] = []

    def go_on(tally: Tally) -> bool:
        shown[:] = [tally]
        return time.monotonic() < deadline

    def live(seconds: float, memory: float) -> None:
        for tally in shown:
            tell(
                f"{seconds:4.0f} s  {tally.kept} kept, {tally.cancelled} cancelled, {tally.tokens / seconds:.0f} tokens/s, "
                f"{memory:.0f} MB, {len(tally.violations)} violations"
            )

    with MemoryWatch(live) as watch:
        tally = crowd(runtime, asks, answers, streams=streams, seed=seed, go_on=go_on)
    violations = [*tally.violations, *filter(None, [blocks_missing(runtime)])]
    slope = growth(watch.samples)
    if slope is not None and slope > MAX_MB_PER_MINUTE:
        violations.append(f"memory grows by {slope:.2f} MB per minute")
    memory = "too short to judge memory" if slope is None else f"memory {slope:+.2f} MB per minute"
    peak = max((memory for _, memory in watch.samples), default=resident_mb())
    tell(f"{tally.kept} kept, {tally.cancelled} cancelled, {tally.tokens} tokens; {memory}, peak {peak:.0f} MB")
    return violations


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default 5)")
    parser.add_argument("--streams", type=int, default=32, help="streams open at once (default 32)")
    parser.add_argument("--seed", type=int, default=1, help="draws the requests and who is cancelled (default 1)")
    options = parser.parse_args()
    # Nobody may wait forever: a run that does not end tells where every thread stands, and fails.
    faulthandler.dump_traceback_later(60 * options.minutes + PATIENCE_SECONDS, exit=True)
    with Runtime.load() as runtime:
        violations = soak(runtime, minutes=options.minutes, streams=options.streams, seed=options.seed, tell=_tell)
    report = [f"violation: {violation}" for violation in violations[:MAX_VIOLATIONS_TOLD]]
    sys.stdout.write("\n".join(["", *report, f"{len(violations)} violations", ""]))
    return 1 if violations else 0


def _tell(line: str) -> None:
    """Rewrites one line on a terminal; in a log every line stays."""
    start, end = ("\r\x1b[K", "") if sys.stdout.isatty() else ("", "\n")
    sys.stdout.write(f"{start}{line}{end}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
