"""Several rounds of one level -> medians and spread; two servers -> ratios, and whether their answers are the same."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import takewhile
from typing import Final

from ecocore.bench.answer import ChatAnswer
from ecocore.bench.figures import Figures, Percentiles
from ecocore.bench.load import Client
from ecocore.bench.plan import Plan, Run, Step
from ecocore.bench.probe import Target

RATES: Final = ("output_tokens_per_second", "requests_per_second")
DURATIONS: Final = ("ttft_ms", "gap_ms", "token_ms", "e2e_ms")

AGREEMENT_PROMPTS: Final = 8
AGREEMENT_TOKENS: Final = 64
SHOWN: Final = 40


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Level:
    """What the rounds of one server showed with so many streams, by the name of the figure, as in "ttft_ms.p99"."""

    server: int
    streams: int
    rounds: int
    figures: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class Difference:
    """The figures of the second server over those of the first, each round with its own neighbour."""

    streams: int
    ratios: Mapping[str, Spread]


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of so many prompts at temperature 0, how many got the same answer from both servers.

    `failed`: how many could not be compared, because one of the two gave no answer. `first`: where the first two answers
    that differ part, and what comes then.
    """

    asked: int
    equal: int
    failed: int
    first: str | None

    @property
    def words(self) -> str:
        """As a person wants to know it."""
        told = f"answers at temperature 0: {self.equal} of {self.asked} equal"
        told += f", {self.failed} not answered by both" if self.failed else ""
        return f"{told}; {self.first}" if self.first else told


def numbers_of(figures: Figures) -> Mapping[str, float]:
    """Every figure that rounds are compared by, by name; what there is nothing of is absent."""
    found: dict[str, float] = {name: getattr(figures, name) for name in RATES}
    for name in DURATIONS:
        durations: Percentiles | None = getattr(figures, name)
        if durations is not None:
            found |= {f"{name}.{one.name}": getattr(durations, one.name) for one in fields(durations) if one.name != "count"}
    return found


def levels_of(run: Run) -> list[Level]:
    """In the order of the plan, the first server first."""
    return [
        Level(server, streams, len(steps), _spreads([numbers_of(figures) for figures in _figures(steps)]))
        for streams in run.plan.levels
        for server in range(len(run.targets))
        if (steps := _steps(run, server, streams))
    ]


def differences_of(run: Run) -> list[Difference]:
    """For each level that both of two servers have been through; nothing where there is one."""
    if len(run.targets) != 2:
        return []
    return list(_differences(run))


def _differences(run: Run) -> Iterator[Difference]:
    for streams in run.plan.levels:
        pairs = zip(_steps(run, 0, streams), _steps(run, 1, streams), strict=False)
        ratios = [_ratios(*map(numbers_of, _figures(pair))) for pair in pairs]
        if spreads := _spreads(ratios):
            yield Difference(streams, spreads)


def _steps(run: Run, server: int, streams: int) -> list[Step]:
    """Those that can be compared: a step that was broken off is shown, but only where it is all there is."""
    found = [step for step in run.steps if (step.server, step.streams) == (server, streams)]
    return [step for step in found if not step.broken_off] or found


def _figures(steps: Sequence[Step]) -> list[Figures]:
    return [step.figures for step in steps if step.figures is not None]


def _ratios(first: Mapping[str, float], second: Mapping[str, float]) -> Mapping[str, float]:
    return {name: second[name] / value for name, value in first.items() if value > 0 and name in second}


def _spreads(rounds: Sequence[Mapping[str, float]]) -> Mapping[str, Spread]:
    names = {name: None for figures in rounds for name in figures}
    return {name: Spread.of([figures[name] for figures in rounds if name in figures]) for name in names}


async def agreement(plan: Plan, targets: Sequence[Target]) -> Agreement:
    """Asks both servers the same, one request at a time."""
    prompts = plan.prompts_for(targets[0])
    tokens = min(plan.max_tokens, AGREEMENT_TOKENS)
    equal, failed, first = 0, 0, None
    for number in range(AGREEMENT_PROMPTS):
        texts = [await _text(target, prompts.named(f"agreement/{number}"), tokens) for target in targets]
        if None in texts:
            failed += 1
        elif texts[0] == texts[1]:
            equal += 1
        elif first is None:
            first = _parting(number, texts[0] or "", texts[1] or "")
    return Agreement(AGREEMENT_PROMPTS, equal, failed, first)


async def _text(target: Target, prompt: str, tokens: int) -> str | None:
    with Client(target.endpoint, hearing=lambda outcome: ChatAnswer(outcome, keep_text=True)) as client:
        outcome = await client.ask(0, target.body(prompt, tokens))
    return "".join(outcome.text or ()) if outcome.succeeded else None


def _parting(number: int, first: str, second: str) -> str:
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    rests = (repr(text[same : same + SHOWN]) for text in (first, second))
    return f"prompt {number + 1} parts after {same} characters: {' and '.join(rests)}"
