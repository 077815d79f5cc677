"""Prefill: the assistant's last turn stays open, so that the model goes on where its text ends.

A template closes every turn in its own way. A mark at the end of the text shows where, and the rest is cut off.
"""

from collections.abc import Sequence
from typing import Final

from ecocore.errors import InvalidParameter
from ecocore.prompt.template import Turn

# The space at its end shows whether the template keeps white space at the end of a turn.
_MARK: Final = "QX-CONTINUES-HERE-QX "


def marked(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with a mark at the end of the last one's text."""
    *before, last = turns
    content = last["content"]
    if isinstance(content, str):
        return [*before, {**last, "content": content + _MARK}]
    parts = list(content)
    position = max(number for number, part in enumerate(parts) if part["type"] == "text")
    parts[position] = {**parts[position], "text": parts[position]["text"] + _MARK}
    return [*before, {**last, "content": parts}]


def up_to_mark(text: str, said: str) -> str:
    """The text before the mark. Raises InvalidParameter if the template does not show what was `said` as it is."""
    place = text.rfind(_MARK.rstrip())
    if place < 0 or said.rpartition("\n")[2].strip() not in text[:place]:
        raise InvalidParameter(
            "continue_final_message", "the model's chat template does not show the final message as it is", "invalid_value"
        )
    # A template that trims the turn would have trimmed the text in front of the mark as well.
    return text[:place] if text.startswith(_MARK, place) else text[:place].rstrip()
