"""From messages to turns that a template can show: every word of the client gets in, whatever the template lacks."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ecocore.prompt.hermes import in_text, text_of
from ecocore.prompt.template import Turn
from ecocore.prompt.traits import CallForm, TemplateTraits
from ecocore.request import Message, TextPart, ToolCall

MAX_ARGUMENT_DEPTH: Final = 64


def turns_of(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], traits: TemplateTraits, *, image_text: str
) -> list[Turn]:
    """The turns to render. `image_text` stands for an image where the template takes strings.

    Where the template shows no tools, `tools` are told in the turns; else the template gets them beside.
    """
    turns: list[Turn] = [_turn(message, traits, image_text) for message in messages]
    if traits.calls is None:
        turns = in_text(turns, tools)
    else:
        turns = [_in_form(turn, traits.calls) for turn in _one_by_one(turns, traits.calls)]
    if not traits.developer:
        turns = [{**turn, "role": "system"} if turn["role"] == "developer" else turn for turn in turns]
    return turns if traits.systems == "any" else _with_one_system(turns, traits)


def _turn(message: Message, traits: TemplateTraits, image_text: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": _content(message, traits, image_text)}
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:
        # Templates differ in the name they look for.
        turn = {"thinking": message.reasoning, **turn, "reasoning_content": message.reasoning}
    return turn


def _content(message: Message, traits: TemplateTraits, image_text: str) -> str | list[dict[str, str]] | None:
    if message.content is None or isinstance(message.content, str):
        return message.content
    # Who speaks for whom where the template lacks a role.
    role = {"developer": "system", "tool": "user" if traits.calls is None else "tool"}.get(message.role, message.role)
    if role in traits.part_roles:
        return [
            {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"} for part in message.parts
        ]
    return "\n".join(part.text if isinstance(part, TextPart) else image_text for part in message.parts)


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": decoded(call.arguments)}}


def decoded(arguments: str) -> dict[str, Any] | str:
    """Arguments as an object; the text itself where a model left it broken, or wrote a number that is none of JSON's here.

    No text means no arguments.
    """
    if not arguments.strip():
        return {}
    try:
        value = json.loads(arguments, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) and _is_shallow(value) else arguments


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


def _finite(digits: str) -> float:
    """A number past every float would be told as `Infinity`, which the model did not write."""
    number = float(digits)
    if math.isinf(number):
        raise ValueError(digits[:40])
    return number


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_ARGUMENT_DEPTH):
        inner: list[Any] = []
        for item in level:
            inner.extend(item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
        if not inner:
            return True
        level = inner
    return False


def _in_form(turn: Turn, form: CallForm) -> Turn:
    if not turn.get("tool_calls"):
        return turn
    content = turn["content"] if turn["content"] is not None or form.null_content else ""
    if form.parsed_arguments:
        return {**turn, "content": content}
    return {**turn, "content": content, "tool_calls": [_with_text(call) for call in turn["tool_calls"]]}


def _with_text(call: Mapping[str, Any]) -> Mapping[str, Any]:
    arguments = call["function"]["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**call["function"], "arguments": text}}


def _one_by_one(turns: Sequence[Turn], form: CallForm) -> Iterator[Turn]:
    """Several calls of one turn become several turns, each followed by its result, where the template takes only one."""
    if form.several:
        yield from turns
        return
    number = 0
    while number < len(turns):
        turn = turns[number]
        number += 1
        calls = turn.get("tool_calls", ())
        if len(calls) < 2:
            yield turn
            continue
        results = {result["tool_call_id"]: result for result in turns[number : number + len(calls)]}
        number += len(calls)
        for position, call in enumerate(calls):
            yield (
                {**turn, "tool_calls": [call]} if position == 0 else {"role": "assistant", "content": None, "tool_calls": [call]}
            )
            yield results[call["id"]]


def _with_one_system(turns: Sequence[Turn], traits: TemplateTraits) -> list[Turn]:
    """All system texts in one turn at the start, or in the first turn of the user if there may be none."""
    if traits.systems == "first" and not any(turn["role"] == "system" for turn in turns[1:]):
        return list(turns)
    told = [text for turn in turns if turn["role"] == "system" and (text := text_of(turn["content"]))]
    others = [turn for turn in turns if turn["role"] != "system"]
    text = "\n\n".join(told)
    if not text:
        return others or [{"role": "user", "content": ""}]
    if traits.systems == "first":
        return [{"role": "system", "content": text}, *others]
    if not others or others[0]["role"] != "user":
        return [{"role": "user", "content": text}, *others]
    first = others[0]
    if isinstance(first["content"], str):
        return [{**first, "content": f"{text}\n\n{first['content']}"}, *others[1:]]
    return [{**first, "content": [{"type": "text", "text": f"{text}\n\n"}, *first["content"]]}, *others[1:]]
