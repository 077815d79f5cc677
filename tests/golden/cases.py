"""The conversations that are put to ecocore and to transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tests.golden.pictures import part, picture, words

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A conversation, and what goes with it."""

    messages: Messages
    tools: Sequence[Mapping[str, Any]] | None = None
    images: tuple[str, ...] = ()
    """The pictures that it shows, in order."""
    switches: Mapping[str, Any] = field(default_factory=dict)
    """Of the template."""

    def asked(self) -> dict[str, Any]:
        """As a request says it."""
        optional = {"tools": self.tools, "chat_template_kwargs": self.switches}
        return {"messages": self.messages, **{name: value for name, value in optional.items() if value}}


WEATHER: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city, <today>",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _call(number: int, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def _calling(*calls: dict[str, Any], content: str | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(calls)}


def _result(number: int, content: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": content}


def _days(count: int) -> str:
    return "".join(f"On day {day} the keeper saw {day * 7 % 11} ships. " for day in range(1, count + 1))


_TURNS: Final[Messages] = [
    {"role": "system", "content": "You are a gruff keeper. "},
    _user("What came from the north?"),
    {"role": "assistant", "content": "The wind, 21 ships, and über 長城."},
    _user("  And then?"),
]
TEXT: Final[dict[str, Case]] = {
    "short": Case([_user("Count from 1 to 10.")]),
    "turns": Case(_TURNS),
    # Of more tokens than a step reads of prompts, than a window shows, and than the scaled wavelengths.
    "long": Case([_user(_days(40))]),
}
TOOLS: Final[dict[str, Case]] = {
    "tool": Case([_user("What is the weather in Ness?")], [WEATHER]),
    "result": Case(
        [
            _user("What is the weather in Ness?"),
            _calling(_call(1, '{"city": "Ness"}')),
            _result(1, '21 degrees, and "sunny"'),
        ],
        [WEATHER],
    ),
    "answered": Case(
        [
            {"role": "system", "content": "Be a keeper."},
            _user("What is the weather in Ness?"),
            _calling(_call(1, '{"city": "Ness, <the north>"}'), content=""),
            _result(1, "{'degrees': 21}"),
            {"role": "assistant", "content": "21 degrees."},
            _user("And in Oslo?"),
        ],
        [WEATHER],
    ),
}
# For templates that show several calls in a turn.
CALLS: Final[dict[str, Case]] = {
    "calls": Case(
        [
            _user("What is the weather in Ness, and in Oslo?"),
            _calling(_call(1, '{"city": "Ness"}'), _call(2, '{"city": "Østlandet"}')),
            _result(1, "21"),
            _result(2, "wind, über"),
        ],
        [WEATHER],
    )
}
THINKING: Final[dict[str, Case]] = {"thinking": Case(_TURNS, switches={"enable_thinking": True})}
IMAGES: Final[dict[str, Case]] = {
    "none": Case(_TURNS),
    "one": Case([_user([words("What is this? "), part(picture("wide")), words(" Say.")])], images=("wide",)),
    "small": Case([_user([part(picture("small"))])], images=("small",)),
    # A step would end within the image.
    "late": Case([_user([words(_days(24)), part(picture("large"))])], images=("large",)),
    "two": Case(
        [
            _user([part(picture("large")), words("One."), part(picture("whole"))]),
            {"role": "assistant", "content": "Two pictures."},
            _user([words("And what else?")]),
        ],
        images=("large", "whole"),
    ),
}
# For templates that show both.
TOOLS_AND_IMAGES: Final[dict[str, Case]] = {
    "tool and image": Case(
        [
            _user([words("What is the weather here?"), part(picture("wide"))]),
            _calling(_call(1, '{"city": "Ness"}')),
            _result(1, "21 degrees"),
        ],
        [WEATHER],
        ("wide",),
    )
}
