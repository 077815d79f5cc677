"""From the core's event rows to the frozen events of `ecocore.events`. Only embedded use comes through here."""

from typing import cast

from ecocore._core import EventRow
from ecocore.errors import InternalError
from ecocore.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    TopLogprob,
    Usage,
)


def event_of(row: EventRow) -> Event:
    """The event that a row stands for."""
    match row.kind:
        case "text":
            return _text(row)
        case "reasoning":
            return ReasoningDelta(row.text, row.choice)
        case "tool_call":
            return ToolCallDelta(row.index, row.id, row.name, "", row.choice)
        case "tool_arguments":
            return ToolCallDelta(row.index, None, None, row.text, row.choice)
        case "finished":
            return Finished(cast("FinishReason", row.reason), Usage(*row.usage), row.choice)
        case "failed":
            return Failed(row.code, row.message, row.choice)
        case "prompt":
            raise InternalError("no embedded request asks for the scores of its prompt")


def _text(row: EventRow) -> TextDelta:
    logprobs = tuple(
        TokenLogprob(token_id, token, logprob, tuple(TopLogprob(*entry) for entry in top))
        for token_id, token, logprob, top in row.logprobs
    )
    return TextDelta(row.text, logprobs, row.choice)
