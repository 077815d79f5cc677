"""`python -m benches.readme` writes anew what is made of the rows in benches/results/latest.json, and the README's tables."""

import sys
from pathlib import Path
from typing import Final

from benches import plots, report
from benches.figures import duration, ratio
from benches.harness import Row

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
LATEST: Final = ROOT / "benches" / "results" / "latest.json"

BEGIN: Final = "<!-- measured: written by python -m benches.readme -->\n"
END: Final = "<!-- measured: end -->\n"

# Beside the goals: (bench, workload, peer).
MORE: Final = (
    ("sample", "top_k 50 + top_p 0.9, peaked, V=128256, rows=1", "transformers processors"),
    ("frontend", "64 streams of 64 tokens", "json.dumps per event"),
    ("decode", "one stream, 64 tokens", "transformers float32"),
    ("decode", "8 streams, 64 tokens each", "transformers float32"),
)


def main() -> int:
    rows, settings, where = report.read(LATEST)
    report.write(LATEST, rows, settings, where)
    plots.write(LATEST.parent, rows)
    README.write_text(rendered(README.read_text("utf-8"), LATEST), "utf-8")
    return 0


def rendered(page: str, results: Path) -> str:
    """The page with what lies between the two marks made of the results."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + _tables(results) + END + after


def _tables(results: Path) -> str:
    rows, settings, where = report.read(results)
    goals = report.goals(rows)
    lines = [] if goals is None else report.markdown_lines(goals)
    more = [
        row for chosen in MORE for row in rows if (row.bench, row.workload, row.peer) == chosen and row.peer_timing is not None
    ]
    if more:
        lines += ["", "| workload | ecocore | peer | |", "|---|--:|--:|--:|", *map(_line, more)]
    return "\n".join([*lines, "", report.machine_line(where, settings)]) + "\n"


def _line(row: Row) -> str:
    assert row.peer_timing is not None
    ours, theirs = duration(row.ecocore.median), duration(row.peer_timing.median)
    told = ratio(row) if row.outputs == "equal" else row.outputs
    return f"| {row.bench}: {row.workload}, per {row.piece} | {ours} | {row.peer} {theirs} | {told} |"


if __name__ == "__main__":
    sys.exit(main())
