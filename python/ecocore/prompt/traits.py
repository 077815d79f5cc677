"""What a chat template can show, found out by rendering a few small conversations when the model is loaded.

Templates say nothing of this themselves, and read past what they do not know: text would be lost without a word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from ecocore.errors import InvalidParameter
from ecocore.prompt.template import ChatTemplate, Turn

# Words that no template contains and none would alter.
_ONE, _TWO, _THREE = "qxone", "qxtwo", "qxthree"
_CALL_ID: Final = "qxcall123"
_TOOL: Final = {
    "type": "function",
    "function": {
        "name": _TWO,
        "description": _THREE,
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    },
}
_USER: Final = {"role": "user", "content": _ONE}
_ASSISTANT: Final = {"role": "assistant", "content": _TWO}


@dataclass(frozen=True, slots=True)
class CallForm:
    """How a template wants the calls of an assistant's turn."""

    null_content: bool
    """Whether content may be null beside calls; else it is empty."""
    parsed_arguments: bool
    """Whether arguments are an object; else their JSON text."""
    several: bool
    """Whether one turn may hold several calls; else each gets a turn of its own, followed by its result."""
    tagged: bool
    """Whether calls stand between <tool_call> tags, whatever the family of the model is used to."""


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a template can show."""

    part_roles: frozenset[str]
    """Roles whose content may be a list of parts; the others take strings only."""
    developer: bool
    """Whether it knows this role; else developers speak as the system."""
    systems: Literal["any", "first", "none"]
    """System turns wherever they stand, one at the start only, or none at all."""
    calls: CallForm | None
    """None where it does not show tools, calls and results."""

    @classmethod
    def of(cls, template: ChatTemplate) -> Self:
        """Renders the probes."""
        return cls(
            part_roles=frozenset(role for role in ("system", "user", "assistant", "tool") if _takes_parts(template, role)),
            # A template that prints any role would print this one too; only one that names it was made for it.
            developer="developer" in template.source and _shows(template, [{"role": "developer", "content": _TWO}, _USER], _TWO),
            systems=_systems(template),
            calls=_call_form(template),
        )


def _rendered(template: ChatTemplate, turns: Sequence[Turn], tools: Sequence[dict[str, Any]] | None = None) -> str:
    """The text, or nothing where the template refuses."""
    try:
        return template.render(turns, tools=tools)
    except InvalidParameter:
        return ""


def _shows(template: ChatTemplate, turns: Sequence[Turn], *words: str, tools: Sequence[dict[str, Any]] | None = None) -> bool:
    text = _rendered(template, turns, tools)
    return all(word in text for word in words)


def _takes_parts(template: ChatTemplate, role: str) -> bool:
    """Whether a list of parts is shown as its text. A template for strings fails, or prints the list itself."""
    turn: dict[str, Any] = {"role": role, "content": [{"type": "text", "text": _THREE}]}
    turns: list[Turn] = [turn] if role == "user" else [turn, _USER] if role == "system" else [_USER, turn]
    if role == "tool":
        turns = [_USER, _calling(None, {"a": _TWO}), {**turn, "tool_call_id": _CALL_ID}]
    text = _rendered(template, turns)
    return _THREE in text and not any(sign in text for sign in ("'text'", '"text"'))


def _systems(template: ChatTemplate) -> Literal["any", "first", "none"]:
    first = {"role": "system", "content": _TWO}
    if not _shows(template, [first, _USER], _TWO):
        return "none"
    later = {"role": "system", "content": _THREE}
    everywhere = [first, later, _USER], [first, _USER, _ASSISTANT, later, _USER]
    return "any" if all(_shows(template, turns, _TWO, _THREE) for turns in everywhere) else "first"


def _calling(content: str | None, arguments: Any, *, times: int = 1) -> dict[str, Any]:
    function = {"name": _TWO, "arguments": arguments}
    calls = [{"id": _CALL_ID + str(number), "type": "function", "function": function} for number in range(times)]
    calls[0]["id"] = _CALL_ID
    return {"role": "assistant", "content": content, "tool_calls": calls}


def _call_form(template: ChatTemplate) -> CallForm | None:
    with_tools, without = _rendered(template, [_USER], [_TOOL]), _rendered(template, [_USER])
    if with_tools == without or _TWO not in with_tools:
        return None
    result = {"role": "tool", "tool_call_id": _CALL_ID, "name": _TWO, "content": _THREE}
    arguments = {"qxkey": "qxvalue"}
    for sent in (arguments, '{"qxkey": "qxvalue"}'):
        for content in (None, ""):
            once = _rendered(template, [_USER, _calling(content, sent), result])
            if not all(word in once for word in (_TWO, "qxkey", "qxvalue", _THREE)):
                continue
            twice = [_USER, _calling(content, sent, times=2), result, {**result, "tool_call_id": _CALL_ID + "1"}]
            several = _rendered(template, twice).count("qxvalue") == 2
            return CallForm(
                null_content=content is None, parsed_arguments=sent is arguments, several=several, tagged="<tool_call>" in once
            )
    return None
