"""The engine thread: takes sequences in, moves all of them one token at a time, delivers what happened.

The rooms arrive as arguments; this file knows their doors and nothing of their insides. Everything that
touches them runs on this thread, so none of them needs a lock; only the step itself computes on another,
the executor's, so that what a step has to tell is told while the next one computes.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ecocore._core import Batch, EventBatch, Grammar, OutputStreams, Scheduler
from ecocore.budget import PromptBudget
from ecocore.capacity import Capacity
from ecocore.errors import KeyQueueFull, Overloaded, QueueFull, RuntimeClosed
from ecocore.executor import Computed, Drawing, Executor, Glance, Looked, Looking
from ecocore.gallery import Gallery

log = logging.getLogger("ecocore.engine")

# Of all images that open sequences show: the pixels at the size that the model looks at, and what it keeps of them.
SHOWN_BYTES: Final = 256 * 2**20

Subscriber = Callable[[EventBatch], None]


class Sampler(Drawing, Protocol):
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

    def late(self) -> list[int]:
        """Sequences that a step might have to wait for."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A sequence on its way to the engine thread.

    `params` is the sampler's own business, `output` the output's: keywords of `OutputStreams.open`. `end_ids` end the
    sequence, not before `min_tokens` tokens; `whole`
    are spans that no step computes in part; `grammar` says what may be drawn. Those of one `key` share its turns; a lower
    `priority` goes first.
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
    priority: int = 0
    min_tokens: int = 0
    grammar: Grammar | None = None
    output: Mapping[str, Any] = field(default_factory=dict)
    scores: bool = False
    views: Sequence[Any] = ()
    """Images that the prompt shows; the model's own business."""
    whole: Sequence[tuple[int, int]] = ()
    shown_bytes: int = 0
    """What `views` hold in memory until the sequence ends."""


class Eyes(Looking, Protocol):
    """The part of a model that wants to know what prompts show."""

    def seen_bytes(self, views: Sequence[Any]) -> int:
        """What is kept of them from `show` to `hide`, beside themselves."""

    def show(self, sequence_id: int, views: Sequence[Any], prompt_length: int) -> None:
        """Before a sequence that shows something is looked at; its first step comes behind that."""

    def hide(self, sequence_id: int) -> None:
        """After its last; also of sequences that showed nothing."""


class StepLoop:
    """Runs the spine: schedule, launch; and while that computes, tell what the step before has drawn."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        sampler: Sampler,
        outputs: OutputStreams,
        *,
        capacity: Capacity,
        eyes: Eyes | None = None,
    ) -> None:
        """`capacity`: beyond it `submit` raises at once, as it does beyond `SHOWN_BYTES`.

        `eyes`: None where no prompt shows anything.
        """
        self._eyes = eyes
        self._scheduler = scheduler
        self._executor = executor
        self._sampler = sampler
        self._outputs = outputs
        self._capacity = capacity
        self._budget = PromptBudget()
        self._in_flight = 0
        self._gallery: Gallery[Submission] = Gallery()
        self._glancing = False
        self._shown: dict[int, int] = {}
        self._subscribers: tuple[Subscriber, ...] = ()
        self._inbox: deque[Submission | int] = deque()
        self._arriving: Counter[int] = Counter()
        # Of each open sequence, its request and choice: whatever breaks, its owner is told.
        self._open: dict[int, tuple[int, int]] = {}
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
        """Hands sequences over, all of one key, and all or none. Raises Overloaded, QueueFull, KeyQueueFull, RuntimeClosed."""
        key = submissions[0].key
        with self._wake:
            if self._closing:
                raise RuntimeClosed("this runtime was closed; load the model again")
            self._check_capacity(key, len(submissions))
            # They are of one request, which is looked at once.
            seen_bytes = self._eyes.seen_bytes(submissions[0].views) // len(submissions) if self._eyes else 0
            shown = {one.sequence_id: size for one in submissions if (size := one.shown_bytes + seen_bytes)}
            self._check_shown(sum(shown.values()))
            self._shown.update(shown)
            self._open.update({one.sequence_id: (one.request_id, one.choice) for one in submissions})
            self._inbox.extend(submissions)
            self._arriving[key] += len(submissions)
            self._wake.notify()

    def _check_capacity(self, key: int, count: int) -> None:
        """Whether so many more would find room to run, or at least to wait."""
        limits, stats = self._capacity, self._scheduler.stats()
        waiting = stats["waiting"] + self._arriving.total()
        running = len(self._open) - waiting
        # Places are of no use where the memory is short.
        free = 0 if stats["blocked"] else max(0, limits.running - running)
        own = self._scheduler.num_waiting_of(key) + self._arriving[key] + count - free
        if key and own > limits.waiting_per_key:
            raise KeyQueueFull(f"{limits.waiting_per_key} requests of this key wait, which is as many as may; retry in a moment")
        if waiting + count - free > limits.waiting:
            raise QueueFull(f"{limits.waiting} requests wait, which is as many as may; retry in a moment")

    def _check_shown(self, more: int) -> None:
        """Whether images of so many bytes may be held too. One request alone always may."""
        held = sum(self._shown.values())
        if held and more and held + more > SHOWN_BYTES:
            raise Overloaded("the images of many requests are waiting to be looked at; retry in a moment")

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

        `waiting`: also for their images to be looked at; `open`: sequences that did not end yet; `prompt_tokens` of all
        admitted and `generation_tokens` of all drawn.
        """
        with self._wake:
            return {
                **self._stats,
                "waiting": self._stats["waiting"] + len(self._gallery),
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
            while self._take_inbox(wait=True):
                self.step()
        except BaseException:
            # Nobody waits forever, whatever broke: also a panic of the core, which is no Exception.
            log.exception("the engine broke and takes no more requests")
            end = ("engine_error", "the engine broke; the request is lost")
        with self._wake:
            self._closing = True
            left = dict(self._open)
        try:
            # Also those who are still in the inbox, or half-way out of it.
            self._deliver(self._outputs.fail(self._bare_outputs(left), *end))
        finally:
            self._leave([*left])
            self._executor.close()

    def _bare_outputs(self, left: Mapping[int, tuple[int, int]]) -> list[int]:
        """Gives each sequence an output that can carry nothing but its end."""
        for sequence_id, (request_id, choice) in left.items():
            self._outputs.close(sequence_id)
            self._outputs.open(sequence_id, request_id=request_id, choice=choice, prompt_tokens=0, max_tokens=1)
        return sorted(left)

    def step(self) -> None:
        """Takes the tokens of the oldest step in flight, sets off the next one, and meanwhile tells what was drawn."""
        self._launch()
        if not self._in_flight and not self._glancing:
            return
        computed = self._executor.wait()
        if isinstance(computed, Looked):
            self._take_look(computed)
            return
        self._in_flight -= 1
        batch, tokens = computed.batch, computed.tokens
        if tokens is None:
            self._abandon(computed)
            return
        self._note(computed)
        self._scheduler.commit(batch, tokens, self._outputs.ended(tokens))
        # Who came or left meanwhile does so before the next step, not after it.
        self._take_inbox(wait=False)
        self._launch()
        events = self._outputs.push(batch, tokens)
        self._generation_tokens += events.num_tokens
        self._scheduler.finish(events)
        finished = events.finished_sequences
        self._leave(finished)
        self._deliver(events)
        # Last, for it waits for the draws of the next step.
        self._close_samplers(finished)

    def _launch(self) -> None:
        """Sets off as many steps as may be in flight, and behind them one glance at the images of those who wait for that."""
        while self._in_flight < self._executor.depth and (batch := self._schedule()) is not None:
            self._executor.launch(batch)
            self._in_flight += 1
        if self._eyes is not None and not self._glancing and (visitor := self._gallery.turn()) is not None:
            self._executor.launch(Glance(self._eyes, visitor.sequence_id, self._budget.between()))
            self._glancing = True

    def _schedule(self) -> Batch | None:
        """The next step, without those whose grammar would hold up all others; they are waited for if nobody else is there."""
        limit = self._budget.limit()
        late = self._sampler.late()
        batch = self._scheduler.schedule(prompt_tokens=limit, held=late)
        if batch is None and late and not self._in_flight:
            batch = self._scheduler.schedule(prompt_tokens=limit)
        return batch

    def _take_look(self, looked: Looked) -> None:
        """Lets a sequence in whose images were all looked at. It may have left meanwhile."""
        self._glancing = False
        if looked.progress == "image":
            self._gallery.rest()
        submission = self._gallery.leave(looked.sequence_id) if looked.progress == "all" or looked.error else None
        if submission is None:
            return
        if looked.error:
            log.error("the images of a sequence could not be looked at", exc_info=looked.error)
            self._fail([looked.sequence_id], "engine_error", "the engine could not look at the images of this request")
        else:
            self._enter(submission)
        self._came_in(submission)

    def _note(self, computed: Computed) -> None:
        batch = computed.batch
        prompt_tokens = batch.num_prompt_tokens
        rows = batch.num_tokens - prompt_tokens
        self._budget.observe(prompt_tokens=prompt_tokens, decode_rows=rows, seconds=computed.seconds)

    def _take_inbox(self, *, wait: bool) -> bool:
        """Moves what arrived into the rooms; if `wait`, until there is something to do. False once closing."""
        with self._wake:
            self._stats = self._scheduler.stats()
            if wait:
                self._wake.wait_for(self._has_work)
            arrived = list(self._inbox)
            self._inbox.clear()
            closing = self._closing
        for item in arrived:
            if isinstance(item, Submission):
                self._admit(item)
                if item.sequence_id not in self._gallery:
                    self._came_in(item)
            else:
                self._withdraw(item)
        return not closing

    def _has_work(self) -> bool:
        looks = self._glancing or bool(self._gallery)
        return bool(self._inbox or self._closing or self._in_flight or looks or self._scheduler.has_work())

    def _came_in(self, submission: Submission) -> None:
        """From here on the scheduler counts it, or nobody."""
        with self._wake:
            self._arriving[submission.key] -= 1
            self._arriving += Counter()  # drops what is back to zero

    def _admit(self, submission: Submission) -> None:
        """Opens the rooms to a sequence; one that shows something is looked at before it may enter a step."""
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
            if submission.views and self._eyes is not None:
                self._eyes.show(sequence_id, submission.views, len(submission.token_ids))
                self._gallery.enter(submission)
                return
        except Exception as error:  # noqa: BLE001 - told to its owner
            self._refuse(submission, error)
        else:
            self._enter(submission)

    def _enter(self, submission: Submission) -> None:
        """Lets a sequence into the steps."""
        try:
            self._scheduler.submit(
                submission.sequence_id,
                submission.token_ids,
                submission.max_tokens,
                submission.salt,
                submission.scores,
                key=submission.key,
                priority=submission.priority,
                whole=submission.whole,
                shown=[(view.start, view.digest) for view in submission.views],
            )
            self._prompt_tokens += len(submission.token_ids)
        except Exception as error:  # noqa: BLE001 - told to its owner
            self._refuse(submission, error)

    def _refuse(self, submission: Submission, error: Exception) -> None:
        """The runtime checked all of this before; a sequence that still cannot start must not take the engine along."""
        log.error("a sequence could not be admitted", exc_info=error)
        # Its output may be the room that refused; a bare one carries the news.
        bare = self._bare_outputs({submission.sequence_id: (submission.request_id, submission.choice)})
        self._fail(bare, "engine_error", "the engine could not start this request")

    def _withdraw(self, sequence_id: int) -> None:
        if (submission := self._gallery.leave(sequence_id)) is not None:
            self._came_in(submission)
        self._scheduler.cancel(sequence_id)
        self._outputs.close(sequence_id)
        self._forget([sequence_id])

    def _abandon(self, computed: Computed) -> None:
        """The sequences of a failed step end with an error; all others go on."""
        batch = computed.batch
        log.error("a step of %d sequences failed", batch.num_rows, exc_info=computed.error)
        self._scheduler.abandon(batch)
        self._fail(batch.sequence_ids.tolist(), "engine_error", "a step of the engine failed; the request is lost")

    def _fail(self, sequence_ids: list[int], code: str, message: str) -> None:
        events = self._outputs.fail(sequence_ids, code, message)
        self._forget(sequence_ids)
        self._deliver(events)

    def _forget(self, sequence_ids: list[int]) -> None:
        self._leave(sequence_ids)
        self._close_samplers(sequence_ids)

    def _leave(self, sequence_ids: list[int]) -> None:
        """They make room for others from here on."""
        with self._wake:
            for sequence_id in sequence_ids:
                self._open.pop(sequence_id, None)
                self._shown.pop(sequence_id, None)

    def _close_samplers(self, sequence_ids: list[int]) -> None:
        for sequence_id in sequence_ids:
            self._sampler.close(sequence_id)
            if self._eyes is not None:
                self._eyes.hide(sequence_id)

    def _deliver(self, events: EventBatch) -> None:
        if not len(events):
            return
        for subscriber in self._subscribers:
            try:
                subscriber(events)
            except Exception:
                log.exception("a subscriber of engine events failed")
