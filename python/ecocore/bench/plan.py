"""The order of a measurement: levels of load, each in rounds, the servers in turns. Gives the figures of every step.

Two servers take turns within each level, A B A B, so that a disturbance of the machine meets both.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from ecocore.bench.figures import Figures, figures_of
from ecocore.bench.load import Ask, Client, Load, closed_loop
from ecocore.bench.probe import Target
from ecocore.bench.prompts import Prompts

# As many short answers at a time as streams later, so that the first measured ones find everything made and open.
WARM_TOKENS: Final = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. Each level takes `count` requests, but at least one for each stream, or goes on for `seconds`."""

    levels: tuple[int, ...]
    max_tokens: int
    count: int | None = None
    seconds: float | None = None
    rounds: int = 1
    seed: int = 1
    prompt_tokens: int = 128
    prompt: str | None = None

    def prompts_for(self, target: Target) -> Prompts:
        """What this server is asked."""
        return Prompts(self.seed, target.words_for(self.prompt_tokens), self.prompt)

    def seconds_for(self, targets: Sequence[Target]) -> tuple[float, float]:
        """About how long the whole takes, if all streams cost what one does, and if they are served one after another."""
        at_once = in_turns = 0.0
        for target in targets:
            for streams in self.levels:
                at_once += self._level_seconds(target, streams, 1)
                in_turns += self._level_seconds(target, streams, streams)
        return self.rounds * at_once, self.rounds * in_turns

    def _level_seconds(self, target: Target, streams: int, slower: int) -> float:
        """One level, in which each answer takes `slower` times as long as alone."""
        words = target.words_for(self.prompt_tokens) if self.prompt is None else len(self.prompt.split())
        reading = slower * words * target.seconds_of_a_word
        answer = reading + slower * self.max_tokens * target.seconds_of_a_token
        warming = reading + slower * WARM_TOKENS * target.seconds_of_a_token
        if self.seconds is not None:
            # What runs at the end of the time may end; it has run for half of its time, on the average.
            return warming + max(self.seconds + answer / 2, answer)
        return warming + answer * max(self.count or 0, streams) / streams


@dataclass(slots=True)
class Step:
    """One level of load on one server, once. `server`: its place among the targets."""

    server: int
    streams: int
    round: int
    load: Load = field(default_factory=Load)
    warming: bool = True
    figures: Figures | None = None
    broken_off: bool = False


@dataclass(slots=True)
class Run:
    """What was measured so far. `step`: the one that runs."""

    plan: Plan
    targets: Sequence[Target]
    steps: list[Step] = field(default_factory=list)
    step: Step | None = None
    interrupted: bool = False


async def measure(run: Run, clients: Sequence[Client], on_step: Callable[[Step], None]) -> None:
    """Takes the steps of the plan, and tells each that ended. Cancelled, it keeps what the step at hand has shown so far."""
    for streams in run.plan.levels:
        for number in range(run.plan.rounds):
            for server, (target, client) in enumerate(zip(run.targets, clients, strict=True)):
                run.step = Step(server, streams, number)
                try:
                    await _take(run.plan, target, client, run.step)
                except asyncio.CancelledError:
                    run.interrupted = run.step.broken_off = True
                    raise
                finally:
                    _keep(run, on_step)


async def _take(plan: Plan, target: Target, client: Client, step: Step) -> None:
    name = f"{step.server}/{step.streams}/{step.round}"
    await closed_loop(
        client, _asking(plan, target, f"warm/{name}", WARM_TOKENS), streams=step.streams, count=step.streams, load=Load()
    )
    step.warming = False
    count = None if plan.count is None else max(plan.count, step.streams)
    ask = _asking(plan, target, name, plan.max_tokens)
    await closed_loop(client, ask, streams=step.streams, count=count, seconds=plan.seconds, load=step.load)


def _asking(plan: Plan, target: Target, name: str, max_tokens: int) -> Ask:
    """No prompt is ever asked twice: what a server remembers of one must not make the next look fast."""
    prompts = plan.prompts_for(target)
    return lambda number: target.body(prompts.named(f"{name}/{number}"), max_tokens)


def _keep(run: Run, on_step: Callable[[Step], None]) -> None:
    step, run.step = run.step, None
    if step is None or step.load.ended is None:
        return
    step.figures = figures_of(step.load)
    # The times of a million events are of no more use.
    step.load = Load()
    run.steps.append(step)
    on_step(step)
