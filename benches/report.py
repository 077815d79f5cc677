"""Rows as a table, Markdown or JSON, with the line that says where they were measured."""

import json
import math
import os
import platform
import re
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benches.harness import Row, Settings, Timing

PACKAGES = ("ecocore", "torch", "transformers", "tokenizers", "numpy")
HEADINGS = ("workload", "ecocore", "", "peer", "its time", "", "wall", "CPU")


def machine() -> dict[str, Any]:
    """What the figures depend on; never a host name or a path."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "simd": _simd(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "load_average": round(os.getloadavg()[0], 2),
    }


def document(rows: list[Row], settings: Settings, where: dict[str, Any]) -> dict[str, Any]:
    """Everything a run found out, for programs."""
    return {"machine": where, **asdict(settings), "rows": [asdict(row) for row in rows]}


def write(path: Path, rows: list[Row], settings: Settings, where: dict[str, Any]) -> None:
    """Writes `path` (JSON) and the same name with .md."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(rows, settings, where), indent=1) + "\n", "utf-8")
    path.with_suffix(".md").write_text(markdown(rows, settings, where), "utf-8")


def show(console: Console, rows: list[Row], settings: Settings, where: dict[str, Any]) -> None:
    """Prints the table: drawn on a terminal, Markdown where the output goes on."""
    if not console.is_terminal:
        print(markdown(rows, settings, where), end="")
        return
    table = Table(title=None, caption=machine_line(where, settings), pad_edge=False)
    for heading, align in zip(HEADINGS, "lrrlrrrr", strict=True):
        table.add_column(heading, justify="right" if align == "r" else "left")
    before = rows[0].bench if rows else ""
    for row in rows:
        if row.bench != before:
            table.add_section()
            before = row.bench
        style = {"inexact": "yellow", "absent": "dim"}.get(row.outputs, "")
        table.add_row(*_cells(row), style=style)
    console.print(table)


def markdown(rows: list[Row], settings: Settings, where: dict[str, Any]) -> str:
    """The table for a page."""
    lines = [machine_line(where, settings), "", _line(HEADINGS), "|---|--:|--:|---|--:|--:|--:|--:|"]
    lines += [_line(_cells(row)) for row in rows]
    return "\n".join(lines) + "\n"


def machine_line(where: dict[str, Any], settings: Settings) -> str:
    """Where and how, in one sentence."""
    tiny = ", tiny sizes: not for comparison" if settings.quick else ""
    return f"{place(where)} Median (lowest to highest) of {settings.rounds} interleaved rounds{tiny}."


def place(where: dict[str, Any]) -> str:
    """Where, in one sentence."""
    packages = ", ".join(f"{name} {number}" for name, number in where["packages"].items())
    return (
        f"{where['cpu']} ({where['simd']}), {where['cores']} cores, {where['system']}, load {where['load_average']}; "
        f"Python {where['python']}, {packages}."
    )


def _cells(row: Row) -> tuple[str, ...]:
    threads = f", {row.threads} threads" if row.threads > 1 else ""
    return (
        f"{row.bench}: {row.workload}, per {row.piece}{threads}",
        _time(row.ecocore),
        _rate(row.ecocore, row.rate),
        row.peer,
        _time(row.peer_timing),
        _rate(row.peer_timing, row.rate),
        _verdict(row),
        "" if row.cpu_ratio is None or row.outputs != "equal" else f"{_three(row.cpu_ratio)}x",
    )


def _verdict(row: Row) -> str:
    """Says "faster" only next to a peer whose output was equal."""
    if row.outputs != "equal" or row.wall_ratio is None:
        return row.outputs
    return f"{_three(row.wall_ratio)}x faster" if row.wall_ratio >= 1 else f"{_three(1 / row.wall_ratio)}x slower"


def _time(timing: Timing | None) -> str:
    if timing is None:
        return "absent"
    scale, unit = (1e3, "ms") if timing.median >= 1e3 else (1.0, "us") if timing.median >= 1 else (1e-3, "ns")
    median, low, high = (_three(value / scale) for value in (timing.median, timing.low, timing.high))
    return f"{median} {unit} ({low} to {high})"


def _rate(timing: Timing | None, rate: tuple[float, str] | None) -> str:
    if timing is None or rate is None:
        return ""
    amount, unit = rate
    return f"{_three(amount * 1e6 / timing.median)} {unit}"


def _three(value: float) -> str:
    """Three significant digits, grouped, without an exponent."""
    if value <= 0:
        return "0"
    digits = 2 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _version(package: str) -> str:
    if package == "ecocore":
        from ecocore import __version__

        return __version__
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _cpu_info() -> str:
    try:
        return Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return ""


def _cpu_model() -> str:
    found = re.search(r"model name\s*: (.+)", _cpu_info())
    return found[1].strip() if found else platform.machine()


def _simd() -> str:
    flags = set(_cpu_info().split())
    names = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    return next((name for flag, name in names.items() if flag in flags), "no known SIMD")
