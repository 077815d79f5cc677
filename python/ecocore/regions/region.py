"""The door of every place that can run requests."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ecocore._core import EventBatch
from ecocore.request import ChatRequest


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that its region has judged and will run when told.

    Its events carry `request_id`. `start(salt)` sets it off and raises Overloaded or RuntimeClosed; `salt`
    separates tenants in the prefix cache.
    """

    request_id: int
    start: Callable[[bytes], None]


class Region(Protocol):
    """A place that runs requests for one model."""

    @property
    def model_id(self) -> str:
        """The name that requests ask for."""

    @property
    def created(self) -> int:
        """When the model became available, in seconds since 1970."""

    @property
    def context_length(self) -> int:
        """Tokens of prompt and answer together."""

    @property
    def accepts_images(self) -> bool:
        """Whether messages may hold images."""

    @property
    def fingerprint(self) -> str:
        """Changes with the weights and with the build."""

    async def prepare(self, request: ChatRequest) -> Admission:
        """Judges a request: template, tokens, context, images. Raises InvalidRequest kinds, Overloaded, RuntimeClosed."""

    def cancel(self, request_id: int) -> None:
        """Stops a request without an event; an unknown or ended one is ignored. Quick, from any thread."""

    def subscribe(self, callback: Callable[[EventBatch], None]) -> Callable[[], None]:
        """Calls `callback` with the events of each step, on a thread of the region; the result ends that."""
