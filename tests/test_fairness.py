"""A key that asks for little beside one that floods the engine: the schedule's own figures, in counted time."""

import pytest
from benches.fairness import TARGET_FACTOR, TARGET_PART, verdict


@pytest.mark.parametrize(
    ("light_prompt", "factor"),
    [
        (1024, TARGET_FACTOR),
        (256, TARGET_FACTOR),
        # Alone, so short a prompt takes less than the step that is in flight when it comes beside a flood.
        (64, 2.5),
    ],
)
def test_a_light_key_hardly_feels_a_flood_and_costs_it_nothing(light_prompt: int, factor: float) -> None:
    one = verdict(light_prompt, seconds=40)
    assert len(one.beside.light_seconds) > 40
    assert one.factor <= factor
    assert one.part >= TARGET_PART
    # And in one line with the flood it would wait for minutes of others' work.
    assert one.in_line.light(95) > 10 * one.beside.light(95)


def test_counted_time_gives_the_same_figures_again() -> None:
    first, second = verdict(256, seconds=5), verdict(256, seconds=5)
    assert first == second
