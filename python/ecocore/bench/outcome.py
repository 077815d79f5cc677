"""What became of one request, as its client saw it. The figures are made of these."""

from array import array
from dataclasses import dataclass, field
from typing import Literal

FailureKind = Literal["http", "error event", "connection", "broken stream", "no [DONE]", "malformed", "timeout"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed. `detail`: a status and a code, or a few words."""

    kind: FailureKind
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


@dataclass(slots=True)
class Outcome:
    """One request. Times are seconds of `time.perf_counter`.

    `due`: when it was to be sent; connecting counts as waiting. `head`, `ended`: when the head of the answer came, and its
    last byte or the failure. `times`: of each event that held part of the answer, when its bytes arrived; what came in one
    read shares its time. `text`: its pieces, where the caller keeps them.
    """

    number: int
    due: float
    head: float | None = None
    ended: float | None = None
    status: int | None = None
    retry_after: str | None = None
    times: "array[float]" = field(default_factory=lambda: array("d"))
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    fingerprint: str | None = None
    text: list[str] | None = None
    failure: Failure | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the whole answer came."""
        return self.ended is not None and self.failure is None
