"""What was found, as the cells of one table: for the terminal, for Markdown, for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ecocore.bench.compare import Difference, Level, Spread, differences_of, levels_of
from ecocore.bench.document import NAMES
from ecocore.bench.figures import Figures
from ecocore.bench.plan import Run

# Heading, the figure below it, and whether its ratio is worth showing.
_COLUMNS: Final = {
    "tokens/s": "output_tokens_per_second",
    "requests/s": "requests_per_second",
    "first token p50": "ttft_ms.p50",
    "p95": "ttft_ms.p95",
    "p99": "ttft_ms.p99",
    "gap p50": "gap_ms.p50",
    "p95 ": "gap_ms.p95",
    "p99 ": "gap_ms.p99",
    "max": "gap_ms.max",
    "whole p50": "e2e_ms.p50",
}
HEADINGS: Final = ("streams", "server", *(heading.strip() for heading in _COLUMNS), "answers", "errors")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; a cell may have two lines. `is_ratio`: it holds the second server's figures over the first's."""

    cells: tuple[str, ...]
    is_ratio: bool = False


def rows_of(run: Run) -> list[Row]:
    """A row for each level and server, and below each pair of servers their ratio."""
    ratios = {difference.streams: difference for difference in differences_of(run)}
    rows = []
    for level in levels_of(run):
        rows.append(Row((str(level.streams), NAMES[level.server], *_figures(level), *_counts(run, level))))
        if level.server == 1 and level.streams in ratios:
            rows.append(Row(("", "B / A", *_ratios(ratios[level.streams]), "", ""), is_ratio=True))
    return rows


def notes_of(run: Run) -> list[str]:
    """What must be known to read the table, in sentences."""
    figures = figures_taken(run)
    notes = [f"{NAMES[place]}: {target.model} at {target.endpoint.url}." for place, target in enumerate(run.targets)]
    if run.plan.rounds > 1:
        notes.append(
            f"Medians of {run.plan.rounds} rounds; a ratio is the median of the rounds' own, with the lowest and the highest."
        )
    if figures:
        notes.append(f"Output tokens counted from {', '.join(sorted({one.tokens_from for one in figures}))}.")
    for place, target in enumerate(run.targets):
        if target.fields.dropped:
            notes.append(f"{NAMES[place]} takes no {', '.join(sorted(target.fields.dropped))}.")
    early = sum(count for one in figures for reason, count in one.finish_reasons.items() if reason != "length")
    if early:
        notes.append(f"{early} of {sum(one.requests for one in figures)} answers ended before they had all their tokens.")
    busiest = max((one.client_cores for one in figures), default=0.0)
    if busiest > BUSY_CLIENT:
        notes.append(f"The client itself used up to {busiest:.0%} of a core: the figures of that level measure it too.")
    if run.interrupted:
        notes.append("The run was broken off; what was measured until then stands here.")
    return notes


BUSY_CLIENT: Final = 0.7


def errors_of(run: Run) -> Mapping[tuple[str, int, str], int]:
    """How often each kind of failure happened, by server, streams and kind."""
    counts: dict[tuple[str, int, str], int] = {}
    for step in run.steps:
        for kind, count in step.figures.failed.items() if step.figures else ():
            place = (NAMES[step.server], step.streams, kind)
            counts[place] = counts.get(place, 0) + count
    return counts


def figures_taken(run: Run) -> list[Figures]:
    """Those of all steps."""
    return [step.figures for step in run.steps if step.figures is not None]


def markdown(run: Run) -> str:
    """The whole table with its notes, where the output goes on."""
    lines = [_line(HEADINGS), "|" + "--:|" * len(HEADINGS), *(_line(row.cells) for row in rows_of(run)), ""]
    lines += notes_of(run)
    lines += [f"{name}, {streams} streams: {count} x {kind}" for (name, streams, kind), count in errors_of(run).items()]
    return "\n".join(lines) + "\n"


def amount(value: float) -> str:
    """A rate, with three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def milliseconds(value: float) -> str:
    """A duration, with its unit."""
    return f"{amount(value)} ms"


def _figures(level: Level) -> list[str]:
    found = level.figures
    return [_figure(name, found[name].median) if name in found else "-" for name in _COLUMNS.values()]


def _figure(name: str, value: float) -> str:
    return milliseconds(value) if "_ms" in name else amount(value)


def _ratios(difference: Difference) -> list[str]:
    return [_times(difference.ratios[name]) if name in difference.ratios else "-" for name in _COLUMNS.values()]


def _times(spread: Spread) -> str:
    around = f"\n{spread.low:.2f} to {spread.high:.2f}" if spread.low != spread.high else ""
    return f"{spread.median:.2f}x{around}"


def _counts(run: Run, level: Level) -> tuple[str, str]:
    steps = [step for step in run.steps if (step.server, step.streams) == (level.server, level.streams)]
    figures = [step.figures for step in steps if step.figures is not None]
    return str(sum(one.requests for one in figures)), str(sum(sum(one.failed.values()) for one in figures))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ', ') for cell in cells)} |"
