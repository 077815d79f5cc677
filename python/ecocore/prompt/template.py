"""A model's own chat template, rendered in a sandbox with bounded work.

Takes messages, gives the text the model expects. Templates come with the model's files and are not trusted:
minijinja reaches no Python object but the values handed in, and its fuel ends endless loops.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import minijinja

from ecocore.errors import InvalidModelFile, InvalidParameter

# One unit is about one template instruction; a conversation of 4,096 turns takes a few hundred thousand.
FUEL = 10_000_000


class ChatTemplate:
    """A compiled template. `render` is safe to call from several threads."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: "bos_token" and the like, which templates use by name. Raises InvalidModelFile."""
        self._special_tokens = dict(special_tokens)
        self._environment = minijinja.Environment(
            trim_blocks=True, lstrip_blocks=True, fuel=FUEL, undefined_behavior="lenient", auto_escape_callback=lambda _: False
        )
        self._environment.add_filter("tojson", _to_json)
        self._environment.add_filter("trim", _trim)
        self._environment.add_global("raise_exception", _raise_exception)
        self._environment.add_global("strftime_now", _strftime_now)
        try:
            self._environment.add_template("chat", source)
        except minijinja.TemplateError as error:
            raise InvalidModelFile(f"the model's chat template cannot be compiled: {_first_line(error)}") from error

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation. Raises InvalidParameter("messages") where the template refuses it."""
        try:
            return self._environment.render_template(
                "chat",
                messages=messages,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except _Refused as refusal:
            raise InvalidParameter("messages", f"the model's chat template says: {refusal}"[:200], "invalid_value") from None
        except minijinja.TemplateError as error:
            cause = error.__cause__
            if isinstance(cause, _Refused):
                raise InvalidParameter("messages", f"the model's chat template says: {cause}"[:200], "invalid_value") from None
            raise InvalidParameter(
                "messages", "the model's chat template cannot render this conversation", "invalid_value"
            ) from error


class _Refused(Exception):
    """What a template said through `raise_exception`."""


def _raise_exception(message: str) -> str:
    raise _Refused(message)


def _strftime_now(pattern: str) -> str:
    # The machine's local time is what templates of the hub expect here.
    return datetime.now().astimezone().strftime(pattern)


def _to_json(value: Any, *, indent: int | None = None, sort_keys: bool = False) -> str:
    """Plain json.dumps as transformers defines this filter: no HTML escaping, keys in the sender's order."""
    return json.dumps(value, ensure_ascii=False, indent=indent, sort_keys=sort_keys)


def _trim(value: Any, chars: str | None = None) -> str:
    """Python's strip, whose white space includes the four separators U+001C to U+001F."""
    return str(value).strip(chars)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
