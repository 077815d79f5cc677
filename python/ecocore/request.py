"""What a caller may ask for: the one request model, for HTTP bodies and for embedded use alike.

Takes plain values, gives checked ones; every error names the field. Knows no HTTP and no model.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from ecocore.errors import InvalidParameter, InvalidRequest, UnsupportedParameter

MAX_STOPS = 16
MAX_STOP_BYTES = 1024
MAX_MESSAGES = 4096
MAX_PARTS = 256
MAX_LOGIT_BIAS = 1024

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
TokenLimit = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


def _one_or_many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def _within_bounds(stops: tuple[str, ...]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise InvalidParameter("stop", f"must hold at most {MAX_STOPS} strings", "array_above_max_length")
    for text in stops:
        if not text:
            raise InvalidParameter("stop", "must not hold an empty string", "invalid_value")
        if len(text.encode("utf-8", "surrogatepass")) > MAX_STOP_BYTES:
            raise InvalidParameter("stop", f"must hold strings of at most {MAX_STOP_BYTES} bytes", "invalid_value")
    return stops


Stops = Annotated[tuple[str, ...], BeforeValidator(_one_or_many), AfterValidator(_within_bounds)]


class SamplingParams(BaseModel):
    """How tokens are drawn, for one sequence. Defaults are neutral but for temperature 1.

    `history`, `prompt` (ids) and `mask` (bool array over the vocabulary, True is allowed) are for
    `ecocore.Sampler`; a runtime keeps them itself. Order of the steps: docs/sampling.md.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True)

    temperature: Temperature = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    top_p: Fraction = 1.0
    min_p: Fraction = 0.0
    typical_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: dict[int, Bias] = Field(default_factory=dict, max_length=MAX_LOGIT_BIAS)
    seed: Seed | None = None
    stop: Stops = ()
    max_tokens: TokenLimit | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0

    history: tuple[int, ...] | NDArray[Any] | None = None
    prompt: tuple[int, ...] | NDArray[Any] | None = None
    mask: NDArray[np.bool_] | None = None

    def __init__(self, **fields: Any) -> None:
        with named_errors():
            super().__init__(**fields)

    @field_validator("history", "prompt", mode="before")
    @classmethod
    def _ids(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


class TextPart(BaseModel):
    """One text part of a message."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn of the conversation."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: Any) -> Any:
        """Text parts become one string, joined by a newline, for templates that take strings only."""
        if not isinstance(content, (list, tuple)):
            return content
        if len(content) > MAX_PARTS:
            raise InvalidParameter("messages", f"content must hold at most {MAX_PARTS} parts", "array_above_max_length")
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if isinstance(kind, str) and kind != "text":
                raise UnsupportedParameter("messages", f"content parts of type {kind[:40]!r} are not supported by this version")
        return "\n".join(TextPart.model_validate(part).text for part in content)


class ChatParams(TypedDict, total=False):
    """The named parameters of `Runtime.chat` and its kin; each as in the API."""

    max_tokens: int | None
    max_completion_tokens: int | None
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
    logprobs: bool | None
    top_logprobs: int | None


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A chat completion request, as the API's JSON spells it. An explicit null means absent.

    Unknown fields are ignored, since clients send vendor extras; fields that would change the answer and
    that this version cannot honour are refused by name.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    model: str
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES), BeforeValidator(_one_or_many)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: TokenLimit | None = None
    max_completion_tokens: TokenLimit | None = None
    temperature: Temperature = 1.0
    top_p: Fraction = 1.0
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    min_p: Fraction = 0.0
    typical_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = 1.0
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: dict[int, Bias] = Field(default_factory=dict, max_length=MAX_LOGIT_BIAS)
    seed: Seed | None = None
    stop: Stops = ()
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    n: Annotated[int, Field(ge=1, le=8)] = 1

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Checks a decoded JSON object. Raises InvalidRequest naming the field at fault."""
        present = {name: value for name, value in fields.items() if value is not None}
        with named_errors():
            request = cls.model_validate(present)
        _refuse_unsupported(request, present)
        return request

    @field_validator("logit_bias", mode="before")
    @classmethod
    def _token_ids(cls, value: Any) -> Any:
        """JSON spells ids as strings."""
        if not isinstance(value, Mapping):
            return value
        return {_token_id(key): bias for key, bias in value.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidParameter("stream_options", "needs stream: true", "invalid_value")
        if self.top_logprobs and not self.logprobs:
            raise InvalidParameter("top_logprobs", "needs logprobs: true", "invalid_value")
        return self

    def sampling(self) -> SamplingParams:
        """The sampling fields. `max_completion_tokens` wins over `max_tokens`."""
        shared = SamplingParams.model_fields.keys() & ChatRequest.model_fields.keys()
        fields = {name: getattr(self, name) for name in shared}
        fields["max_tokens"] = self.max_completion_tokens or self.max_tokens
        return SamplingParams(**fields)


def _refuse_unsupported(request: ChatRequest, present: Mapping[str, Any]) -> None:
    if request.n > 1:
        raise UnsupportedParameter("n", "more than one choice is not supported by this version; send n: 1")
    if present.get("response_format", {"type": "text"}) != {"type": "text"}:
        raise UnsupportedParameter("response_format", 'only {"type": "text"} is supported by this version')
    for name in ("tools", "functions"):
        if present.get(name, []) != []:
            raise UnsupportedParameter(name, "function calling is not supported by this version")
    if present.get("tool_choice", "none") not in ("none", "auto"):
        raise UnsupportedParameter("tool_choice", "function calling is not supported by this version")
    if present.get("modalities", ["text"]) != ["text"]:
        raise UnsupportedParameter("modalities", 'only ["text"] is supported by this version')
    for name in ("audio", "web_search_options", "function_call"):
        if name in present and present[name] != "none":
            raise UnsupportedParameter(name, "is not supported by this version")


def _token_id(key: Any) -> Any:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10:
        return int(key)
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    raise InvalidParameter("logit_bias", f"keys must be token ids, not {str(key)[:40]!r}", "invalid_value")


@contextmanager
def named_errors() -> Iterator[None]:
    """Turns pydantic's first error into an InvalidParameter that names the field."""
    try:
        yield
    except ValidationError as error:
        raise _named(error.errors(include_url=False, include_input=False)[0]) from None


_CODES = {
    "missing": "missing_required_parameter",
    "too_short": "empty_array",
    "too_long": "array_above_max_length",
    "extra_forbidden": "unknown_parameter",
    "literal_error": "invalid_value",
}


def _named(error: ErrorDetails) -> InvalidRequest:
    """One pydantic error as ours: the top-level field, the place below it in words, the API's code."""
    kept = error.get("ctx", {}).get("error")
    if isinstance(kept, InvalidRequest):
        return kept
    field, *below = [str(step) for step in error["loc"]] or ["request"]
    place = f"{'.'.join(below)[:80]}: " if below else ""
    return InvalidParameter(field, place + error["msg"], _code(error["type"], error.get("ctx", {})))


def _code(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _CODES:
        return _CODES[kind]
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        bound = context.get("ge", context.get("gt", context.get("le", context.get("lt"))))
        number = "integer" if isinstance(bound, int) else "decimal"
        return f"{number}_{'below_min' if kind.startswith('greater') else 'above_max'}_value"
    return "invalid_type" if kind.endswith(("_type", "_parsing", "int_from_float")) else "invalid_value"
