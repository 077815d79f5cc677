"""The functions that a model may call, and which of them it may or must.

Gives checked tools. Whether a schema can be kept by the model's answers is judged where grammars are compiled.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    Tag,
    model_serializer,
    model_validator,
)

from ecocore.errors import InvalidParameter
from ecocore.request.faults import fault
from ecocore.request.json_object import AsTuple, JsonObject, PlainObject, Text, bounded, either, json_bytes, present

MAX_TOOLS: Final = 128
MAX_TOOLS_BYTES: Final = 256 * 1000

_NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def _plain_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise fault("invalid_value", "must be 1 to 64 letters, digits, underscores or hyphens")
    return name


FunctionName = Annotated[str, AfterValidator(_plain_name)]


def _object_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    if parameters.get("type", "object") != "object":
        raise fault("invalid_json_schema", 'must be a schema of type "object"')
    return parameters


class Function(JsonObject):
    """What a tool is called and takes. Without `parameters` it takes an empty object."""

    name: FunctionName
    description: Text | None = None
    parameters: Annotated[PlainObject, AfterValidator(_object_schema)] | None = None
    strict: bool = False


def _only_functions(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "function":
        raise fault("unsupported_parameter", f"tools of type {kind[:40]!r} are not supported; send functions")
    return kind


class Tool(JsonObject):
    """A function that the model may call."""

    type: Annotated[Literal["function"], BeforeValidator(_only_functions)]
    function: Function

    _sent: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep(cls, value: Any, check: ModelWrapValidatorHandler[Self]) -> Self:
        tool = check(value)
        return tool._remember(value) if isinstance(value, Mapping) else tool  # noqa: SLF001

    def _remember(self, sent: Mapping[str, Any]) -> Self:
        self._sent = {**present(sent), "function": present(sent["function"])}
        self._sent["function"].pop("strict", None)
        # Members that nobody here knows are shown to the model all the same.
        bounded(self._sent)
        return self

    @model_serializer
    def _told_again(self) -> dict[str, Any]:
        # A copy that forgot what nobody here knows would be shown to the model otherwise.
        return {**self._sent, "function": {**self._sent["function"], "strict": self.strict}}

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    @property
    def description(self) -> str | None:
        """What it does, for the model."""
        return self.function.description

    @property
    def parameters(self) -> dict[str, Any] | None:
        """JSON schema of its arguments."""
        return self.function.parameters

    @property
    def strict(self) -> bool:
        """Whether arguments must fit the schema even where the model chooses to call."""
        return self.function.strict

    def as_sent(self) -> dict[str, Any]:
        """The JSON object in the sender's order, for templates; `strict` speaks to the server and is left out."""
        return self._sent


class NamedFunction(JsonObject):
    """A tool by its name."""

    name: FunctionName


class NamedTool(JsonObject):
    """`{"type": "function", "function": {"name"}}`."""

    type: Literal["function"]
    function: NamedFunction


class AllowedTools(JsonObject):
    """The tools that may be called, and whether one must."""

    mode: Literal["auto", "required"]
    tools: Annotated[tuple[NamedTool, ...], Field(min_length=1, max_length=MAX_TOOLS), AsTuple]


class AllowedChoice(JsonObject):
    """`{"type": "allowed_tools", "allowed_tools": {"mode", "tools"}}`."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


def _known_choice(choice: Any) -> Any:
    if isinstance(choice, Mapping) and isinstance(kind := choice.get("type"), str) and kind not in ("function", "allowed_tools"):
        raise fault("invalid_value", f"must be of type 'function' or 'allowed_tools', not {kind[:40]!r}")
    return choice


def _choice_kind(value: Any) -> str:
    if isinstance(value, str):
        return "#mode"
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "#allowed" if kind == "allowed_tools" else "#named"


SentChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("#mode")]
    | Annotated[NamedTool, Tag("#named")]
    | Annotated[AllowedChoice, Tag("#allowed")],
    Discriminator(_choice_kind),
    BeforeValidator(_known_choice),
    either("'none', 'auto', 'required' or an object", str, Mapping, JsonObject),
]
"""`tool_choice` as the API spells it."""


class ToolChoice(JsonObject):
    """Which tools may be called, and whether one must.

    "auto": the model may call any of `names`; "required": at least one; "named": exactly the one; "none": no call is read.
    """

    mode: Literal["none", "auto", "required", "named"]
    names: tuple[str, ...] = ()


def check_tools(tools: Sequence[Tool]) -> None:
    """Raises InvalidParameter("tools") for two of one name and for tools that are too large together."""
    names: set[str] = set()
    for number, tool in enumerate(tools):
        if tool.name in names:
            raise InvalidParameter("tools", f"{tool.name!r} is there twice", "invalid_value", place=f"[{number}].function.name")
        names.add(tool.name)
    size = sum(json_bytes(tool.as_sent()) for tool in tools)
    if size > MAX_TOOLS_BYTES:
        raise InvalidParameter(
            "tools", f"the tools are {size} bytes of JSON together; at most {MAX_TOOLS_BYTES} are taken", "invalid_value"
        )


def chosen(tools: Sequence[Tool], sent: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None) -> ToolChoice:
    """What `tool_choice` means beside `tools`. Raises InvalidParameter("tool_choice")."""
    every = tuple(tool.name for tool in tools)
    if not every and (sent is None or (isinstance(sent, str) and sent != "required")):
        return ToolChoice(mode="none")
    if not every:
        raise InvalidParameter("tool_choice", "needs tools to choose from", "invalid_value")
    if sent is None or isinstance(sent, str):
        return ToolChoice(mode=sent or "auto", names=() if sent == "none" else every)
    if isinstance(sent, NamedTool):
        return ToolChoice(mode="named", names=_known([sent], every))
    return ToolChoice(mode=sent.allowed_tools.mode, names=_known(sent.allowed_tools.tools, every))


def _known(wanted: Sequence[NamedTool], every: tuple[str, ...]) -> tuple[str, ...]:
    """The names wanted, in the order of `every`."""
    names = {tool.function.name for tool in wanted}
    if absent := names - set(every):
        raise InvalidParameter("tool_choice", f"tools has no function {min(absent)!r}", "invalid_value")
    return tuple(name for name in every if name in names)
