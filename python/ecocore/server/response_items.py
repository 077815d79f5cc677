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
_MESSAGE: Final = re.compile(r"\[(\d{1,6})\]")
_CALL: Final = re.compile(r"\.tool_calls\[(\d{1,6})\](?:\.function)?")

WORDS: Final = {
    "a message of role tool must answer a call of the assistant message before it": (
        "a function_call_output must answer a function_call that stands right before it"
    ),
    "tool_calls must be followed by one tool message for each id": (
        "a function_call must be followed by one function_call_output with its call_id"
    ),
    "tool_calls must have different ids": "function_calls that stand together must have different call_ids",
}
"""What a chat says of messages, said of items."""


@dataclass(frozen=True, slots=True)
class Turns:
    """Messages, and which item each came from (None: the instructions, or an input that is one string)."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    origins: list[int | None] = field(default_factory=list)
    calls: dict[int, list[int]] = field(default_factory=dict)
    """By message: the items of its calls."""
    num_items: int = 0

    def place(self, place: str) -> str:
        """The item that the message at fault came from, and the place in it."""
        found = _MESSAGE.match(place)
        if found is None:
            return place
        number, rest = int(found[1]), place[found.end() :]
        if (call := _CALL.match(rest)) and int(call[1]) < len(self.calls.get(number, ())):
            item = self.calls[number][int(call[1])]
            return f"[{item}]" + rest[call.end() :].replace(".id", ".call_id", 1)
        if number < len(self.messages) and self.messages[number]["role"] == "tool":
            rest = rest.replace(".content", ".output", 1).replace(".tool_call_id", ".call_id", 1)
        origin = self.origins[number] if number < len(self.origins) else self.num_items
        return "" if origin is None else f"[{origin}]" + rest.replace(".image_url.", ".").replace(".url", ".image_url")


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
        for name in ("call_id", "output"):
            if item.get(name) is None:
                raise InvalidParameter("input", "is required", "missing_required_parameter", place=f"[{number}].{name}")
        output = _content(number, item["output"])
        _add(turns, number, {"role": "tool", "tool_call_id": item.get("call_id"), "content": output})
    elif kind == "reasoning":
        # What a model thought about earlier turns is shown to none of them again.
        return
    elif kind == "item_reference":
        raise UnsupportedParameter(
            "input", "nothing is stored here that could be referred to; send the item itself", place=f"[{number}]"
        )
    else:
        raise UnsupportedParameter("input", f"items of type {str(kind)[:40]!r} are not supported", place=f"[{number}]")


def _add_call(turns: Turns, number: int, call: dict[str, Any]) -> None:
    """Calls that stand together are one turn of the assistant, with the text before them."""
    last = turns.messages[-1] if turns.messages else {}
    if last.get("role") == "assistant":
        last.setdefault("tool_calls", []).append(call)
    else:
        _add(turns, number, {"role": "assistant", "content": None, "tool_calls": [call]})
    turns.calls.setdefault(len(turns.messages) - 1, []).append(number)


def _role(number: int, item: Mapping[str, Any]) -> str:
    role = item.get("role")
    if role not in _ROLES:
        raise InvalidParameter("input", f"must be one of {', '.join(_ROLES)}", "invalid_value", place=f"[{number}].role")
    return str(role)


def _content(number: int, content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return list(_parts(number, content))


def _parts(number: int, parts: Sequence[Any]) -> Iterator[Any]:
    for index, part in enumerate(parts):
        place = f"[{number}].content[{index}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind in ("input_text", "output_text"):
            yield {"type": "text", "text": part.get("text")}
        elif kind == "refusal":
            yield {"type": "text", "text": part.get("refusal")}
        elif kind == "input_image":
            if part.get("file_id") is not None:
                raise UnsupportedParameter("input", "there are no stored files; send image_url", place=place)
            image = {"url": part.get("image_url"), "detail": part.get("detail")}
            yield {"type": "image_url", "image_url": image}
        elif kind is None:
            yield part
        else:
            raise UnsupportedParameter("input", f"parts of type {str(kind)[:40]!r} are not supported", place=place)
