"""What a key that asks for little feels of one that asks for all it can get: `python -m benches.fairness`.

The engine's own loop, scheduler and sampler over a model whose time is counted instead of spent: a step takes a base time and
some for each token, as on a device. So the figures are the schedule's alone, the same on every machine, idle or not. The light
key asks at random times; beside it a flooding key has as many long answers open as it may. Three runs: the light key alone, both
as two keys, and both as one key, which is first come, first served.
"""

import argparse
import heapq
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any, Final

import numpy as np

from ecocore._core import Batch, EventBatch, OutputStreams, Scheduler, Tokenizer
from ecocore.capacity import Capacity
from ecocore.errors import KeyQueueFull
from ecocore.executor import Executor
from ecocore.loop import StepLoop, Submission
from ecocore.model.mock import MockModel
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import BatchSampler

# About an 8B model on a large GPU.
STEP_SECONDS: Final = 0.006
SECONDS_PER_PROMPT_TOKEN: Final = 25e-6
SECONDS_PER_ROW: Final = 30e-6

CAPACITY: Final = Capacity(running=64, waiting=256, waiting_per_key=64)
PLACES: Final = CAPACITY.running + CAPACITY.reserved
BLOCK_SIZE: Final = 64
LIGHT: Final = 1
FLOOD: Final = 2
FLOOD_OPEN: Final = CAPACITY.running + CAPACITY.waiting_per_key
FLOOD_PROMPT: Final = 384
FLOOD_TOKENS: Final = 128
LIGHT_PROMPTS: Final = (64, 256, 1024)
LIGHT_TOKENS: Final = 16
LIGHT_PAUSE: Final = 0.5
RETRY_SECONDS: Final = 0.01
TARGET_FACTOR: Final = 2.0
TARGET_PART: Final = 0.98


class CountedModel:
    """The mock model, whose steps end when a device's would. Tells the time of each end before it gives the logits."""

    def __init__(self, vocab_size: int) -> None:
        self._model = MockModel(vocab_size, max_sequences=PLACES)
        self._now = 0.0
        self.ends: SimpleQueue[float] = SimpleQueue()

    def forward(self, batch: Batch) -> Any:
        prompt_tokens = batch.num_prompt_tokens
        rows = batch.num_tokens - prompt_tokens
        self._now += STEP_SECONDS + SECONDS_PER_PROMPT_TOKEN * prompt_tokens + SECONDS_PER_ROW * rows
        self.ends.put(self._now)
        return self._model.forward(batch)

    def rest_until(self, now: float) -> None:
        """Nothing is to be computed before then. Only between steps."""
        self._now = max(self._now, now)


@dataclass(slots=True)
class Seen:
    """What one run showed: seconds from the light key's questions to their first tokens, and how fast all was drawn."""

    light_seconds: list[float] = field(default_factory=list)
    tokens_per_second: float = 0.0

    def light(self, percent: int) -> float:
        return float(np.percentile(self.light_seconds, percent))


class Simulation:
    """The loop, driven step by step on this thread, and who asks when."""

    def __init__(self) -> None:
        tokenizer = Tokenizer.bytes_only()
        sampler = BatchSampler(tokenizer.vocab_size)
        self._model = CountedModel(tokenizer.vocab_size)
        self._loop = StepLoop(
            Scheduler(
                num_blocks=PLACES * 18,
                block_size=BLOCK_SIZE,
                max_sequences=PLACES,
                reserved_sequences=CAPACITY.reserved,
                max_waiting=CAPACITY.running + CAPACITY.waiting,
                prefix_caching=False,
            ),
            Executor(self._model, sampler, depth=1, cores=nullcontext()),
            sampler,
            OutputStreams(tokenizer),
            capacity=CAPACITY,
        )
        self._loop.subscribe(self._hear)
        self._rng = np.random.default_rng(1)
        self._now = 0.0
        self._ids = iter(range(1, 2**31))
        self._first: dict[int, Callable[[], None]] = {}
        self._ended: dict[int, Callable[[], None]] = {}
        self._todo: list[tuple[float, int, Callable[[], None]]] = []

    def run(self, *, light: int, light_prompt: int, flood: int | None, seconds: float) -> Seen:
        """`light`, `flood`: the keys they come with; no flood where it is None."""
        seen = Seen()

        def drench() -> None:
            if flood is None:
                return
            again = partial(self._at, 0.0, drench)
            try:
                self._ask(flood, prompt=FLOOD_PROMPT, tokens=FLOOD_TOKENS, first=_nothing, ended=again)
            except KeyQueueFull:
                self._at(self._now + RETRY_SECONDS, drench)

        def knock() -> None:
            asked = self._now

            def first() -> None:
                seen.light_seconds.append(self._now - asked)

            self._ask(light, prompt=light_prompt, tokens=LIGHT_TOKENS, first=first, ended=_nothing)
            self._at(asked + self._rng.exponential(LIGHT_PAUSE), knock)

        for _ in range(FLOOD_OPEN if flood is not None else 0):
            self._at(0.0, drench)
        self._at(1.0, knock)
        while self._now < seconds:
            self._advance()
        seen.tokens_per_second = self._loop.stats()["generation_tokens"] / self._now
        self._loop.close()
        return seen

    def _advance(self) -> None:
        """One step; who came before its end is there when the next one is put together."""
        if not self._loop._in_flight:
            if not self._loop.stats()["open"]:
                self._model.rest_until(self._todo[0][0])
                self._act_until(self._todo[0][0])
            self._loop._take_inbox(wait=False)
            self._loop._launch()
        end = self._model.ends.get(timeout=20)
        self._act_until(end)
        self._now = end
        self._loop.step()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._todo, (when, next(self._ids), act))

    def _act_until(self, end: float) -> None:
        while self._todo and self._todo[0][0] <= end:
            when, _, act = heapq.heappop(self._todo)
            self._now = max(self._now, when)
            act()

    def _ask(self, key: int, *, prompt: int, tokens: int, first: Callable[[], None], ended: Callable[[], None]) -> None:
        number = next(self._ids)
        self._first[number], self._ended[number] = first, ended
        self._loop.submit(
            Submission(
                sequence_id=number,
                request_id=number,
                choice=0,
                token_ids=self._rng.integers(32, 127, prompt).astype(np.uint32),
                max_tokens=tokens,
                end_ids=(),
                params=SamplingParams(temperature=0),
                seed=number,
                salt=b"",
                key=key,
            )
        )

    def _hear(self, events: EventBatch) -> None:
        for request_id in events.request_ids():
            if first := self._first.pop(request_id, None):
                first()
        for sequence_id in events.finished_sequences:
            self._ended.pop(sequence_id)()


def _nothing() -> None:
    """Nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The light key alone, beside a flood, and in one line with it."""

    light_prompt: int
    alone: Seen
    beside: Seen
    in_line: Seen

    @property
    def factor(self) -> float:
        """How much longer the light key waits for its first token beside a flood than alone, at the 95th percentile."""
        return self.beside.light(95) / self.alone.light(95)

    @property
    def part(self) -> float:
        """Tokens per second beside a flood, as part of those of first come, first served."""
        return self.beside.tokens_per_second / self.in_line.tokens_per_second


def verdict(light_prompt: int, seconds: float) -> Verdict:
    # Key 0 is nobody's: all that come with it are served in their order.
    lines = ((LIGHT, None), (LIGHT, FLOOD), (0, 0))
    seen = [Simulation().run(light=light, light_prompt=light_prompt, flood=flood, seconds=seconds) for light, flood in lines]
    return Verdict(light_prompt, *seen)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benches.fairness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="counted seconds of each run (default 120)")
    options = parser.parse_args()
    told = ["| light prompt | p95 first token: alone | beside a flood | | in one line with it | tokens/s, of that in one line |"]
    told.append("|--:|--:|--:|--:|--:|--:|")
    for light_prompt in LIGHT_PROMPTS:
        one = verdict(light_prompt, options.seconds)
        alone, beside, in_line = (1e3 * seen.light(95) for seen in (one.alone, one.beside, one.in_line))
        told.append(
            f"| {light_prompt} tokens | {alone:.1f} ms | {beside:.1f} ms | {one.factor:.2f}x | {in_line:,.0f} ms "
            f"| {100 * one.part:.1f} % |"
        )
    goals = f"goals: at most {TARGET_FACTOR:g}x, at least {100 * TARGET_PART:g} %"
    sys.stdout.write("\n".join([*told, "", goals, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
