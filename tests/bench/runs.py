"""Runs that were never taken: figures made from a seed, to try the telling of them."""

import random
from collections.abc import Sequence

from ecocore.bench.endpoint import Endpoint
from ecocore.bench.figures import figures_of
from ecocore.bench.load import Load
from ecocore.bench.outcome import Failure, Outcome
from ecocore.bench.plan import Plan, Run, Step
from ecocore.bench.probe import Fields, Target

URLS = ("http://127.0.0.1:8000", "https://models.internal/api/v1")


def run_of(servers: int = 1, *, levels: Sequence[int] = (1, 8, 64), rounds: int = 1, failing: bool = False) -> Run:
    """A whole run over so many servers; with `failing`, some requests of every step fail."""
    targets = [
        Target(Endpoint.parse(url, "secret-key"), f"maker/<model> & {number}") for number, url in enumerate(URLS[:servers])
    ]
    run = Run(Plan(tuple(levels), 16, count=4, rounds=rounds), targets)
    for streams in levels:
        for number in range(rounds):
            for server in range(servers):
                load = _load(f"{streams}/{number}/{server}", streams, failing=failing)
                run.steps.append(Step(server, streams, number, figures=figures_of(load)))
    return run


def refusing(run: Run) -> Run:
    """The same, of a server that takes fewer fields."""
    fields = Fields("max_completion_tokens", frozenset({"ignore_eos", "min_tokens"}))
    run.targets = [Target(target.endpoint, target.model, fields) for target in run.targets]
    return run


def _load(seed: str, streams: int, *, failing: bool) -> Load:
    rng = random.Random(seed)
    outcomes = []
    for number in range(max(4, streams)):
        at = rng.uniform(0.01, 0.1)
        outcome = Outcome(number, 0.0, head=at / 2, status=200, finish_reason="length", prompt_tokens=20, completion_tokens=16)
        for _ in range(16):
            outcome.times.append(at)
            at += rng.lognormvariate(-4, 1)
        outcome.ended = at
        if failing and number % 3 == 0:
            outcome.failure = Failure("http", "503 <overloaded>")
        outcomes.append(outcome)
    return Load(streams, outcomes, began=0.0, busy_until=1.5, ended=2.0)
