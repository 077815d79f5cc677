"""What leaves the runtime: small frozen values, one choice of one request each."""

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the likeliest tokens at a position. `logprob`: natural, raw, finite."""

    token_id: int
    bytes: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Raw log-probability of one content token and of the likeliest ones, best first."""

    token_id: int
    bytes: bytes
    logprob: float
    top: tuple[TopLogprob, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens used by one choice.

    Of the prompt, `cached_tokens` came from the prefix cache; of the completion, `reasoning_tokens` became reasoning.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that became final; never part of a stop string. `logprobs` is empty unless asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """The model thought aloud; no part of the answer."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """Part of a choice's tool call number `index`.

    The first has `id` and `name` and no arguments; the others add a piece of `arguments`, which joined are JSON text.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The choice ended; nothing follows."""

    reason: FinishReason
    usage: Usage
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """The choice failed; nothing follows. `code` is a short word for programs."""

    code: str
    message: str
    choice: int = 0


Event = TextDelta | ReasoningDelta | ToolCallDelta | Finished | Failed
