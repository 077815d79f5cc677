"""The plan's order, medians of rounds, ratios of two servers, and whether they say the same."""

import asyncio
import statistics
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.bench.fake_server import DONE, END, STREAM_HEAD, Asked, Fake, chunk, event, fake, until, whole

from ecocore.bench.compare import agreement, differences_of, levels_of, numbers_of
from ecocore.bench.endpoint import Endpoint
from ecocore.bench.figures import Figures, figures_of
from ecocore.bench.load import Client, Load
from ecocore.bench.outcome import Outcome
from ecocore.bench.plan import Plan, Run, Step, measure
from ecocore.bench.probe import Target, probe

PLAN = Plan(levels=(1, 3), max_tokens=6, count=4, rounds=2, prompt_tokens=20)


@asynccontextmanager
async def two() -> AsyncIterator[tuple[list[Fake], list[Client], list[Target]]]:
    async with fake(whole) as first, fake(whole) as second:
        servers = [first, second]
        clients = [Client(Endpoint.parse(server.url)) for server in servers]
        targets = [await probe(client, None, 1) for client in clients]
        for server in servers:
            server.asked.clear()
        yield servers, clients, targets
        for client in clients:
            client.close()


async def test_levels_come_in_rounds_and_servers_in_turns() -> None:
    async with two() as (servers, clients, targets):
        run = Run(PLAN, targets)
        told: list[Step] = []
        await measure(run, clients, told.append)
    assert [(step.streams, step.round, step.server) for step in run.steps] == [
        *((1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)),
        *((3, 0, 0), (3, 0, 1), (3, 1, 0), (3, 1, 1)),
    ]
    assert told == run.steps
    for step in run.steps:
        assert step.figures is not None
        assert (step.figures.streams, step.figures.requests, step.figures.output_tokens) == (step.streams, 4, 24)
    for server in servers:
        # Warm-up: a short answer for each stream, before each step; not counted above.
        lengths = [asked.body["max_tokens"] for asked in server.asked]
        assert lengths == [4, 6, 6, 6, 6] * 2 + [4, 4, 4, 6, 6, 6, 6] * 2
    prompts = [asked.body["messages"][0]["content"] for server in servers for asked in server.asked]
    assert len(set(prompts)) == len(prompts)
    assert {len(prompt.split()) for prompt in prompts} == {15}
    assert run.step is None


async def test_a_level_has_at_least_a_request_for_each_stream() -> None:
    async with fake(whole) as server:
        with Client(Endpoint.parse(server.url)) as client:
            run = Run(replace(PLAN, levels=(7,), count=2, rounds=1), [await probe(client, None, 1)])
            await measure(run, [client], lambda _: None)
    assert run.steps[0].figures is not None
    assert run.steps[0].figures.requests == 7


async def test_a_run_that_is_broken_off_keeps_the_step_at_hand() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        measured = [one for one in server.asked if one.body and one.body["max_tokens"] == PLAN.max_tokens]
        if len(measured) > 6:
            writer.write(STREAM_HEAD + chunk(event("half")))
        else:
            await whole(asked, writer)

    async with fake(answer) as server:
        with Client(Endpoint.parse(server.url)) as client:
            run = Run(PLAN, [await probe(client, None, 1)])
            running = asyncio.create_task(measure(run, [client], lambda _: None))
            await until(lambda: len(run.steps) == 1 and _stuck(run))
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
    assert run.interrupted
    assert [(step.round, step.broken_off) for step in run.steps] == [(0, False), (1, True)]
    last = run.steps[1].figures
    assert last is not None
    assert (last.requests, last.unfinished) == (2, 1)
    # What was broken off is not averaged with what was not.
    assert [(level.streams, level.rounds) for level in levels_of(run)] == [(1, 1)]


def _stuck(run: Run) -> bool:
    """Whether two answers of the step at hand are there, and the third has begun."""
    load = run.step.load if run.step else Load()
    return len(load.outcomes) == 2 and any(outcome.times for outcome in load.open.values())


def figures(tokens_per_second: float, first: float) -> Figures:
    """Of a load with one answer, but for two numbers that were set."""
    one = Outcome(0, 0.0, ended=1.0)
    one.times.extend([first, first + 0.1])
    made = figures_of(Load(1, [one], began=0.0, busy_until=1.0, ended=1.0))
    return replace(made, output_tokens_per_second=tokens_per_second)


def test_medians_spreads_and_ratios_are_those_of_the_rounds() -> None:
    target = Target(Endpoint.parse("http://x"), "m")
    run = Run(Plan((2,), 8, count=1, rounds=3), [target, target])
    speeds = [(100.0, 150.0), (50.0, 100.0), (80.0, 40.0)]
    for number, pair in enumerate(speeds):
        run.steps += [Step(server, 2, number, figures=figures(speed, 0.2 + server)) for server, speed in enumerate(pair)]
    first, second = levels_of(run)
    assert (first.figures["output_tokens_per_second"].median, first.rounds) == (80.0, 3)
    assert (second.figures["output_tokens_per_second"].low, second.figures["output_tokens_per_second"].high) == (40.0, 150.0)
    [difference] = differences_of(run)
    ratio = difference.ratios["output_tokens_per_second"]
    assert (ratio.median, ratio.low, ratio.high) == (statistics.median([1.5, 2.0, 0.5]), 0.5, 2.0)
    assert difference.ratios["ttft_ms.p50"].median == pytest.approx(1.2 / 0.2)
    assert set(numbers_of(figures(1, 1))) >= {"ttft_ms.p99", "gap_ms.max", "e2e_ms.mean", "requests_per_second"}


def test_one_server_has_no_ratios() -> None:
    run = Run(Plan((2,), 8, count=1), [Target(Endpoint.parse("http://x"), "m")], [Step(0, 2, 0, figures=figures(1, 1))])
    assert differences_of(run) == []


def saying(text: str, *, but: int = -1, other: str = "") -> object:
    """A server whose answer to prompt `but` is another one."""
    count = 0

    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        said = other if count == but else text
        count += 1
        writer.write(STREAM_HEAD + chunk(event(said[:3])) + chunk(event(said[3:]) + (DONE if said else b"")) + END)

    return answer


@pytest.mark.parametrize(
    ("but", "other", "equal", "failed", "words"),
    [
        (-1, "", 8, 0, "answers at temperature 0: 8 of 8 equal"),
        (2, "the same thought", 7, 0, "7 of 8 equal; prompt 3 parts after 9 characters: 'words' and 'thought'"),
        (5, "the same", 7, 0, "7 of 8 equal; prompt 6 parts after 8 characters: ' words' and ''"),
        (1, "", 7, 1, "7 of 8 equal, 1 not answered by both"),
    ],
)
async def test_two_servers_are_asked_whether_they_say_the_same(but: int, other: str, equal: int, failed: int, words: str) -> None:
    steady, odd = saying("the same words"), saying("the same words", but=but, other=other)
    async with fake(steady) as first, fake(odd) as second:  # type: ignore[arg-type]
        targets = [Target(Endpoint.parse(server.url), "m") for server in (first, second)]
        agreed = await agreement(PLAN, targets)
        bodies = [[asked.body for asked in server.asked] for server in (first, second)]
    assert (agreed.asked, agreed.equal, agreed.failed) == (8, equal, failed)
    assert agreed.words.endswith(words)
    assert bodies[0] == bodies[1]
    assert all(body["temperature"] == 0 for body in bodies[0])
