"""Tools for models whose template shows none: told in the system text, calls and results between tags.

This is the form that many models have seen most of, and the one that `output` reads back for them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from ecocore.prompt.template import Turn

Content: TypeAlias = str | Sequence[Mapping[str, Any]]


def in_text(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The conversation with its tools, calls and results as text. Nothing of them is left but text."""
    told = list(_told(turns))
    if not tools:
        return told
    if told and told[0]["role"] in ("system", "developer"):
        first = told[0]
        return [{**first, "content": f"{text_of(first['content'])}\n\n{_instructions(tools)}"}, *told[1:]]
    return [{"role": "system", "content": _instructions(tools)}, *told]


def text_of(content: Content | None) -> str:
    """The text of a content that may be parts."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _instructions(tools: Sequence[Mapping[str, Any]]) -> str:
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "These functions can be called. Each line is one of them, with its parameters as a JSON schema:\n"
        f"<tools>\n{lines}\n</tools>\n"
        "To call a function, answer with its name and arguments as JSON between these tags, once for each call:\n"
        '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>\n'
        "Results come back between <tool_response> and </tool_response>."
    )


def _told(turns: Sequence[Turn]) -> Iterator[Turn]:
    results: list[Content] = []
    for turn in turns:
        if turn["role"] == "tool":
            results.append(_result(turn["content"]))
            continue
        if results:
            yield {"role": "user", "content": _joined(results)}
            results = []
        if calls := turn.get("tool_calls"):
            said = text_of(turn["content"])
            yield {"role": "assistant", "content": "\n".join([*([said] if said else []), *map(_call, calls)])}
        else:
            yield turn
    if results:
        yield {"role": "user", "content": _joined(results)}


def _result(content: Content) -> Content:
    before, after = "<tool_response>\n", "\n</tool_response>"
    if isinstance(content, str):
        return f"{before}{content}{after}"
    # Parts keep their images in their places.
    return [{"type": "text", "text": before}, *content, {"type": "text", "text": after}]


def _joined(results: Sequence[Content]) -> Content:
    texts = [one for one in results if isinstance(one, str)]
    if len(texts) == len(results):
        return "\n".join(texts)
    parts: list[Mapping[str, Any]] = []
    for number, one in enumerate(results):
        parts += [{"type": "text", "text": "\n"}] if number else []
        parts += [{"type": "text", "text": one}] if isinstance(one, str) else one
    return parts


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    told = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"<tool_call>\n{told}\n</tool_call>"
