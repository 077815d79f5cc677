"""One streamed chat: hears its answer, fills in its `Outcome`.

Takes the head and the body's bytes, wherever they are cut; what is wrong with them becomes a `Failure`, never an exception.
"""

from typing import Any, Final

from pydantic_core import from_json

from ecocore.bench.http1 import Head
from ecocore.bench.outcome import Failure, FailureKind, Outcome
from ecocore.bench.sse import EventSplitter

MAX_ERROR_BYTES: Final = 64 * 1024
MAX_DETAIL: Final = 200

# Where servers put what a reader will see; `reasoning` and its longer name are what open servers add.
_TEXTS: Final = ("content", "reasoning_content", "reasoning", "refusal")


class ChatAnswer:
    """Hears the answer to one request."""

    def __init__(self, outcome: Outcome, *, keep_text: bool = False) -> None:
        """`outcome` is filled in as the bytes come."""
        self.outcome = outcome
        if keep_text:
            outcome.text = []
        self._events = EventSplitter()
        self._done = False
        self._error = bytearray()

    def on_head(self, head: Head, at: float) -> None:
        """Status and kind of the answer."""
        outcome = self.outcome
        outcome.head, outcome.status = at, head.status
        outcome.retry_after = head.headers.get("retry-after")
        kind = head.headers.get("content-type", "")
        if head.status == 200 and not kind.lower().startswith("text/event-stream"):
            self.fail("malformed", f"the answer is {kind[:40] or 'of no kind'}, not text/event-stream")

    def on_body(self, data: bytes, at: float) -> None:
        """Events, or the words of an error."""
        if self.outcome.status != 200:
            if len(self._error) < MAX_ERROR_BYTES:
                self._error += data
            return
        for said in self._events.feed(data):
            self._on_event(said, at)

    def on_end(self) -> None:
        """The answer is whole, as far as HTTP goes."""
        outcome = self.outcome
        if outcome.status != 200:
            self.fail("http", f"{outcome.status} {_code(_parsed(bytes(self._error)))}".strip())
        elif not self._done:
            self.fail("no [DONE]", "the stream ended without data: [DONE]")

    def fail(self, kind: FailureKind, detail: str) -> None:
        """The first fault counts."""
        if self.outcome.failure is None:
            self.outcome.failure = Failure(kind, detail[:MAX_DETAIL])

    def _on_event(self, said: bytes, at: float) -> None:
        if said == b"[DONE]":
            self._done = True
            return
        value = _parsed(said)
        if not isinstance(value, dict):
            self.fail("malformed", f"an event is no JSON object: {said[:80]!r}")
        elif "error" in value:
            self.fail("error event", _code(value) or "no code")
        else:
            self._on_chunk(value, at)

    def _on_chunk(self, chunk: dict[str, Any], at: float) -> None:
        outcome = self.outcome
        try:
            for choice in chunk.get("choices") or ():
                if delta := choice.get("delta"):
                    pieces = [delta[name] for name in _TEXTS if delta.get(name)]
                    if pieces or delta.get("tool_calls"):
                        outcome.times.append(at)
                        if outcome.text is not None:
                            outcome.text += pieces
                if reason := choice.get("finish_reason"):
                    outcome.finish_reason = reason
                    outcome.fingerprint = chunk.get("system_fingerprint")
            if usage := chunk.get("usage"):
                outcome.prompt_tokens = int(usage["prompt_tokens"])
                outcome.completion_tokens = int(usage["completion_tokens"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self.fail("malformed", f"an event is no chunk of a chat: {type(error).__name__} {error}")


def error_words(body: bytes) -> str:
    """All that an error's answer says about its reason, on one line: for finding the field that it means."""
    return " ".join(" ".join(_error_parts(body)).split())


def error_reason(body: bytes) -> str:
    """What an error's answer says to people, on one line."""
    return " ".join("".join(_error_parts(body)[:1]).split())


def _error_parts(body: bytes) -> list[str]:
    value = _parsed(body)
    error = value.get("error", value) if isinstance(value, dict) else None
    if isinstance(error, dict):
        return [str(error[name]) for name in ("message", "detail", "param", "code") if error.get(name)]
    return [str(error if error is not None else body.decode("utf-8", "replace"))]


def _parsed(data: bytes) -> Any:
    """The JSON value, or None where there is none."""
    try:
        return from_json(data)
    except ValueError:
        return None


def _code(value: Any) -> str:
    """The code of an error, or else its type, in whatever of the usual envelopes it came."""
    if not isinstance(value, dict):
        return ""
    error = value.get("error", value)
    if isinstance(error, str):
        return error
    if not isinstance(error, dict):
        return ""
    return str(next((error[name] for name in ("code", "type", "message") if error.get(name)), ""))
