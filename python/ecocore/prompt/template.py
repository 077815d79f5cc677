"""A model's own chat template, rendered in a sandbox with bounded work.

Takes turns, gives the text the model expects. Templates come with the model's files and are not trusted:
minijinja reaches no Python object but the values handed in, and its fuel ends endless loops.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import minijinja

from ecocore.errors import InvalidModelFile, InvalidParameter

# One unit is about one template instruction, some 45 ns. Of the templates measured, the most thorough one looks ahead
# from each turn and takes this much for 1,500 turns; the others take it for more than the 4,096 that a request may have.
FUEL: Final = 10_000_000

# Marks what the assistant wrote, for training. It changes nothing of the text.
_GENERATION: Final = re.compile(r"\{%([-+]?)\s{0,8}(end)?generation\s{0,8}([-+]?)%\}")

Turn = Mapping[str, Any]
"""One message as templates know it: role, content, tool_calls and so on."""


class ChatTemplate:
    """A compiled template. `render` is safe to call from several threads."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: "bos_token" and the like, which templates use by name. Raises InvalidModelFile."""
        try:
            "".join((source, *special_tokens.values())).encode()
        except UnicodeEncodeError:
            # JSON can spell one.
            raise InvalidModelFile("the model's chat template or a special token holds half a character") from None
        self.source: Final = source
        self._special_tokens = dict(special_tokens)
        self._environment = minijinja.Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            fuel=FUEL,
            undefined_behavior="lenient",
            auto_escape_callback=lambda _: False,
        )
        self._environment.add_filter("tojson", _to_json)
        self._environment.add_filter("trim", _trim)
        self._environment.add_global("raise_exception", _raise_exception)
        self._environment.add_global("strftime_now", _strftime_now)
        try:
            self._environment.add_template("chat", _GENERATION.sub(_as_plain_block, source))
        except minijinja.TemplateError as error:
            raise InvalidModelFile(f"the model's chat template cannot be compiled: {_first_line(error)}") from error

    def render(
        self,
        turns: Sequence[Turn],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        switches: Mapping[str, Any] | None = None,
    ) -> str:
        """The text of a conversation. Raises InvalidParameter("messages") where the template refuses it.

        `switches`: further names that the template may look at, such as `enable_thinking`.
        """
        try:
            return self._environment.render_template(
                "chat",
                **{
                    **(switches or {}),
                    **self._special_tokens,
                    "messages": [_with_spelled_calls(turn) for turn in turns],
                    "tools": _spelled(tools) if tools else None,
                    "documents": None,
                    "add_generation_prompt": add_generation_prompt,
                },
            )
        except Exception as error:
            raise _refused(error) from error


class _Refused(Exception):
    """What a template said through `raise_exception`."""


def _refused(error: Exception) -> InvalidParameter:
    own = error if isinstance(error, _Refused) else error.__cause__
    if isinstance(own, _Refused):
        words = f"the model's chat template says: {own}"
    elif "out of fuel" in str(error):
        words = "the model's chat template needs too much work for a conversation of so many turns; send fewer"
    else:
        words = "the model's chat template cannot render this conversation"
    return InvalidParameter("messages", words[:200], "invalid_value")


def _raise_exception(message: str) -> str:
    raise _Refused(message)


def _as_plain_block(tag: re.Match[str]) -> str:
    before, ending, after = tag.groups()
    return f"{{%{before} {'endif' if ending else 'if true'} {after}%}}"


def _strftime_now(pattern: str) -> str:
    # The machine's local time is what templates of the hub expect here.
    return datetime.now().astimezone().strftime(pattern)


class _Number:
    """A float that the template engine would spell in another way than Python: see `_number`."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def _number(text: str) -> float | _Number:
    value = float(text)
    spelled = repr(value)
    # The engine writes out all zeros of an exponent, and of two shortest spellings that are equally near it takes the upper.
    return _Number(value) if "e" in spelled or _is_tie(value, spelled) else value


def _is_tie(value: float, spelled: str) -> bool:
    shortest = Decimal(spelled)
    half = Decimal((0, (5,), int(shortest.as_tuple().exponent) - 1))
    return abs(Decimal(value) - shortest) == half


def _spelled(value: Any) -> Any:
    """A JSON value whose numbers print as Python prints them."""
    return json.loads(json.dumps(value), parse_float=_number)


def _with_spelled_calls(turn: Turn) -> Turn:
    return {**turn, "tool_calls": _spelled(turn["tool_calls"])} if turn.get("tool_calls") else turn


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Plain json.dumps as transformers defines this filter: no HTML escaping, keys in the sender's order."""
    item, key = separators or (None, None)
    chosen = None if item is None or key is None else (item, key)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=chosen, sort_keys=sort_keys, default=_bare)


def _bare(value: Any) -> Any:
    if isinstance(value, _Number):
        return value.value
    raise TypeError(type(value).__name__)


def _trim(value: Any, chars: str | None = None) -> str:
    """Python's strip, whose white space includes the four separators U+001C to U+001F."""
    return str(value).strip(chars)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
