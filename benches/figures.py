"""Figures as people read them: times, rates, ratios."""

import math

from benches.harness import Row, Timing


def ratio(row: Row) -> str:
    """Of the wall's times; the processor's beside it where that is smaller by a tenth: part of the advantage is parallel work."""
    assert row.wall_ratio is not None
    less = row.cpu_ratio is not None and row.cpu_ratio < 0.9 * row.wall_ratio
    return f"{three(row.wall_ratio)}x" + (f" (CPU {three(row.cpu_ratio or 0)}x)" if less else "")


def quantity(timing: Timing, rate: tuple[float, str] | None) -> str:
    """The median, as a rate where the case has one, and half of the spread in percent."""
    spread = f"±{50 * (timing.high - timing.low) / timing.median:.0f}%" if timing.median else ""
    if rate is None:
        return f"{duration(timing.median)} {spread}"
    amount, unit = rate
    return f"{three(amount * 1e6 / timing.median)} {unit} {spread}"


def duration(microseconds: float) -> str:
    """In the unit that makes it a number from 1 to 999."""
    scales = ((1e6, "s"), (1e3, "ms"), (1.0, "us"), (1e-3, "ns"))
    scale, unit = next((one for one in scales if microseconds >= one[0]), scales[-1])
    return f"{three(microseconds / scale)} {unit}"


def three(value: float) -> str:
    """Three significant digits, grouped, without an exponent."""
    if value <= 0:
        return "0"
    digits = 2 - math.floor(math.log10(value))
    return f"{round(value, digits):,.{max(0, digits)}f}"
