"""A whole answer, gathered from the events of its choices. For people who embed the runtime."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ecocore.errors import EngineFailure, InternalError
from ecocore.events import Finished, FinishReason, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta, Usage

Told = TextDelta | ReasoningDelta | ToolCallDelta | Finished
"""What a stream tells; a failure is raised instead."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model makes. `arguments` is JSON text, complete unless the answer was cut."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a request."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str = ""

    @property
    def message(self) -> dict[str, Any]:
        """The turn to append to the messages, so that the conversation can go on."""
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in self.tool_calls
        ]
        content = None if calls and not self.text else self.text
        return {"role": "assistant", "content": content, **({"tool_calls": calls} if calls else {})}


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer: its first choice, and with `n` above 1 the others in `choices`. `str()` gives its text."""

    choices: tuple[Choice, ...]

    @property
    def text(self) -> str:
        """What the model says; empty where it only calls tools."""
        return self.choices[0].text

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended: "stop", "length" or "tool_calls"."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """One for each token of the text, if they were asked for."""
        return self.choices[0].logprobs

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls it makes."""
        return self.choices[0].tool_calls

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered; no part of the text."""
        return self.choices[0].reasoning

    @property
    def message(self) -> dict[str, Any]:
        """The turn to append to the messages, so that the conversation can go on."""
        return self.choices[0].message

    @property
    def usage(self) -> Usage:
        """Tokens of all choices; the prompt is counted once."""
        first, *others = [choice.usage for choice in self.choices]
        for other in others:
            first = Usage(
                first.prompt_tokens,
                # One choice computes what the others then find in the cache: the least is what was there before.
                min(first.cached_tokens, other.cached_tokens),
                first.completion_tokens + other.completion_tokens,
                first.reasoning_tokens + other.reasoning_tokens,
            )
        return first

    def __str__(self) -> str:
        return self.text


def gathered(events: Iterable[Told]) -> Completion:
    """The answer that a stream of events makes."""
    choices: dict[int, _Gathering] = {}
    for event in events:
        choices.setdefault(event.choice, _Gathering()).take(event)
    if not choices:
        raise EngineFailure("engine_error", "the answer ended without a reason")
    return Completion(tuple(choices[number].whole() for number in sorted(choices)))


@dataclass(slots=True)
class _Gathering:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    calls: list[tuple[str, str, list[str]]] = field(default_factory=list)
    end: Finished | None = None

    def take(self, event: Told) -> None:
        match event:
            case TextDelta():
                self.text.append(event.text)
                self.logprobs.extend(event.logprobs)
            case ReasoningDelta():
                self.reasoning.append(event.text)
            case ToolCallDelta(index=index, id=str(call_id), name=str(name)):
                if index != len(self.calls):
                    raise InternalError(f"tool call {index} follows {len(self.calls)} others")
                self.calls.append((call_id, name, [event.arguments]))
            case ToolCallDelta():
                self.calls[event.index][2].append(event.arguments)
            case Finished():
                self.end = event

    def whole(self) -> Choice:
        if self.end is None:
            raise EngineFailure("engine_error", "the answer ended without a reason")
        return Choice(
            text="".join(self.text),
            finish_reason=self.end.reason,
            usage=self.end.usage,
            logprobs=tuple(self.logprobs),
            tool_calls=tuple(ToolCall(call_id, name, "".join(pieces)) for call_id, name, pieces in self.calls),
            reasoning="".join(self.reasoning),
        )
