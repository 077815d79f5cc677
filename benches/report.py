"""Rows as tables, Markdown or JSON, with the line that says where they were measured.

A table has a line for each workload and a column for each contender; workloads with the same peers share one.
"""

import json
import subprocess
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table as RichTable

from benches import targets
from benches.figures import quantity, ratio
from benches.harness import Row, Settings, Timing
from ecocore.bench.machine import machine as described
from ecocore.bench.machine import machine_line as place

PACKAGES: Final = ("torch", "transformers", "tokenizers", "numpy")
PEER_PACKAGES: Final = ("tokenizers", "gigatoken", "fastokens", "splintr-rs", "tiktoken", "llama-cpp-python")

_VERSIONS: Final = """
import importlib.metadata, json, sys
there = {p.metadata["name"].replace("_", "-"): p.version for p in importlib.metadata.distributions()}
print(json.dumps({name: there[name] for name in sys.argv[1:] if name in there}))
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Workloads that have the same peers. `notes` tell why a peer is absent and how many outputs differ."""

    bench: str
    headings: tuple[str, ...]
    lines: list[tuple[str, ...]]
    notes: list[str]


def machine(peers: Path | None = None) -> dict[str, Any]:
    """What the figures depend on. `peers`: the interpreter of the peers that live apart."""
    return described(PACKAGES) | {"peers": {} if peers is None else _versions(peers)}


def _versions(python: Path) -> dict[str, str]:
    ran = subprocess.run([python, "-c", _VERSIONS, *PEER_PACKAGES], check=True, capture_output=True, text=True)
    versions: dict[str, str] = json.loads(ran.stdout)
    return versions


def document(rows: list[Row], settings: Settings, where: dict[str, Any]) -> dict[str, Any]:
    """Everything a run found out, for programs."""
    return {
        "machine": where,
        "rounds": settings.rounds,
        "quick": settings.quick,
        "targets": [] if settings.quick else [asdict(verdict) for verdict in targets.verdicts(rows)],
        "rows": [asdict(row) for row in rows],
    }


def read(path: Path) -> tuple[list[Row], Settings, dict[str, Any]]:
    """What `document` wrote."""
    told = json.loads(path.read_text("utf-8"))
    return [_row(row) for row in told["rows"]], Settings(rounds=told["rounds"], quick=told["quick"]), told["machine"]


def _row(fields: dict[str, Any]) -> Row:
    timings = {name: fields[name] and Timing(**fields[name]) for name in ("ecocore", "peer_timing")}
    pairs = {name: fields[name] and tuple(fields[name]) for name in ("rate", "texts")}
    return Row(**fields | timings | pairs)


def write(path: Path, rows: list[Row], settings: Settings, where: dict[str, Any]) -> None:
    """Writes `path` (JSON, a line for each row) and the same name with .md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = document(rows, settings, where)
    lines = ",\n".join(json.dumps(row) for row in told.pop("rows"))
    path.write_text(f'{json.dumps(told, indent=1)[:-2]},\n "rows": [\n{lines}\n ]\n}}\n', "utf-8")
    path.with_suffix(".md").write_text(markdown(rows, settings, where), "utf-8")


def show(console: Console, rows: list[Row], settings: Settings, where: dict[str, Any]) -> None:
    """Prints the tables: drawn on a terminal, Markdown where the output goes on."""
    if not console.is_terminal:
        print(markdown(rows, settings, where), end="")
        return
    for table in _all_tables(rows, settings):
        drawn = RichTable(title=table.bench, pad_edge=False)
        for heading in table.headings:
            drawn.add_column(heading, justify="left" if heading == table.headings[0] else "right")
        for line in table.lines:
            drawn.add_row(*line)
        console.print(drawn)
        for note in table.notes:
            console.print(note)
    console.print(machine_line(where, settings))


def markdown(rows: list[Row], settings: Settings, where: dict[str, Any]) -> str:
    """The tables for a page."""
    lines = [machine_line(where, settings)]
    for bench, of_bench in groupby(_all_tables(rows, settings), key=lambda table: table.bench):
        lines += ["", f"## {bench}"]
        for table in of_bench:
            lines += ["", *markdown_lines(table)]
            lines += ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join(lines) + "\n"


def markdown_lines(table: Table) -> list[str]:
    """A table without its notes."""
    return [_line(table.headings), "|---|" + "--:|" * (len(table.headings) - 1), *map(_line, table.lines)]


def machine_line(where: dict[str, Any], settings: Settings) -> str:
    """Where and how, in one sentence."""
    tiny = ", tiny sizes: not for comparison" if settings.quick else ""
    peers = ", ".join(f"{name} {number}" for name, number in where["peers"].items())
    apart = f" In an environment of their own: {peers}." if peers else ""
    # What runs beside a bench takes turns with both sides, but not evenly.
    busy = " Other work ran beside it: read the ratios." if (where["load_average"] or 0) > 1 else ""
    return f"{place(where)}{apart}{busy} Median and spread of {settings.rounds} interleaved rounds{tiny}."


def tables(rows: list[Row]) -> list[Table]:
    """Rows come workload by workload, each with all its peers."""
    works = [list(group) for _, group in groupby(rows, key=lambda row: (row.bench, row.workload))]
    alike = groupby(works, key=lambda work: (work[0].bench, work[0].threads, tuple(row.peer for row in work)))
    return [_table(bench, threads, peers, list(group)) for (bench, threads, peers), group in alike]


def goals(rows: list[Row]) -> Table | None:
    """What the suite is to show, beside what it found."""
    verdicts = targets.verdicts(rows)
    lines: list[tuple[str, ...]] = [(verdict.what, verdict.goal, verdict.measured) for verdict in verdicts]
    return Table("goals", ("what", "goal", "measured"), lines, []) if lines else None


def _all_tables(rows: list[Row], settings: Settings) -> list[Table]:
    first = None if settings.quick else goals(rows)
    return tables(rows) if first is None else [first, *tables(rows)]


def _table(bench: str, threads: int, peers: tuple[str, ...], works: list[list[Row]]) -> Table:
    workload = "workload" if threads == 1 else f"workload, {threads} threads"
    lines = []
    for work in works:
        first = work[0]
        lines.append((f"{first.workload}, per {first.piece}", quantity(first.ecocore, first.rate), *map(_cell, work)))
    notes = {_note(row): None for work in works for row in work}
    return Table(bench, (workload, "ecocore", *peers), lines, [note for note in notes if note])


def _cell(row: Row) -> str:
    """Says how many times faster only beside a peer whose output was equal."""
    if row.peer_timing is None:
        return "absent"
    told = quantity(row.peer_timing, row.rate)
    return f"{told}, {ratio(row)}" if row.outputs == "equal" and row.wall_ratio is not None else f"{told}, {row.outputs}"


def _note(row: Row) -> str:
    if row.outputs == "absent":
        return f"{row.peer} is absent from {row.workload.partition(',')[0]}: {row.note}" if row.note else ""
    if row.outputs == "inexact":
        count = f": {row.texts[0]} of {row.texts[1]} texts differ" if row.texts else ""
        return f"{row.peer} is inexact in {row.workload}{count}"
    return ""


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
