"""The engine thread: takes sequences in, moves all of them one token at a time, delivers what happened.

The rooms arrive as arguments; this file knows their doors and nothing of their insides. Everything that
touches them runs on one thread, so none of them needs a lock.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecocore._core import Batch, EventBatch, Grammar, OutputStreams, SampledTokens, Scheduler
from ecocore.errors import QueueFull, RuntimeClosed

log = logging.getLogger("ecocore.engine")

Subscriber = Callable[[EventBatch], None]


class Model(Protocol):
    """Computes one step."""

    def forward(self, batch: Batch) -> Any:
        """Logits (batch.num_logits, vocab) as a float tensor."""


class Sampler(Protocol):
    """Draws tokens and remembers what it drew for each open sequence."""

    def open(
        self,
        sequence_id: int,
        params: Any,
        seed: int,
        choice: int,
        prompt: NDArray[np.uint32],
        *,
        grammar: Grammar | None,
        end_ids: Sequence[int],
        min_tokens: int,
    ) -> None:
        """Starts a sequence. `end_ids` are not drawn before `min_tokens` others; `grammar` says what may be."""

    def close(self, sequence_id: int) -> None:
        """Forgets a sequence."""

    def prepare(self, batch: Batch) -> Any:
        """What the draws of this batch need, gathered while the model computes."""

    def sample(self, logits: Any, inputs: Any) -> SampledTokens:
        """One token for each row that draws."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A sequence on its way to the engine thread.

    `params` is the sampler's own business, `output` the output's: keywords of `OutputStreams.open`. `end_ids` end the
    sequence, not before `min_tokens` tokens; `grammar` says what may be drawn. Those of one `key` share its turns.
    """

    sequence_id: int
    request_id: int
    choice: int
    token_ids: NDArray[np.uint32]
    max_tokens: int
    end_ids: tuple[int, ...]
    params: Any
    seed: int
    salt: bytes
    key: int = 0
    min_tokens: int = 0
    grammar: Grammar | None = None
    output: Mapping[str, Any] = field(default_factory=dict)
    scores: bool = False


class StepLoop:
    """Runs the spine: schedule, forward, prepare, sample, push, commit.

    `capacity`: sequences that may be open at once, running and waiting; beyond it `submit` raises QueueFull.
    `cores`: held while a step computes, so that several models in one process do not fight over the cores.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        model: Model,
        sampler: Sampler,
        outputs: OutputStreams,
        *,
        capacity: int,
        cores: AbstractContextManager[Any],
    ) -> None:
        self._scheduler = scheduler
        self._model = model
        self._sampler = sampler
        self._outputs = outputs
        self._capacity = capacity
        self._cores = cores
        self._subscribers: tuple[Subscriber, ...] = ()
        self._inbox: deque[Submission | int] = deque()
        self._open: set[int] = set()
        self._wake = threading.Condition()
        self._closing = False
        self._stats = scheduler.stats()
        self._prompt_tokens = 0
        self._generation_tokens = 0
        self._thread = threading.Thread(target=self._run, name="ecocore-engine", daemon=True)

    # --- for every thread -------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the engine thread."""
        self._thread.start()

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Calls `subscriber` on the engine thread, once per step, until the returned function is called."""
        with self._wake:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._wake:
                self._subscribers = tuple(one for one in self._subscribers if one is not subscriber)

        return unsubscribe

    def submit(self, *submissions: Submission) -> None:
        """Hands sequences over, all or none. Raises QueueFull, RuntimeClosed."""
        with self._wake:
            if self._closing:
                raise RuntimeClosed("this runtime was closed; load the model again")
            if len(self._open) + len(submissions) > self._capacity:
                raise QueueFull(f"no more than {self._capacity} answers may be open at once; retry in a moment")
            self._open.update(submission.sequence_id for submission in submissions)
            self._inbox.extend(submissions)
            self._wake.notify()

    def cancel(self, sequence_ids: Iterable[int]) -> None:
        """Ends sequences without an event; unknown ones are ignored."""
        with self._wake:
            known = [sequence_id for sequence_id in sequence_ids if sequence_id in self._open]
            self._inbox.extend(known)
            if known:
                self._wake.notify()

    @property
    def is_alive(self) -> bool:
        """Whether the engine takes requests."""
        return self._thread.is_alive() and not self._closing

    def stats(self) -> dict[str, int]:
        """The scheduler's counts as of the last step, and this loop's own.

        `open`: sequences that did not end yet; `prompt_tokens` of all admitted and `generation_tokens` of all drawn.
        """
        with self._wake:
            return {
                **self._stats,
                "open": len(self._open),
                "prompt_tokens": self._prompt_tokens,
                "generation_tokens": self._generation_tokens,
            }

    def close(self) -> None:
        """Ends the thread after the step in progress; what is still open fails with `runtime_closed`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    # --- the engine thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        end = ("runtime_closed", "the runtime was closed")
        try:
            while self._take_inbox():
                self.step()
        except BaseException:
            # Nobody waits forever, whatever broke: also a panic of the core, which is no Exception.
            log.exception("the engine broke and takes no more requests")
            end = ("engine_error", "the engine broke; the request is lost")
        with self._wake:
            self._closing = True
            left = sorted(self._open)
        self._deliver(self._outputs.fail(left, *end))

    def step(self) -> None:
        """Advances every running sequence by one model step."""
        batch = self._scheduler.schedule()
        if batch is None:
            return
        try:
            with self._cores:
                logits = self._model.forward(batch)
                inputs = self._sampler.prepare(batch)
                token_ids = self._sampler.sample(logits, inputs)
        except Exception:
            log.exception("a step of %d sequences failed", batch.num_rows)
            self._abandon(batch)
            return
        events = self._outputs.push(batch, token_ids, self._scheduler)
        self._scheduler.commit(batch, token_ids, events)
        self._generation_tokens += len(token_ids)
        self._forget(events.finished_sequences)
        self._deliver(events)

    def _take_inbox(self) -> bool:
        """Moves what arrived into the rooms; waits while there is nothing to do. False once closing."""
        with self._wake:
            self._stats = self._scheduler.stats()
            self._wake.wait_for(lambda: self._inbox or self._closing or self._scheduler.has_work())
            arrived = list(self._inbox)
            self._inbox.clear()
            closing = self._closing
        for item in arrived:
            if isinstance(item, Submission):
                self._admit(item)
            else:
                self._withdraw(item)
        return not closing

    def _admit(self, submission: Submission) -> None:
        sequence_id, request_id, choice = submission.sequence_id, submission.request_id, submission.choice
        try:
            self._outputs.open(
                sequence_id,
                request_id=request_id,
                choice=choice,
                prompt_tokens=len(submission.token_ids),
                max_tokens=submission.max_tokens,
                min_tokens=submission.min_tokens,
                end_ids=submission.end_ids,
                **submission.output,
            )
            self._sampler.open(
                sequence_id,
                submission.params,
                submission.seed,
                choice,
                submission.token_ids,
                grammar=submission.grammar,
                end_ids=submission.end_ids,
                min_tokens=submission.min_tokens,
            )
            self._scheduler.submit(sequence_id, submission.token_ids, submission.max_tokens, submission.salt, submission.scores)
            self._prompt_tokens += len(submission.token_ids)
        except Exception:
            # The runtime checked all of this before; a sequence that still cannot start must not take the engine along.
            log.exception("a sequence could not be admitted")
            # Its output may be the room that refused; a bare one carries the news.
            self._outputs.close(sequence_id)
            self._outputs.open(sequence_id, request_id=request_id, choice=choice, prompt_tokens=0, max_tokens=1)
            self._fail([sequence_id], "engine_error", "the engine could not start this request")

    def _withdraw(self, sequence_id: int) -> None:
        self._scheduler.cancel(sequence_id)
        self._outputs.close(sequence_id)
        self._forget([sequence_id])

    def _abandon(self, batch: Batch) -> None:
        """The sequences of a failed step end with an error; all others go on."""
        self._scheduler.abandon(batch)
        self._fail(batch.sequence_ids.tolist(), "engine_error", "a step of the engine failed; the request is lost")

    def _fail(self, sequence_ids: list[int], code: str, message: str) -> None:
        events = self._outputs.fail(sequence_ids, code, message)
        self._forget(sequence_ids)
        self._deliver(events)

    def _forget(self, sequence_ids: list[int]) -> None:
        for sequence_id in sequence_ids:
            self._sampler.close(sequence_id)
        with self._wake:
            self._open.difference_update(sequence_ids)

    def _deliver(self, events: EventBatch) -> None:
        if not len(events):
            return
        for subscriber in self._subscribers:
            try:
                subscriber(events)
            except Exception:
                log.exception("a subscriber of engine events failed")
