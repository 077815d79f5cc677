"""Tool calls read back from the three syntaxes, slowly and obviously: [(name, arguments)]."""

import json
import re
from typing import Any

Calls = list[tuple[str, Any]]

QUOTE = '<|"|>'


def hermes(text: str) -> Calls:
    calls = []
    for piece in text.split("<tool_call>\n")[1:]:
        body, _, rest = piece.partition("\n</tool_call>")
        assert rest in {"", "\n"}, rest
        call = json.loads(body)
        assert list(call) == ["name", "arguments"]
        calls.append((call["name"], call["arguments"]))
    return calls


def llama(text: str) -> Calls:
    calls, place, decoder = [], 0, json.JSONDecoder()
    while place < len(text):
        call, place = decoder.raw_decode(text, place)
        assert list(call) == ["name", "parameters"]
        calls.append((call["name"], call["parameters"]))
        if place < len(text):
            assert text[place : place + 3] == "; {", text[place:]
            place += 2
    return calls


def gemma(text: str) -> Calls:
    calls = []
    for piece in text.split("<|tool_call>")[1:]:
        body = piece.removesuffix("<tool_call|>")
        assert body != piece, piece
        head = re.match(r"call:([\w.-]+)(?=\{)", body)
        assert head, body
        arguments, end = _value(body, head.end())
        assert end == len(body), body[end:]
        calls.append((head[1], arguments))
    return calls


def _value(text: str, at: int) -> tuple[Any, int]:
    if text.startswith(QUOTE, at):
        end = text.index(QUOTE, at + len(QUOTE))
        return text[at + len(QUOTE) : end], end + len(QUOTE)
    if text[at] in "{[":
        return _items(text, at)
    bare = re.compile(r"[^,}\]]*").match(text, at)
    assert bare
    return json.loads(bare[0]), bare.end()


def _items(text: str, at: int) -> tuple[Any, int]:
    close = "}" if text[at] == "{" else "]"
    pairs: dict[str, Any] = {}
    items: list[Any] = []
    at += 1
    while text[at] != close:
        if close == "}":
            key, at = _key(text, at)
            pairs[key], at = _value(text, at)
        else:
            item, at = _value(text, at)
            items.append(item)
        if text[at] == ",":
            at += 1
            assert text[at] != close, "a comma before the end"
    return (pairs if close == "}" else items), at + 1


def _key(text: str, at: int) -> tuple[str, int]:
    if text.startswith(QUOTE, at):
        key, at = _value(text, at)
        assert text[at] == ":"
        return key, at + 1
    colon = text.index(":", at)
    return text[at:colon], colon + 1
