"""Instructions of the tokenizer, the sampler and the text stream: counted by callgrind, compared with committed counts.

`python -m benches.instructions` says which workload changed by more than two in a hundred, and exit status 1 says that one grew;
`--update` writes benches/results/instructions.json anew. Unlike times, counts are the same on a busy machine. They depend on the
compiler and on the vectors that valgrind's processor has, so counts of other ones are not compared.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import which
from typing import Final

ROOT: Final = Path(__file__).parents[1]
RESULTS: Final = ROOT / "benches" / "results" / "instructions.json"
TOLERANCE: Final = 0.02
TIMES: Final = 4


@dataclass(frozen=True)
class Counts:
    """What was counted, and what else the counts depend on."""

    compiler: str
    vectors: str
    instructions: dict[str, int]
    """Of one repetition of each workload."""


class Incomparable(Exception):
    """Counts of another compiler or other vectors: says which."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the counts instead of comparing them")
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    options = parser.parse_args(arguments)
    if options.update and options.only:
        parser.error("--update counts every workload")
    counted = count(options.only)
    if options.update:
        write(counted, RESULTS)
        sys.stdout.write(f"written to {RESULTS.relative_to(ROOT)}\n")
        return 0
    try:
        lines, grown = compare(read(RESULTS), counted)
    except Incomparable as reason:
        sys.stdout.write(f"{reason}\n")
        return 0
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return int(grown)


def count(only: str = "") -> Counts:
    """Builds the driver and runs each of its workloads under callgrind."""
    if which("valgrind") is None:
        raise SystemExit("valgrind is absent: install it, for example Debian's package of that name")
    driver = _build()
    compiler = _output(["rustc", "--version"])
    vectors = _output([*_VALGRIND_NONE, str(driver), "vectors"])
    instructions = {}
    for name in _output([str(driver), "workloads"]).splitlines():
        if only in name:
            instructions[name] = _instructions(driver, name) // TIMES
            sys.stderr.write(f"{name}: {instructions[name]:,}\n")
    return Counts(compiler, vectors, instructions)


def compare(known: Counts, counted: Counts) -> tuple[list[str], bool]:
    """One line for each workload, and whether any takes more than it did. Raises Incomparable."""
    if (known.compiler, known.vectors) != (counted.compiler, counted.vectors):
        raise Incomparable(
            f"not compared: the committed counts are of {known.compiler} with {known.vectors}, these of {counted.compiler} "
            f"with {counted.vectors}; `make instructions ARGS=--update` writes these"
        )
    lines, grown = [], False
    for name, now in counted.instructions.items():
        if name not in known.instructions:
            lines.append(f"NEW      {name}: {now:,}; `make instructions ARGS=--update` writes it down")
            grown = True
            continue
        before = known.instructions[name]
        change = now / before - 1
        word = "GREW" if change > TOLERANCE else "shrank" if change < -TOLERANCE else "same"
        grown |= word == "GREW"
        lines.append(f"{word:8} {name}: {before:,} -> {now:,} ({change:+.1%})")
    return lines, grown


def read(path: Path) -> Counts:
    """The committed counts."""
    return Counts(**json.loads(path.read_text("utf-8")))


def write(counts: Counts, path: Path) -> None:
    """Commits to these counts."""
    path.write_text(json.dumps(asdict(counts), indent=2) + "\n", "utf-8")


# The driver asks for its process's number when its preparation ends.
_CALLGRIND: Final = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--zero-before=getpid")
_VALGRIND_NONE: Final = ("valgrind", "--quiet", "--tool=none")


def _build() -> Path:
    """The driver, optimised like everything else that is measured."""
    command = ["cargo", "bench", "--no-run", "--bench", "instructions", "--message-format=json"]
    for line in _output(command).splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "instructions":
            return Path(message["executable"])
    raise SystemExit("cargo made no driver")


def _instructions(driver: Path, name: str) -> int:
    """Of a workload done several times. One thread beside the main one, so that their order is always the same."""
    command = [*_CALLGRIND, str(driver), name, str(TIMES)]
    ran = subprocess.run(
        command, cwd=ROOT, check=False, capture_output=True, text=True, env=os.environ | {"RAYON_NUM_THREADS": "1"}
    )
    found = re.search(r"Collected : (\d+)", ran.stderr)
    if ran.returncode or found is None:
        raise SystemExit(f"{name} failed under callgrind:\n{ran.stderr}")
    return int(found[1])


def _output(command: list[str]) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
