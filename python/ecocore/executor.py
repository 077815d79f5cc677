"""Computes steps one after another on a thread of its own, so that the engine can schedule and tell meanwhile.

Takes batches, gives drawn tokens in the same order. Model and sampler arrive as arguments.
"""

import threading
import time
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, Protocol

from ecocore._core import Batch, SampledTokens


class Model(Protocol):
    """Computes one step."""

    def forward(self, batch: Batch) -> Any:
        """Logits (batch.num_logits, vocab) as a float tensor."""


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
        self._launched: SimpleQueue[Batch | None] = SimpleQueue()
        self._computed: SimpleQueue[Computed | BaseException] = SimpleQueue()
        self._drawn: deque[SampledTokens] = deque(maxlen=depth)
        self._thread = threading.Thread(target=self._run, name="ecocore-executor", daemon=True)
        self._thread.start()

    def launch(self, batch: Batch) -> None:
        """Hands over a step. At most `depth` may be out."""
        self._launched.put(batch)

    def wait(self) -> Computed:
        """The oldest launched step, once it is computed. Raises what broke the executor, such as a panic of the core."""
        computed = self._computed.get()
        if isinstance(computed, BaseException):
            raise computed
        return computed

    def close(self) -> None:
        """Ends the thread after the steps that were launched."""
        self._launched.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (batch := self._launched.get()) is not None:
            try:
                self._computed.put(self._compute(batch))
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
            except Exception as error:  # noqa: BLE001 - one step fails, the engine lives
                return Computed(batch, None, error, time.perf_counter() - begun)
        self._drawn.append(tokens)
        return Computed(batch, tokens, None, time.perf_counter() - begun)
