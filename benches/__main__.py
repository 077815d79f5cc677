"""`python -m benches`: measures, prints the tables, and writes benches/results/ after a whole run."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from benches import plots, report
from benches.harness import Row, Settings
from benches.suite import BENCHES, measure

LATEST = Path(__file__).parent / "results" / "latest.json"


def main() -> int:
    options = _parser().parse_args()
    rounds = options.rounds or (2 if options.quick else 5)
    settings = Settings(rounds, options.quick, options.peers, options.vocabularies)
    where = report.machine(options.peers)
    rows: list[Row] = []
    for name in [options.only] if options.only else BENCHES:
        rows += measure(name, settings)
    report.show(Console(), rows, settings, where)
    path = options.json or (None if options.only or options.quick else LATEST)
    if path is not None:
        report.write(path, rows, settings, where)
        plots.write(path.parent, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benches", description=__doc__)
    parser.add_argument("--only", choices=BENCHES, help="one bench")
    parser.add_argument("--rounds", type=_at_least_two, help="rounds of each contender (default 5)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes and 2 rounds: shows that everything runs")
    parser.add_argument("--peers", type=Path, metavar="PYTHON", help="of an environment with other tokenizers")
    parser.add_argument("--vocabularies", type=Path, metavar="FOLDER", help="for other models' files; fetched once")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results here, and as Markdown beside it")
    return parser


def _at_least_two(text: str) -> int:
    rounds = int(text)
    if rounds < 2:
        raise argparse.ArgumentTypeError("must be at least 2")
    return rounds


if __name__ == "__main__":
    sys.exit(main())
