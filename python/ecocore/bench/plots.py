"""The figures of a run as pictures: SVG to stand inside a page, in the page's own colours for text and lines."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from ecocore.bench.compare import Level, levels_of
from ecocore.bench.document import NAMES
from ecocore.bench.figures import GAP_EDGES_MS
from ecocore.bench.plan import Run

# Both can be told apart on white, on near-black, and by eyes that see no red or green.
COLOURS: Final = ("#1f83d6", "#e0771b")
STYLES: Final = {"p50": "-", "p95": "--", "p99": ":"}
# Stand for what the page decides; no plot has these colours of its own.
_INK: Final = "#010203"
_GRID: Final = "#040506"
_LOOK: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "legend.frameon": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK),
}


def throughput(run: Run) -> str:
    """Output tokens in a second over the number of streams; bars from the lowest round to the highest."""

    def draw(axes: Axes) -> None:
        for server, levels in _by_server(run):
            spreads = [level.figures["output_tokens_per_second"] for level in levels]
            middle = [spread.median for spread in spreads]
            around = [[spread.median - spread.low for spread in spreads], [spread.high - spread.median for spread in spreads]]
            streams = [level.streams for level in levels]
            axes.errorbar(streams, middle, around, color=COLOURS[server], marker="o", capsize=3, label=NAMES[server])
        axes.set_ylim(bottom=0)
        _over_streams(axes, run, "output tokens/s")

    return _svg("throughput", draw)


def durations(run: Run, name: str, label: str) -> str:
    """Percentiles of `name`, "ttft_ms" or "gap_ms", over the number of streams."""

    def draw(axes: Axes) -> None:
        for server, levels in _by_server(run):
            for share, style in STYLES.items():
                points = [
                    (level.streams, level.figures[f"{name}.{share}"].median)
                    for level in levels
                    if f"{name}.{share}" in level.figures
                ]
                # A logarithm has no place for nothing: events that share a read lie 0 ms apart.
                shown = [(streams, max(value, GAP_EDGES_MS[0])) for streams, value in points]
                if shown:
                    axes.plot(
                        *zip(*shown, strict=True), style, color=COLOURS[server], marker="o", label=f"{NAMES[server]} {share}"
                    )
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        axes.yaxis.set_minor_formatter(NullFormatter())
        _over_streams(axes, run, label)

    return _svg(name, draw)


def gaps(run: Run) -> str:
    """How often gaps of each length were seen, a picture for each level, all servers in each."""
    levels = [streams for streams in run.plan.levels if any(step.streams == streams for step in run.steps)]

    def draw(*many: Axes) -> None:
        for axes, streams in zip(many, levels, strict=True):
            for server in range(len(run.targets)):
                counts = _gap_counts(run, server, streams)
                shares = [100 * count / max(1, sum(counts)) for count in counts]
                edges = [GAP_EDGES_MS[0] / 10**0.1, *GAP_EDGES_MS, GAP_EDGES_MS[-1] * 10**0.1]
                axes.stairs(shares, edges, fill=True, color=COLOURS[server], alpha=0.35)
                axes.stairs(shares, edges, color=COLOURS[server], label=NAMES[server])
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(_plain))
            axes.set_title(f"{streams} stream{'s' * (streams > 1)}", fontsize=9)
            axes.set_xlabel("gap, ms")
            axes.set_ylabel("% of gaps")
            _limit(axes, [_gap_counts(run, server, streams) for server in range(len(run.targets))])
            axes.legend()

    return _svg("gaps", draw, panels=len(levels))


def _gap_counts(run: Run, server: int, streams: int) -> list[int]:
    counts = [0] * (len(GAP_EDGES_MS) + 1)
    for step in run.steps:
        if (step.server, step.streams) == (server, streams) and step.figures is not None:
            counts = [sum(pair) for pair in zip(counts, step.figures.gap_counts, strict=True)]
    return counts


def _limit(axes: Axes, counts: Sequence[Sequence[int]]) -> None:
    """To the decades in which there is something."""
    places = [place for one in counts for place, count in enumerate(one) if count]
    if places:
        first, last = max(0, min(places) - 1), min(len(GAP_EDGES_MS) - 1, max(places))
        axes.set_xlim(GAP_EDGES_MS[first] / 1.3, GAP_EDGES_MS[last] * 1.3)


def _by_server(run: Run) -> list[tuple[int, list[Level]]]:
    levels = levels_of(run)
    return [(server, [level for level in levels if level.server == server]) for server in range(len(run.targets))]


def _over_streams(axes: Axes, run: Run, label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(run.plan.levels), [str(streams) for streams in sorted(run.plan.levels)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("streams")
    axes.set_ylabel(label)
    axes.legend()


def _plain(value: float, _place: int | None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"


def _svg(name: str, draw: Callable[..., None], panels: int = 1) -> str:
    """A drawing as an element to stand inside a page: without a prologue, without addresses of any kind."""
    with rc_context({**_LOOK, "svg.hashsalt": name}):
        columns = min(2, panels)
        rows = -(-panels // max(1, columns))
        drawing = Drawing(figsize=(7.2, 3.2 if rows == 1 else 2.6 * rows), layout="constrained")
        axes: list[Any] = [drawing.add_subplot(rows, columns, place + 1) for place in range(panels)]
        draw(*axes)
        bytes_ = io.BytesIO()
        drawing.savefig(bytes_, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = bytes_.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r'\s+xmlns(?::\w+)?="[^"]*"', "", text)
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace(_INK, "currentColor").replace(_GRID, "var(--line)").strip()
