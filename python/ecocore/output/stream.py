"""From the core's event rows to the frozen events of `ecocore.events`. Only embedded use comes through here."""

from typing import cast

from ecocore._core import EventRow
from ecocore.events import Event, Failed, Finished, FinishReason, TextDelta, TokenLogprob, TopLogprob, Usage


def event_of(row: EventRow) -> Event:
    """The event that a row stands for."""
    if row.kind == "finished":
        return Finished(cast("FinishReason", row.reason), Usage(*row.usage), row.choice)
    if row.kind == "failed":
        return Failed(row.code, row.message, row.choice)
    logprobs = tuple(
        TokenLogprob(token_id, token, logprob, tuple(TopLogprob(*entry) for entry in top))
        for token_id, token, logprob, top in row.logprobs
    )
    return TextDelta(row.text, logprobs, row.choice)
