"""Rows as pictures: bars in SVG, one for each contender, light or dark as the page's reader has it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from benches.figures import duration, three
from benches.harness import Row, Timing

_WIDTH: Final = 760
_LEFT: Final = 170  # where bars begin
_BAR: Final = 15
_LINE: Final = 19
_GAP: Final = 34  # for the name of a group
_LONGEST: Final = 430

_STYLE: Final = """
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-weight: 600; font-size: 14px; }
.group { font-weight: 600; }
.name { text-anchor: end; }
.ours { fill: #1f83d6; }
.peer { fill: #b3bac2; }
.inexact { fill: none; stroke: #b3bac2; stroke-dasharray: 3 2; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.peer { fill: #59616b; }
.inexact { stroke: #59616b; }
}
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """`length` from 0 to 1 of the picture's width."""

    name: str
    length: float
    label: str
    look: str


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    bars: list[Bar]


def write(folder: Path, rows: Sequence[Row]) -> None:
    """A picture for each bench that has one, where its rows are there."""
    for name, picture in pictures(rows).items():
        (folder / f"{name}.svg").write_text(picture, "utf-8")


def pictures(rows: Sequence[Row]) -> dict[str, str]:
    """By name."""
    models = ("SmolLM2", "Llama 3", "Qwen2", "Gemma 4")
    fresh = [f"{model}, fresh, geometric mean" for model in models]
    sample = [f"{kept}, V=128256, rows=1" for kept in ("top_p 0.9, peaked", "top_p 0.9, flat", "top_k 50 + top_p 0.9, peaked")]
    stream = ["256 streams, 4 stop strings each", *(f"one stream of {length} tokens" for length in ("1,024", "16,384", "65,536"))]
    made = {
        "tokenize": ("Fresh text, one thread, MB/s: longer is better", _rates(rows, fresh)),
        "sample": ("One row, one thread, logarithmic: shorter is better", _times(rows, sample)),
        "text-stream": ("Ids to text, one thread, logarithmic: shorter is better", _times(rows, stream)),
    }
    return {name: _svg(title, groups) for name, (title, groups) in made.items() if groups}


def _rates(rows: Sequence[Row], workloads: Sequence[str]) -> list[Group]:
    """Linear from 0 to the fastest of all."""
    groups = list(_contenders(rows, workloads))
    fastest = max((1 / timing.median for _, bars in groups for _, timing, _ in bars), default=1.0)
    return [
        Group(name, [Bar(who, 1 / timing.median / fastest, f"{three(1e6 / timing.median)}", look) for who, timing, look in bars])
        for name, bars in groups
    ]


def _times(rows: Sequence[Row], workloads: Sequence[str]) -> list[Group]:
    """Logarithmic, from a third of the shortest time to the longest."""
    groups = list(_contenders(rows, workloads))
    times = [timing.median for _, bars in groups for _, timing, _ in bars]
    low, high = (min(times) / 3, max(times)) if times else (1.0, 1.0)
    return [
        Group(
            name,
            [
                Bar(who, math.log(timing.median / low) / math.log(high / low), duration(timing.median), look)
                for who, timing, look in bars
            ],
        )
        for name, bars in groups
    ]


def _contenders(rows: Sequence[Row], workloads: Sequence[str]) -> Iterator[tuple[str, list[tuple[str, Timing, str]]]]:
    for workload in workloads:
        found = [row for row in rows if row.workload == workload]
        if found:
            peers = [(row.peer, row.peer_timing, row.outputs) for row in found if row.peer_timing is not None]
            looks = [(peer, timing, "peer" if outputs == "equal" else "inexact") for peer, timing, outputs in peers]
            yield f"{workload}, per {found[0].piece}", [("ecocore", found[0].ecocore, "ours"), *looks]


def _svg(title: str, groups: Sequence[Group]) -> str:
    drawn, top = [f'<text class="title" x="8" y="20">{escape(title)}</text>'], 28
    for group in groups:
        drawn.append(f'<text class="group" x="8" y="{top + 22}">{escape(group.name)}</text>')
        top += _GAP
        for bar in group.bars:
            drawn.extend(_bar(bar, top))
            top += _LINE
    size = f'viewBox="0 0 {_WIDTH} {top + 8}" width="{_WIDTH}" height="{top + 8}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">'
    return "\n".join([head, f"<style>{_STYLE}</style>", *drawn, "</svg>"]) + "\n"


def _bar(bar: Bar, top: int) -> Iterator[str]:
    width, note = max(1.0, bar.length * _LONGEST), " (inexact)" if bar.look == "inexact" else ""
    yield f'<text class="name" x="{_LEFT - 8}" y="{top + 12}">{escape(bar.name)}</text>'
    yield f'<rect class="{bar.look}" x="{_LEFT}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>'
    yield f'<text x="{_LEFT + width + 6:.1f}" y="{top + 12}">{escape(bar.label + note)}</text>'
