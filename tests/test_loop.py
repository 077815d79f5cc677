"""The engine loop when things go wrong: one step fails, the engine lives."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecocore._core import Batch, EventBatch, OutputStreams, Scheduler, Tokenizer
from ecocore.errors import QueueFull, RuntimeClosed
from ecocore.loop import StepLoop, Submission
from ecocore.model.mock import MockModel
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import BatchSampler


class FailsOn:
    """A mock model that breaks whenever a given sequence is in the batch."""

    def __init__(self, model: MockModel, sequence_id: int) -> None:
        self._model = model
        self._sequence_id = sequence_id

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        if self._sequence_id in batch.sequence_ids.tolist():
            raise MemoryError("no memory for this step")
        return self._model.forward(batch)


def submission(sequence_id: int, *, max_tokens: int = 5, stop: tuple[str, ...] = ()) -> Submission:
    return Submission(
        sequence_id=sequence_id,
        request_id=sequence_id,
        choice=0,
        token_ids=np.arange(10, 20, dtype=np.uint32),
        max_tokens=max_tokens,
        end_ids=(256,),
        params=SamplingParams(temperature=0),
        seed=sequence_id,
        salt=b"",
        output={"stop": stop},
    )


def make_loop(model: Any | None = None, *, capacity: int = 8, max_sequences: int = 4) -> StepLoop:
    tokenizer = Tokenizer.bytes_only()
    return StepLoop(
        Scheduler(num_blocks=64, block_size=16, max_sequences=max_sequences),
        model or MockModel(tokenizer.vocab_size, max_sequences=max_sequences),
        BatchSampler(tokenizer.vocab_size),
        OutputStreams(tokenizer),
        capacity=capacity,
        cores=nullcontext(),
    )


def collect(loop: StepLoop) -> list[tuple[int, str, str]]:
    seen: list[tuple[int, str, str]] = []

    def note(events: EventBatch) -> None:
        seen.extend((row.request_id, row.kind, row.code or row.reason) for row in events.rows() if row.kind != "text")

    loop.subscribe(note)
    return seen


def drive(loop: StepLoop, steps: int) -> None:
    """Runs the loop on this thread, so that the test sees every step."""
    for _ in range(steps):
        if loop.stats()["open"]:
            loop._take_inbox()
            loop.step()


def test_a_failed_step_ends_its_sequences_and_spares_the_next(caplog: pytest.LogCaptureFixture) -> None:
    loop = make_loop(FailsOn(MockModel(257, max_sequences=4), sequence_id=1))
    seen = collect(loop)
    loop.submit(submission(1))
    drive(loop, 3)
    loop.submit(submission(2))
    drive(loop, 8)
    assert seen == [(1, "failed", "engine_error"), (2, "finished", "length")]
    assert loop.stats()["open"] == 0
    assert "no memory for this step" in caplog.text


def test_a_full_engine_refuses_at_once() -> None:
    loop = make_loop(capacity=2)
    loop.submit(submission(1))
    loop.submit(submission(2))
    with pytest.raises(QueueFull, match="2 answers"):
        loop.submit(submission(3))


def test_several_sequences_enter_together_or_not_at_all() -> None:
    loop = make_loop(capacity=2)
    loop.submit(submission(1))
    with pytest.raises(QueueFull):
        loop.submit(submission(2), submission(3))
    assert loop.stats()["open"] == 1
    loop.submit(submission(2))
    assert loop.stats()["open"] == 2


def test_a_cancelled_sequence_leaves_no_event(caplog: pytest.LogCaptureFixture) -> None:
    loop = make_loop()
    seen = collect(loop)
    loop.submit(submission(1, max_tokens=50))
    drive(loop, 2)
    loop.cancel([1])
    drive(loop, 2)
    assert seen == []
    assert loop.stats()["open"] == 0
    assert not caplog.records


def test_a_broken_subscriber_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    loop = make_loop()

    def broken(_: EventBatch) -> None:
        raise ValueError("subscriber")

    loop.subscribe(broken)
    seen = collect(loop)
    loop.submit(submission(1))
    drive(loop, 8)
    assert seen == [(1, "finished", "length")]
    assert "subscriber" in caplog.text


def test_closing_fails_what_is_open_and_refuses_the_rest() -> None:
    loop = make_loop()
    seen = collect(loop)
    loop.start()
    loop.submit(submission(1, max_tokens=900))
    loop.close()
    assert seen in ([(1, "failed", "runtime_closed")], [(1, "finished", "length")])
    with pytest.raises(RuntimeClosed):
        loop.submit(submission(2))


class Panic(BaseException):
    """What a panic of the core becomes."""


class Breaking:
    """Outputs that break in their third step."""

    def __init__(self, outputs: OutputStreams) -> None:
        self._outputs = outputs
        self._steps = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outputs, name)

    def push(self, *step: Any) -> EventBatch:
        self._steps += 1
        if self._steps == 3:
            raise Panic("index out of bounds")
        return self._outputs.push(*step)


def test_when_the_engine_breaks_everybody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    loop = make_loop()
    loop._outputs = Breaking(loop._outputs)  # type: ignore[assignment]
    seen = collect(loop)
    for number in (1, 2):
        loop.submit(submission(number, max_tokens=50))
    loop.start()
    loop._thread.join(20)
    assert seen == [(1, "failed", "engine_error"), (2, "failed", "engine_error")]
    assert not loop.is_alive
    with pytest.raises(RuntimeClosed):
        loop.submit(submission(3))
    assert "index out of bounds" in caplog.text


def test_a_sequence_that_cannot_start_is_told_and_the_engine_lives(caplog: pytest.LogCaptureFixture) -> None:
    loop = make_loop()
    seen = collect(loop)
    loop.submit(submission(1, stop=("",)))
    loop.submit(submission(2))
    drive(loop, 8)
    assert seen == [(1, "failed", "engine_error"), (2, "finished", "length")]
    assert "could not be admitted" in caplog.text


class Forgets:
    """A mock model whose logits of one sequence are no numbers."""

    def __init__(self, model: MockModel, sequence_id: int) -> None:
        self._model = model
        self._sequence_id = sequence_id

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        logits = np.array(self._model.forward(batch))
        logits[batch.sequence_ids == self._sequence_id] = np.nan
        return logits


def test_logits_that_are_no_numbers_fail_their_own_sequence() -> None:
    loop = make_loop(Forgets(MockModel(257, max_sequences=4), sequence_id=1))
    seen = collect(loop)
    loop.submit(submission(1), submission(2))
    drive(loop, 8)
    assert seen == [(1, "failed", "engine_error"), (2, "finished", "length")]
    assert loop.stats()["open"] == 0
