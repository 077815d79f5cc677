"""Draws the table of a run that goes on, in a process of its own: `python -m ecocore.bench.screen`.

Takes lines of JSON on standard input, each the whole table as rows of (style, cells), and draws the latest on standard
error until there are no more. Drawing takes 5 to 15 ms, in which the process that reads the streams would read none.
"""

import json
import sys
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

HEADINGS: Final = ("streams", "server", "round", "state", "answers", "tokens/s", "first token", "errors")


def main() -> None:
    """Draws until the end of the input, then takes the table off the screen."""
    with Live(_table([]), console=Console(stderr=True), auto_refresh=False, transient=True) as live:
        for line in sys.stdin:
            live.update(_table(json.loads(line)), refresh=True)


def _table(rows: list[tuple[str, list[str]]]) -> Table:
    table = Table(pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "state" else "right")
    for style, cells in rows:
        table.add_row(*cells, style=style)
    return table


if __name__ == "__main__":
    main()
