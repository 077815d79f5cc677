"""Computes steps one after another on a thread of its own, so that the engine can schedule and tell meanwhile.

Takes batches, gives drawn tokens in the same order; between them, images are looked at in parts. Model and sampler arrive as
arguments.
"""

import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Literal, Protocol

from ecocore._core import Batch, SampledTokens
from ecocore.errors import EngineBroken


class Model(Protocol):
    """Computes one step."""

    def forward(self, batch: Batch) -> Any:
        """Logits (batch.num_logits, vocab) as a float tensor. Raises EngineBroken where no later step could go well."""


class Drawing(Protocol):
    """What a step needs of the sampler."""

    def prepare(self, batch: Batch) -> Any:
        """What the draws of this batch need."""

    def sample(self, logits: Any, inputs: Any) -> SampledTokens:
        """One token for each row that draws."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What became of a step: its tokens, or why there are none. `seconds`: how long it computed."""

    batch: Batch
    tokens: SampledTokens | None
    error: Exception | None
    seconds: float


Progress = Literal["part", "image", "all"]
"""What of a sequence's images was looked at last: a part of one, the rest of one, or all that was missing."""


class Looking(Protocol):
    """What may be computed of images between two steps."""

    def look(self, sequence_id: int) -> Progress:
        """A part of what a sequence shows; "all" once nothing is missing."""


@dataclass(frozen=True, slots=True)
class Glance:
    """A look at an image of a sequence for so many seconds, or for one part of it if that takes longer."""

    eyes: Looking
    sequence_id: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Looked:
    """What became of a glance, or why the sequence cannot be looked at."""

    sequence_id: int
    progress: Progress
    error: Exception | None = None


class Executor:
    """Runs the model and the sampler. Whoever launches and waits is one thread; both ends are parked while idle.

    `depth`: how many steps may be launched before their tokens are known. A step may need tokens of the steps in flight
    before it: they are filled in here, where they are drawn.
    """

    def __init__(self, model: Model, sampler: Drawing, *, depth: int, cores: AbstractContextManager[Any]) -> None:
        """`cores`: held while a step computes, so that several models in one process do not fight over the cores."""
        self.depth: Final = depth
        self._model = model
        self._sampler = sampler
        self._cores = cores
        self._launched: SimpleQueue[Batch | Glance | None] = SimpleQueue()
        self._computed: SimpleQueue[Computed | Looked | BaseException] = SimpleQueue()
        self._drawn: deque[SampledTokens] = deque(maxlen=depth)
        self._thread = threading.Thread(target=self._run, name="ecocore-executor", daemon=True)
        self._thread.start()

    def launch(self, work: Batch | Glance) -> None:
        """Hands over a step, or a glance behind it. At most `depth` steps may be out."""
        self._launched.put(work)

    def wait(self) -> Computed | Looked:
        """The oldest that was launched, once it is computed. Raises what broke the executor: EngineBroken or a panic."""
        computed = self._computed.get()
        if isinstance(computed, BaseException):
            raise computed
        return computed

    def close(self) -> None:
        """Ends the thread after the steps that were launched."""
        self._launched.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._launched.get()) is not None:
            try:
                self._computed.put(self._look(work) if isinstance(work, Glance) else self._compute(work))
            except BaseException as error:  # noqa: BLE001 - told to whoever waits, who would otherwise wait forever
                self._computed.put(error)
                return

    def _compute(self, batch: Batch) -> Computed:
        with self._cores:
            begun = time.perf_counter()
            try:
                # At depth 1 every token is known; the check in `filled` is all it costs.
                known = batch if self.depth == 1 else batch.filled(self._drawn)
                logits = self._model.forward(known)
                tokens = self._sampler.sample(logits, self._sampler.prepare(batch))
            except EngineBroken:
                raise
            except Exception as error:  # noqa: BLE001 - one step fails, the engine lives
                return Computed(batch, None, error, time.perf_counter() - begun)
        self._drawn.append(tokens)
        return Computed(batch, tokens, None, time.perf_counter() - begun)

    def _look(self, glance: Glance) -> Looked:
        with self._cores:
            end = time.perf_counter() + glance.seconds
            try:
                while (progress := glance.eyes.look(glance.sequence_id)) == "part" and time.perf_counter() < end:
                    pass
            except Exception as error:  # noqa: BLE001 - one image fails, the engine lives
                return Looked(glance.sequence_id, "part", error)
        return Looked(glance.sequence_id, progress)
