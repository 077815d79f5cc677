"""Items of the responses endpoint as messages of a chat.

Takes instructions and input, gives messages as chat completions spell them; whether those are right is judged there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ecocore.errors import InvalidParameter, UnsupportedParameter

MAX_ITEMS: Final = 4096

_ROLES: Final = ("user", "assistant", "system", "developer")
_PLACE: Final = re.compile(r"(\d{1,6})(?=[.:])")


@dataclass(frozen=True, slots=True)
class Turns:
    """Messages, and which item each came from (None: the instructions, or an input that is one string)."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    origins: list[int | None] = field(default_factory=list)
    num_items: int = 0

    def place(self, message: str) -> str:
        """What an error says of the message at fault, said of its item."""
        match = _PLACE.match(message)
        if match is None:
            return message
        number = int(match[0])
        origin = self.origins[number] if number < len(self.origins) else self.num_items
        rest = message[match.end() :]
        return f"{origin}{rest}" if origin is not None else rest.lstrip(".: ")


def turns_of(instructions: str | None, given: str | Sequence[Mapping[str, Any]]) -> Turns:
    """The conversation. Raises InvalidParameter("input"), UnsupportedParameter("input")."""
    turns = Turns(num_items=0 if isinstance(given, str) else len(given))
    if instructions is not None:
        _add(turns, None, {"role": "developer", "content": instructions})
    if isinstance(given, str):
        _add(turns, None, {"role": "user", "content": given})
        return turns
    if not given:
        raise InvalidParameter("input", "must hold at least one item", "empty_array")
    if len(given) > MAX_ITEMS:
        raise InvalidParameter("input", f"must hold at most {MAX_ITEMS} items", "array_above_max_length")
    for number, item in enumerate(given):
        _add_item(turns, number, item)
    return turns


def _add(turns: Turns, number: int | None, message: dict[str, Any]) -> None:
    turns.messages.append(message)
    turns.origins.append(number)


def _add_item(turns: Turns, number: int, item: Mapping[str, Any]) -> None:
    kind = item.get("type", "message")
    if kind == "message":
        _add(turns, number, {"role": _role(number, item), "content": _content(number, item.get("content"))})
    elif kind == "function_call":
        call = {"name": item.get("name"), "arguments": item.get("arguments")}
        _add_call(turns, number, {"id": item.get("call_id"), "type": "function", "function": call})
    elif kind == "function_call_output":
        output = _content(number, item.get("output"))
        _add(turns, number, {"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
    elif kind == "reasoning":
        # What a model thought about earlier turns is shown to none of them again.
        return
    elif kind == "item_reference":
        raise UnsupportedParameter("input", f"{number}: nothing is stored here that could be referred to; send the item itself")
    else:
        raise UnsupportedParameter("input", f"{number}: items of type {str(kind)[:40]!r} are not supported")


def _add_call(turns: Turns, number: int, call: dict[str, Any]) -> None:
    """Calls that stand together are one turn of the assistant, with the text before them."""
    last = turns.messages[-1] if turns.messages else {}
    if last.get("role") == "assistant":
        last.setdefault("tool_calls", []).append(call)
    else:
        _add(turns, number, {"role": "assistant", "content": None, "tool_calls": [call]})


def _role(number: int, item: Mapping[str, Any]) -> str:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidParameter("input", f"{number}.role: must be one of {', '.join(_ROLES)}", "invalid_value")
    return str(role)


def _content(number: int, content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return list(_parts(number, content))


def _parts(number: int, parts: Sequence[Any]) -> Iterator[Any]:
    for index, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("input_text", "output_text"):
            yield {"type": "text", "text": part.get("text")}
        elif kind == "refusal":
            yield {"type": "text", "text": part.get("refusal")}
        elif kind == "input_image":
            if part.get("file_id") is not None:
                raise UnsupportedParameter("input", f"{number}.content.{index}: there are no stored files; send image_url")
            image = {"url": part.get("image_url"), "detail": part.get("detail")}
            yield {"type": "image_url", "image_url": image}
        elif kind is None:
            yield part
        else:
            raise UnsupportedParameter("input", f"{number}.content.{index}: parts of type {str(kind)[:40]!r} are not supported")
