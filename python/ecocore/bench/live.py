"""The run as it goes: a table that fills in on a terminal, a line for each step elsewhere. At the end, what was found."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ecocore.bench.document import NAMES
from ecocore.bench.figures import Figures, Percentiles, percentile
from ecocore.bench.plan import Run, Step
from ecocore.bench.table import HEADINGS, amount, errors_of, markdown, milliseconds, notes_of, rows_of

SECONDS_A_DRAWING: Final = 0.5
# A terminal that takes nothing must not fill the memory.
MAX_UNDRAWN_BYTES: Final = 65536

# Its style, and its cells as `screen` has them.
Line = tuple[str, tuple[str, ...]]


class View:
    """Shows a run, or with `quiet` only what was found."""

    def __init__(self, *, quiet: bool, progress: Console | None = None, result: Console | None = None) -> None:
        """`progress` goes to standard error and `result` to standard output unless they are given."""
        self._progress = progress or Console(stderr=True, highlight=False)
        self._result = result or Console(highlight=False)
        self._quiet = quiet

    def say(self, line: str) -> None:
        """One line of news."""
        if not self._quiet:
            self._progress.print(Text(line), soft_wrap=True)

    def tell(self, line: str) -> None:
        """One line of what was found."""
        self._result.print(Text(line), soft_wrap=True)

    def on_step(self, step: Step) -> None:
        """A step is over."""
        if not self._progress.is_terminal:
            self.say(_step_line(step))

    @asynccontextmanager
    async def following(self, run: Run) -> AsyncIterator[None]:
        """Draws the table again and again meanwhile, where there is a terminal to draw on."""
        if self._quiet or not self._progress.is_terminal:
            yield
            return
        command = sys.executable, "-m", "ecocore.bench.screen"
        # In a session of its own it does not hear Ctrl-C, and stays until the table is to go.
        screen = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.PIPE, start_new_session=True)
        assert screen.stdin is not None
        drawing = asyncio.create_task(_draw(screen.stdin, run))
        try:
            yield
        finally:
            drawing.cancel()
            screen.stdin.close()
            await screen.wait()

    def show(self, run: Run) -> None:
        """What was found: drawn on a terminal, Markdown where the output goes on."""
        if not self._result.is_terminal:
            self._result.file.write(markdown(run))
            return
        table = Table(pad_edge=False)
        for heading in HEADINGS:
            table.add_column(heading, justify="right")
        for row in rows_of(run):
            table.add_row(*row.cells, style="bold" if row.is_ratio else "", end_section=row.is_ratio)
        self._result.print(table)
        for note in notes_of(run):
            self._result.print(Text(note), soft_wrap=True)
        for (name, streams, kind), count in errors_of(run).items():
            self._result.print(Text(f"{name}, {streams} streams: {count} x {kind}", style="red"), soft_wrap=True)


async def _draw(pipe: asyncio.StreamWriter, run: Run) -> None:
    with suppress(ConnectionError):
        while True:
            if pipe.transport.get_write_buffer_size() < MAX_UNDRAWN_BYTES:
                pipe.write(json.dumps(list(progress(run))).encode() + b"\n")
            await asyncio.sleep(SECONDS_A_DRAWING)


def progress(run: Run) -> Iterator[Line]:
    """Every step of the plan: those done, the one that runs, those that wait."""
    for step in run.steps:
        assert step.figures is not None
        yield "", (*_place(step), "done", *_done(step.figures))
    if run.step is not None:
        yield "bold", (*_place(run.step), *_running(run.step))
    plan = run.plan
    planned = [
        (str(streams), NAMES[server], str(number + 1))
        for streams in plan.levels
        for number in range(plan.rounds)
        for server in range(len(run.targets))
    ]
    for place in planned[len(run.steps) + (run.step is not None) :]:
        yield "dim", (*place, "waiting")


def _place(step: Step) -> tuple[str, str, str]:
    return str(step.streams), NAMES[step.server], str(step.round + 1)


def _done(figures: Figures) -> tuple[str, str, str, str]:
    errors = sum(figures.failed.values())
    return str(figures.requests), amount(figures.output_tokens_per_second), _at(figures.ttft_ms, "p50"), str(errors)


def _running(step: Step) -> tuple[str, ...]:
    if step.warming:
        return ("warming up",)
    load = step.load
    told = [*load.outcomes, *load.open.values()]
    events = sum(len(outcome.times) for outcome in told)
    firsts = sorted(outcome.times[0] - outcome.due for outcome in told if outcome.times)
    errors = sum(outcome.failure is not None for outcome in load.outcomes)
    first = milliseconds(1e3 * percentile(firsts, 0.5)) if firsts else "-"
    answers = len(load.outcomes) - errors
    return f"{load.seconds:.0f} s", str(answers), amount(events / max(load.seconds, 1e-3)), first, str(errors)


def _step_line(step: Step) -> str:
    figures = step.figures
    assert figures is not None
    errors = ", ".join(f"{count} x {kind}" for kind, count in figures.failed.items()) or "no errors"
    return (
        f"{time.strftime('%H:%M:%S')} {NAMES[step.server]}, {step.streams} streams, round {step.round + 1}: "
        f"{figures.requests} answers, {amount(figures.output_tokens_per_second)} tokens/s, "
        f"first token {_pair(figures.ttft_ms)}, gap {_pair(figures.gap_ms)}, {errors}{', broken off' if step.broken_off else ''}"
    )


def _pair(durations: Percentiles | None) -> str:
    return f"{_at(durations, 'p50')} (p99 {_at(durations, 'p99')})"


def _at(durations: Percentiles | None, share: str) -> str:
    return "-" if durations is None else milliseconds(getattr(durations, share))
