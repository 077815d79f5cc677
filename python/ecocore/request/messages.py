"""The conversation: messages of every role with their parts, and what must hold between them.

Gives checked messages. What a template makes of them is `prompt`'s; whether a model can see images, the runtime's.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from ecocore.errors import InvalidParameter
from ecocore.request.faults import Code, fault
from ecocore.request.json_object import AsTuple, IsText, JsonObject, Text, either
from ecocore.request.tools import FunctionName

MAX_MESSAGES: Final = 4096
MAX_PARTS: Final = 256
# In one message. Parallel calls are few; a history of thousands would only be a way to make work.
MAX_CALLS: Final = 128
MAX_ID: Final = 256

_ELSEWHERE: Final = frozenset({"input_audio", "audio", "audio_url", "file", "input_file", "video", "video_url", "input_video"})


class TextPart(JsonObject):
    """One text part of a message."""

    type: Literal["text"]
    text: Text


class ImageUrl(JsonObject):
    """Where an image is: an https URL, or a data URL that holds it."""

    url: Annotated[str, Field(min_length=1)]
    detail: Literal["auto", "low", "high"] = "auto"


class ImagePart(JsonObject):
    """One image of a message. Nothing is fetched or decoded here."""

    type: Literal["image_url"]
    image_url: ImageUrl

    @property
    def url(self) -> str:
        """Where the image is."""
        return self.image_url.url


def _known_part(value: Any) -> Any:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind in ("text", "image_url"):
        return value
    if kind == "refusal" and isinstance(value, Mapping):
        # The model's own earlier refusal is what it said.
        return {"type": "text", "text": value.get("refusal")}
    if kind in _ELSEWHERE:
        raise fault("unsupported_parameter", f"content parts of type {kind!r} are not supported; send text or image_url")
    raise fault("invalid_value", f"there are no content parts of type {kind[:40]!r}; send text or image_url")


def _part_kind(value: Any) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "#image" if kind == "image_url" else "#text"


Part = Annotated[
    Annotated[TextPart, Tag("#text")] | Annotated[ImagePart, Tag("#image")],
    Discriminator(_part_kind),
    BeforeValidator(_known_part),
]
Parts = Annotated[tuple[Part, ...], Field(max_length=MAX_PARTS), AsTuple]


def _content_kind(value: Any) -> str:
    return "#string" if isinstance(value, str) else "#parts"


Content = Annotated[
    Annotated[Text, Tag("#string")] | Annotated[Parts, Tag("#parts")],
    Discriminator(_content_kind),
    either("a string or an array of parts", str, list, tuple),
]


class FunctionCall(JsonObject):
    """The function that was called, and its arguments as the JSON text that the model wrote."""

    name: FunctionName
    arguments: Text


class ToolCall(JsonObject):
    """A call that the model made earlier."""

    id: Annotated[str, Field(min_length=1, max_length=MAX_ID), IsText]
    type: Literal["function"] = "function"
    function: FunctionCall

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name

    @property
    def arguments(self) -> str:
        """JSON text, as the model wrote it: not always complete."""
        return self.function.arguments


class Message(JsonObject):
    """One turn of the conversation.

    `content` is None only beside `tool_calls`. `reasoning` is what the model thought, for templates that show it again.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: Annotated[str, Field(max_length=MAX_ID), IsText] | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Field(max_length=MAX_CALLS), AsTuple] = ()
    tool_call_id: Annotated[str, Field(min_length=1, max_length=MAX_ID), IsText] | None = None
    refusal: Text | None = None
    reasoning: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_form(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        for name in ("audio", "function_call"):
            if value.get(name) is not None:
                raise fault("unsupported_parameter", f"{name} in a message is not supported")
        fields = dict(value)
        if fields.get("content") is None and fields.get("refusal") is not None:
            fields["content"] = fields["refusal"]
        if fields.get("reasoning") is None:
            fields["reasoning"] = fields.get("reasoning_content")
        return fields

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise fault("missing_required_parameter", "content is required")
        if self.role == "user" and self.content == ():
            raise fault("empty_array", "content must hold at least one part")
        if self.tool_calls and self.role != "assistant":
            raise fault("invalid_value", f"tool_calls belong to messages of role assistant, not {self.role}")
        if self.images and self.role not in ("user", "tool"):
            raise fault("invalid_value", f"images belong to messages of role user and tool, not {self.role}")
        if self.role == "tool" and self.tool_call_id is None:
            raise fault("missing_required_parameter", "tool_call_id is required in messages of role tool")
        return self

    @property
    def parts(self) -> tuple[TextPart | ImagePart, ...]:
        """The content as parts; a string is one of them."""
        if isinstance(self.content, str):
            return (TextPart(type="text", text=self.content),)
        return self.content or ()

    @property
    def text(self) -> str:
        """The text of the content, parts joined by a newline."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of the content, in their order."""
        return () if isinstance(self.content, str) else tuple(part for part in self.parts if isinstance(part, ImagePart))


def check_history(messages: Sequence[Message]) -> None:
    """Calls and their results belong together: after calls comes one tool message for each, and none comes without.

    Raises InvalidParameter("messages").
    """
    waiting: set[str] = set()
    for number, message in enumerate(messages):
        if message.role == "tool":
            if message.tool_call_id not in waiting:
                raise _broken(number, "a message of role tool must answer a call of the assistant message before it, once")
            waiting.discard(message.tool_call_id)
            continue
        if waiting:
            raise _broken(number, _unanswered(waiting))
        waiting = {call.id for call in message.tool_calls}
        if len(waiting) != len(message.tool_calls):
            raise _broken(number, "tool_calls must have different ids")
    if waiting:
        raise _broken(len(messages), _unanswered(waiting))


def _unanswered(waiting: set[str]) -> str:
    return f"tool_calls must be followed by one tool message for each id; {min(waiting)[:40]!r} has none"


def _broken(number: int, words: str, code: Code = "invalid_value") -> InvalidParameter:
    return InvalidParameter("messages", words, code, place=f"[{number}]")
