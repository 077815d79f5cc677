"""A run -> one HTML page that needs nothing else: no script, no address, its plots inside, light or dark as the reader has it."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from ecocore.bench import plots
from ecocore.bench.compare import Agreement
from ecocore.bench.document import Setting
from ecocore.bench.machine import machine_line
from ecocore.bench.plan import Plan, Run
from ecocore.bench.table import HEADINGS, errors_of, notes_of, rows_of

_STYLE: Final = """
:root { color-scheme: light dark }
:root { --ink: #1b1f24; --paper: #fff; --line: #d6dae0; --soft: #59636e; --wash: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ec; --paper: #14171b; --line: #363d45; --soft: #9aa4ae; --wash: #1c2127 }
}
body { margin: 2rem auto; padding: 0 1rem; max-width: 76rem; background: var(--paper); color: var(--ink) }
body { font: 15px/1.5 system-ui, sans-serif }
h1 { font-size: 1.5rem; margin-bottom: 0 }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p, li { color: var(--soft); margin: .25rem 0; overflow-wrap: anywhere }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line) }
tr.ratio td { font-weight: 600; background: var(--wash) }
small { font-weight: 400; color: var(--soft) }
figure { margin: 0 }
svg { width: 100%; height: auto; max-width: 46rem }
"""
_READING: Final = (
    "First token: from when a request was due, connecting included, to the first event that holds part of the answer.",
    "Gap: between neighbouring events of a stream, by when their bytes reached the client; those of one read lie 0 ms apart.",
    "Rates: of the time in which every stream was busy, or of the whole where that saw no two answers of each.",
    "Warm-up is not counted, and no prompt was sent twice.",
)


def report(run: Run, agreement: Agreement | None, setting: Setting) -> str:
    """The page."""
    title = " and ".join(dict.fromkeys(target.model for target in run.targets))
    body = [
        f"<h1>{escape(title)}</h1>",
        _paragraph(f"ecocore bench, {setting.taken}. Client on {machine_line(setting.machine)}"),
        _paragraph(_plan_words(run.plan)),
        *map(_paragraph, notes_of(run)),
        *([_paragraph(f"Before measuring, {agreement.words}.")] if agreement is not None else []),
        "<h2>Figures</h2>",
        _table(HEADINGS, [(row.cells, row.is_ratio) for row in rows_of(run)]),
        *(_pictures(run) if run.steps else []),
        *_errors(run),
        "<h2>How to read them</h2>",
        "<ul>",
        *(f"<li>{escape(line)}</li>" for line in _READING),
        "</ul>",
    ]
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}: ecocore bench</title>'
    )
    lines = ["<!DOCTYPE html>", f'<html lang="en"><head>{head}<style>{_STYLE}</style></head><body>', *body, "</body></html>", ""]
    return "\n".join(lines)


def _plan_words(plan: Plan) -> str:
    each = f"{plan.count} requests" if plan.count is not None else f"{plan.seconds:g} s"
    asked = (
        f"a given prompt of {len(plan.prompt)} characters"
        if plan.prompt is not None
        else f"prompts of {plan.prompt_tokens} tokens"
    )
    rounds = f", {plan.rounds} rounds" if plan.rounds > 1 else ""
    return f"{each} for each level{rounds}; {asked}, answers of up to {plan.max_tokens}; seed {plan.seed}."


def _pictures(run: Run) -> Iterable[str]:
    yield from _picture("Throughput", plots.throughput(run))
    yield from _picture("Time to first token", plots.durations(run, "ttft_ms", "first token, ms"))
    yield from _picture("Gaps between tokens", plots.durations(run, "gap_ms", "gap, ms"))
    yield from _picture("How long the gaps were", plots.gaps(run))


def _picture(title: str, svg: str) -> Iterable[str]:
    yield f"<h2>{escape(title)}</h2>"
    yield f'<figure role="img" aria-label="{escape(title)}">{svg}</figure>'


def _errors(run: Run) -> Iterable[str]:
    errors = errors_of(run)
    if errors:
        yield "<h2>Errors</h2>"
        rows = [((name, str(streams), str(count), kind), False) for (name, streams, kind), count in errors.items()]
        yield _table(("server", "streams", "times", "kind"), rows)


def _table(headings: Sequence[str], rows: Iterable[tuple[Sequence[str], bool]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = [
        f"<tr{' class=ratio' if marked else ''}>" + "".join(f"<td>{_lines(cell)}</td>" for cell in cells) + "</tr>"
        for cells, marked in rows
    ]
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _lines(cell: str) -> str:
    first, _, second = cell.partition("\n")
    return f"{escape(first)}<br><small>{escape(second)}</small>" if second else escape(first)


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"
