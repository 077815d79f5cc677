"""The door of every place that can run requests."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from ecocore._core import EventBatch
from ecocore.request import ChatRequest


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a request is for.

    `salt` separates accounts in the prefix cache. Requests of one `key` (64 bits) share its turns where others wait too.
    """

    salt: bytes = b""
    key: int = 0


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that its region has judged and will run when told.

    Its events carry `request_id`. Awaiting `start(owner)` sets it off; it raises RegionUnavailable, Overloaded or RuntimeClosed.
    What it may cost at most: `prompt_tokens`, and `max_completion_tokens` of all `choices` together. `least_prompt_tokens`: what
    its prompt has for certain, where the region does not count tokens itself; else None.
    """

    request_id: int
    start: Callable[[Owner], Awaitable[None]]
    prompt_tokens: int
    max_completion_tokens: int
    choices: int = 1
    least_prompt_tokens: int | None = None


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
    def is_alive(self) -> bool:
        """Whether it takes requests."""

    @property
    def accepts_images(self) -> bool:
        """Whether messages may hold images."""

    @property
    def fingerprint(self) -> str:
        """Changes with the weights and with the build."""

    @property
    def abilities(self) -> tuple[str, ...]:
        """What the model can do, for the list of models: "text", "json", "tools", perhaps "images" and "reasoning"."""

    def connected(self) -> AbstractAsyncContextManager[object]:
        """Inside, requests may be prepared and run, on the event loop that entered."""

    def stats(self) -> Mapping[str, int]:
        """Counts for metrics. Quick, from any thread.

        At least waiting, running, free_blocks, total_blocks, prefix_queries, prefix_hits, preemptions,
        prompt_tokens and generation_tokens.
        """

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of a text; `add_special_tokens` puts what the model begins every text with before it."""

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Text of ids. Raises InvalidParameter("ids") for one that is no token."""

    async def prepare(self, request: ChatRequest) -> Admission:
        """Judges a request: template, tokens, context, images. Raises InvalidRequest kinds, Overloaded, RuntimeClosed.

        Where the engine may be lost without its server, this and the two above raise RegionUnavailable too.
        """

    async def prepare_plain(self, request: ChatRequest, prompt: str | Sequence[int], *, scores: bool) -> Admission:
        """As `prepare`, but what is continued is a text or token ids; the request's messages are not looked at.

        `scores`: the events tell the log-probabilities of the prompt's tokens too.
        """

    def cancel(self, request_id: int) -> None:
        """Stops a request without an event, or gives up its admission; an unknown or ended one is ignored.

        Quick, from any thread.
        """

    def subscribe(self, callback: Callable[[EventBatch], None]) -> Callable[[], None]:
        """Calls `callback` with the events of each step, on a thread of the region; the result ends that."""
