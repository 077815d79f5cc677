"""A chat completion request as the API's JSON spells it, checked."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Self, TypedDict

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from ecocore.errors import InvalidParameter, UnsupportedParameter
from ecocore.request.faults import fault, named_errors
from ecocore.request.json_object import AsTuple, IsText, JsonObject, NullIsAbsent, PlainObject, present
from ecocore.request.messages import MAX_MESSAGES, ImagePart, Message, check_history
from ecocore.request.response_format import ResponseFormat
from ecocore.request.sampling import (
    Count,
    Fraction,
    LogitBias,
    Penalty,
    RepetitionPenalty,
    SamplingParams,
    Seed,
    Stops,
    Temperature,
    TokenIds,
    TokenLimit,
    TopLogprobs,
    TypicalP,
)
from ecocore.request.tools import MAX_TOOLS, SentChoice, Tool, ToolChoice, check_tools, chosen

MAX_CHOICES: Final = 8
MAX_TEMPLATE_STRING: Final = 64
MAX_METADATA: Final = 16
MAX_METADATA_NAME: Final = 64
MAX_BOOKED: Final = 512
MAX_PRIORITY: Final = 100
"""Who asks can only go behind others: lower goes first, and 0 is usual."""

# Which switches of a chat template a request may set, and of what type each is.
TEMPLATE_KWARGS: Final[Mapping[str, type]] = {
    "add_vision_id": bool,
    "date_string": str,
    "enable_thinking": bool,
    "preserve_thinking": bool,
    "tools_in_user_message": bool,
}

# Their answers would need what is not there. A neutral value is as good as absent.
_REFUSED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "audio": ((), "answers in sound are not supported"),
    "web_search_options": ((), "searching the web is not supported"),
    "functions": (([],), "is deprecated and not supported; send tools"),
    "function_call": (("none", "auto"), "is deprecated and not supported; send tool_choice"),
    # Names of other endpoints and servers: an answer without what they ask for would look like one with it.
    "max_output_tokens": ((), "is for /v1/responses; send max_completion_tokens"),
    "guided_json": ((), "is not supported; send response_format"),
    "guided_regex": ((), "is not supported; send response_format"),
    "guided_choice": ((), "is not supported; send response_format"),
    "guided_grammar": ((), "is not supported; send response_format"),
    "echo": ((False,), "is for /v1/completions"),
}


class ChatParams(TypedDict, total=False):
    """The named parameters of `Runtime.chat` and its kin; each as in the API."""

    n: int | None
    max_tokens: int | None
    max_completion_tokens: int | None
    min_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    typical_p: float | None
    repetition_penalty: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    ignore_eos: bool | None
    logprobs: bool | None
    top_logprobs: int | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: Mapping[str, Any] | None
    chat_template_kwargs: Mapping[str, Any] | None
    continue_final_message: bool | None
    add_generation_prompt: bool | None
    reasoning_effort: str | None
    cache_salt: str | None
    priority: int | None


class StreamOptions(JsonObject):
    """Options of a streamed answer."""

    include_usage: bool = False


def _allowed_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name, value in kwargs.items():
        kind = TEMPLATE_KWARGS.get(name)
        if kind is None:
            raise fault("unknown_parameter", f"{name[:40]!r} is not among {', '.join(TEMPLATE_KWARGS)}")
        if type(value) is not kind:
            raise fault("invalid_type", f"{name} must be {'true or false' if kind is bool else 'a string'}")
        if isinstance(value, str) and len(value) > MAX_TEMPLATE_STRING:
            raise fault("string_above_max_length", f"{name} must have at most {MAX_TEMPLATE_STRING} characters")
    return kwargs


def _text_only(modalities: tuple[str, ...]) -> tuple[str, ...]:
    if set(modalities) != {"text"}:
        raise fault("unsupported_parameter", 'only ["text"] is supported')
    return modalities


Hint = Annotated[str, Field(max_length=64)]
Booked = Annotated[str, Field(max_length=MAX_BOOKED)]
"""What only a provider's books would hold."""
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=MAX_METADATA_NAME)], Booked],
    Field(max_length=MAX_METADATA),
    NullIsAbsent,
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": MAX_METADATA,
            "propertyNames": {"maxLength": MAX_METADATA_NAME},
            "additionalProperties": {"type": "string", "maxLength": MAX_BOOKED},
        }
    ),
]


class ChatRequest(JsonObject):
    """One request. An explicit null means absent.

    Unknown fields are ignored, since clients send vendor extras; fields that would change the answer and
    that this version cannot honour are refused by name. What each field does: docs/chat-completions.md.
    """

    model: str
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES), AsTuple]
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None

    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    min_tokens: Count = 0
    stop: Stops = ()
    stop_token_ids: TokenIds = ()
    ignore_eos: bool = False

    temperature: Temperature = 1.0
    top_p: Fraction = 1.0
    top_k: Count = 0
    min_p: Fraction = 0.0
    typical_p: TypicalP = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: LogitBias = Field(default_factory=dict)
    seed: Seed | None = None
    logprobs: bool = False
    top_logprobs: TopLogprobs = 0

    tools: Annotated[tuple[Tool, ...], Field(max_length=MAX_TOOLS), AsTuple] = ()
    sent_tool_choice: Annotated[SentChoice | None, Field(alias="tool_choice")] = None
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None

    chat_template_kwargs: Annotated[dict[str, Any], AfterValidator(_allowed_kwargs), NullIsAbsent] = Field(default_factory=dict)
    continue_final_message: bool = False
    add_generation_prompt: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256), IsText] | None = None
    reasoning_effort: Hint | None = None
    priority: Annotated[int, Field(ge=0, le=MAX_PRIORITY)] = 0

    # Accepted without effect: hints for other models, and what a provider keeps in its books.
    modalities: Annotated[tuple[str, ...], Field(max_length=8), AfterValidator(_text_only), AsTuple] = ("text",)
    verbosity: Hint | None = None
    prediction: PlainObject | None = None
    store: bool = False
    metadata: Metadata | None = None
    user: Booked | None = None
    safety_identifier: Booked | None = None
    prompt_cache_key: Booked | None = None
    prompt_cache_options: PlainObject | None = None
    prompt_cache_retention: Hint | None = None
    service_tier: Hint | None = None
    moderation: PlainObject | None = None

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Checks a decoded JSON object. Raises InvalidRequest naming the field at fault."""
        sent = present(fields)
        for name, (neutral, reason) in _REFUSED.items():
            if name in sent and sent[name] not in neutral:
                raise UnsupportedParameter(name, reason)
        with named_errors():
            return cls.model_validate(sent)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidParameter("stream_options", "needs stream: true", "invalid_value")
        if self.top_logprobs and not self.logprobs:
            raise InvalidParameter("top_logprobs", "needs logprobs: true", "invalid_value")
        if self.token_limit is not None and self.min_tokens > self.token_limit:
            raise InvalidParameter("min_tokens", f"is above the limit of {self.token_limit} tokens", "invalid_value")
        check_history(self.messages)
        check_tools(self.tools)
        chosen(self.tools, self.sent_tool_choice)
        self._check_continuation()
        return self

    def _check_continuation(self) -> None:
        if not self.continue_final_message:
            return
        if self.add_generation_prompt:
            raise InvalidParameter("continue_final_message", "cannot go with add_generation_prompt", "invalid_value")
        if self.wants_json:
            # The grammar holds the answer alone, and would begin a new object behind the old one's half.
            raise InvalidParameter("continue_final_message", "cannot go with a response_format of JSON", "invalid_value")
        last = self.messages[-1]
        if last.role != "assistant" or not last.text:
            raise InvalidParameter("continue_final_message", "needs an assistant message with text at the end", "invalid_value")

    def told_again(self) -> dict[str, Any]:
        """JSON of which `parse` makes an equal request."""
        return self.model_dump(by_alias=True, exclude_unset=True)

    @property
    def tool_choice(self) -> ToolChoice:
        """Which tools may be called, and whether one must be."""
        return chosen(self.tools, self.sent_tool_choice)

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        """The tools that may be called; none where `tool_choice` is "none"."""
        names = set(self.tool_choice.names)
        return tuple(tool for tool in self.tools if tool.name in names)

    @property
    def wants_json(self) -> bool:
        """Whether `response_format` asks for more than text."""
        return self.response_format is not None and self.response_format.type != "text"

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """The images of all messages, in their order."""
        return tuple(image for message in self.messages for image in message.images)

    @property
    def token_limit(self) -> int | None:
        """The most tokens an answer may have, as asked. `max_completion_tokens` wins over `max_tokens`."""
        return self.max_completion_tokens or self.max_tokens

    def sampling(self, defaults: Mapping[str, Any] | None = None) -> SamplingParams:
        """The sampling fields. `defaults`: values for those that were not sent, in place of the API's."""
        shared = SamplingParams.model_fields.keys() & ChatRequest.model_fields.keys()
        fields = {name: getattr(self, name) for name in shared}
        own = {name: value for name, value in (defaults or {}).items() if name not in self.model_fields_set}
        return SamplingParams(**{**fields, **own, "max_tokens": self.token_limit})
