"""POST /v1/completions, the older endpoint: prompts are continued as they are, without a template.

Takes its JSON, gives the one `ChatRequest` for everything that both endpoints share; its messages are not looked at.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, WithJsonSchema
from starlette.types import Receive, Scope, Send

from ecocore.errors import InvalidParameter, UnsupportedParameter
from ecocore.regions.region import Admission, Region
from ecocore.request import ChatRequest
from ecocore.request.faults import fault, named_errors
from ecocore.request.json_object import JsonObject, present
from ecocore.server.delivery import Desk, Ready, exchange
from ecocore.server.wire import Told

MAX_CHOICES: Final = 128
MAX_TOKEN_ID: Final = 2**32 - 1
DEFAULT_MAX_TOKENS: Final = 16

Prompt = str | tuple[int, ...]

# What means the same here and in a chat.
SHARED: Final[tuple[str, ...]] = (
    "model",
    "n",
    "stream",
    "stream_options",
    "min_tokens",
    "stop",
    "stop_token_ids",
    "ignore_eos",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "cache_salt",
    "user",
)

# Their answers would differ, and this endpoint never had them.
_REFUSED: Final = ("tools", "functions", "response_format", "messages")


def _prompts(value: Any) -> Any:
    """A text, a list of texts, token ids or a list of lists of them: always as several prompts."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        raise fault("invalid_type", "must be a string, an array of strings, an array of token ids or an array of such arrays")
    if not value:
        raise fault("empty_array", "must hold at least one prompt")
    if all(isinstance(item, str) for item in value):
        return tuple(value)
    if all(isinstance(item, list) for item in value):
        return tuple(_token_ids(item) for item in value)
    return (_token_ids(value),)


def _token_ids(value: list[Any]) -> tuple[int, ...]:
    if not value:
        raise fault("empty_array", "must hold at least one token")
    for token_id in value:
        if type(token_id) is not int:
            raise fault("invalid_type", "must hold strings only, or token ids only")
        if not 0 <= token_id <= MAX_TOKEN_ID:
            raise fault("invalid_value", f"must hold token ids, not {str(token_id)[:40]}")
    return tuple(value)


_TOKENS_SCHEMA: Final = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "integer", "minimum": 0, "maximum": MAX_TOKEN_ID},
}
_PROMPT_SCHEMA: Final = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "minItems": 1, "items": {"type": "string"}},
        _TOKENS_SCHEMA,
        {"type": "array", "minItems": 1, "items": _TOKENS_SCHEMA},
    ]
}


class CompletionParameters(JsonObject):
    """What this endpoint has of its own."""

    prompt: Annotated[tuple[Any, ...], BeforeValidator(_prompts), WithJsonSchema(_PROMPT_SCHEMA)]
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] = DEFAULT_MAX_TOKENS
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    suffix: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """Prompts and the request that goes on from each of them. `prompt_only`: nothing is to be drawn."""

    prompts: tuple[Prompt, ...]
    echo: bool
    prompt_only: bool
    request: ChatRequest

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Checks a decoded JSON object. Raises InvalidRequest naming the field at fault."""
        sent = present(fields)
        for name in _REFUSED:
            if sent.get(name, []) != [] and sent[name] != {"type": "text"}:
                raise UnsupportedParameter(name, "is not for completions; use /v1/chat/completions")
        shared = {name: sent[name] for name in SHARED if name in sent}
        with named_errors():
            # The model comes first, as in a chat: without one nothing else matters.
            _Model.model_validate(shared)
            own = CompletionParameters.model_validate(sent)
        request = ChatRequest.parse(
            {
                **shared,
                "messages": [{"role": "user", "content": ""}],
                "max_tokens": max(own.max_tokens, 1),
                "logprobs": own.logprobs is not None,
                "top_logprobs": own.logprobs or 0,
            }
        )
        _check(own, request.n)
        return cls(own.prompt, own.echo, own.max_tokens == 0, request)

    @property
    def model(self) -> str:
        """Which model is to run."""
        return self.request.model

    @property
    def stream(self) -> bool:
        """Whether the answer comes in pieces."""
        return self.request.stream

    @property
    def scores(self) -> bool:
        """Whether the log-probabilities of the prompts are wanted too."""
        return self.echo and self.request.logprobs

    def told(self, echo: tuple[str, ...], hidden: int) -> Told:
        """How the answer is told.

        `echo`: texts of the prompts, if they come first; `hidden`: leading tokens of each that are no part of its text.
        """
        options = self.request.stream_options
        return Told(
            form="completion",
            id_prefix="cmpl-",
            model=self.request.model,
            stream=self.request.stream,
            choices=self.request.n * len(self.prompts),
            include_usage=options is not None and options.include_usage,
            logprobs=self.request.logprobs,
            prompts=len(self.prompts),
            echo=echo,
            echo_hidden=hidden,
            prompt_only=self.prompt_only,
        )


class _Model(JsonObject):
    model: str


def _check(own: CompletionParameters, n: int) -> None:
    if own.suffix:
        raise UnsupportedParameter("suffix", "text cannot be inserted before a suffix")
    if own.best_of is not None and own.best_of != n:
        raise UnsupportedParameter("best_of", "choices are not ranked; leave it out, or send the same number as n")
    if own.max_tokens == 0 and not own.echo:
        raise InvalidParameter("max_tokens", "must be at least 1, or 0 with echo: true", "integer_below_min_value")
    if n * len(own.prompt) > MAX_CHOICES:
        raise InvalidParameter(
            "prompt", f"{len(own.prompt)} prompts with n {n} are more than {MAX_CHOICES} choices", "array_above_max_length"
        )


class Completions:
    """The endpoint, as an ASGI application: it must see the client leave, whatever it is doing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange. Raises what `error_table` tells."""
        await exchange(self._desk, CompletionRequest.parse, _prepare, scope=scope, receive=receive, send=send)


async def _prepare(region: Region, asked: CompletionRequest) -> Ready:
    prepare = partial(region.prepare_plain, asked.request, scores=asked.scores)
    admissions: list[Admission] = []
    try:
        for prompt in asked.prompts:
            admissions.append(await prepare(prompt))  # noqa: PERF401  # those before a refused one are to be known
        echo = tuple([await _text(region, prompt) for prompt in asked.prompts]) if asked.echo else ()
        # What the model begins every text with is in the prompt, but not in what the client sent.
        hidden = await region.tokenize("", add_special_tokens=True) if isinstance(asked.prompts[0], str) else []
    except BaseException:
        # Refused, or the client left: nothing of it will be started.
        for admission in admissions:
            region.cancel(admission.request_id)
        raise
    return Ready(admissions, asked.told(echo, len(hidden)))


async def _text(region: Region, prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else await region.detokenize(prompt)
