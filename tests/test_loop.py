"""The engine loop when things go wrong: one step fails, the engine lives."""

import threading
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ecocore._core import Batch, EventBatch, OutputStreams, Scheduler, Tokenizer
from ecocore.capacity import Capacity
from ecocore.errors import KeyQueueFull, Overloaded, QueueFull, RuntimeClosed
from ecocore.executor import Executor
from ecocore.loop import StepLoop, Submission
from ecocore.model.mock import MockModel
from ecocore.model.sight import Sights, View
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


def submission(sequence_id: int, *, max_tokens: int = 5, stop: tuple[str, ...] = (), key: int = 0) -> Submission:
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
        key=key,
        output={"stop": stop},
    )


def make_loop(model: Any | None = None, *, capacity: Capacity = Capacity(4, 4, 4), depth: int = 1) -> StepLoop:  # noqa: B008
    tokenizer = Tokenizer.bytes_only()
    sampler = BatchSampler(tokenizer.vocab_size)
    model = model or MockModel(tokenizer.vocab_size, max_sequences=capacity.running)
    return StepLoop(
        Scheduler(num_blocks=64, block_size=16, max_sequences=capacity.running),
        Executor(model, sampler, depth=depth, cores=nullcontext()),
        sampler,
        OutputStreams(tokenizer),
        capacity=capacity,
    )


def test_a_full_line_of_one_key_refuses_that_key_alone() -> None:
    loop = make_loop(capacity=Capacity(running=1, waiting=4, waiting_per_key=2))
    for number in (1, 2, 3):  # one of them will run
        loop.submit(submission(number, key=7))
    with pytest.raises(KeyQueueFull, match="2 requests of this key wait"):
        loop.submit(submission(4, key=7))
    # Key 0 is nobody's in particular: only the whole line bounds it.
    loop.submit(submission(4))
    loop.submit(submission(5, key=8))
    with pytest.raises(QueueFull):
        loop.submit(submission(6))


def test_images_beyond_what_may_be_held_are_refused_until_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecocore.loop.SHOWN_BYTES", 100)
    loop = make_loop()
    loop.submit(replace(submission(1), shown_bytes=150))  # more than may be held, but alone
    with pytest.raises(Overloaded, match="images of many requests"):
        loop.submit(replace(submission(2), shown_bytes=1))
    loop.submit(submission(3))
    loop.cancel([1])
    drive(loop, 1)
    loop.submit(replace(submission(2), shown_bytes=60))
    loop.submit(replace(submission(4), shown_bytes=40))
    loop.close()


def test_what_ran_or_left_makes_room_in_the_line() -> None:
    loop = make_loop(capacity=Capacity(running=1, waiting=4, waiting_per_key=1))
    loop.submit(submission(1, key=7, max_tokens=2), submission(2, key=7))
    with pytest.raises(KeyQueueFull):
        loop.submit(submission(3, key=7))
    drive(loop, 3)  # the first ends, and the second runs
    loop.submit(submission(3, key=7))
    with pytest.raises(KeyQueueFull):
        loop.submit(submission(4, key=7))
    loop.cancel([3])
    drive(loop, 1)
    loop.submit(submission(4, key=7))


class Gate:
    """A mock model that computes a step only when it is let, and tells how many it began."""

    def __init__(self, model: MockModel) -> None:
        self._model = model
        self.begun: SimpleQueue[Batch] = SimpleQueue()
        self.let: SimpleQueue[None] = SimpleQueue()

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        self.begun.put(batch)
        self.let.get(timeout=20)
        return self._model.forward(batch)


def test_a_step_is_told_while_the_next_one_computes() -> None:
    gate = Gate(MockModel(257, max_sequences=4))
    loop = make_loop(gate)
    told: SimpleQueue[EventBatch] = SimpleQueue()
    loop.subscribe(told.put)
    loop.start()
    loop.submit(submission(1, max_tokens=3))
    gate.begun.get(timeout=20)
    gate.let.put(None)
    # The second step has begun and is not let, and yet the first one is told.
    gate.begun.get(timeout=20)
    assert len(told.get(timeout=20)) == 1
    for _ in range(2):
        gate.let.put(None)
    assert told.get(timeout=20).finished_sequences == []
    assert told.get(timeout=20).finished_sequences == [1]
    loop.close()


def test_at_depth_two_the_next_step_is_launched_before_a_token_is_known() -> None:
    gate = Gate(MockModel(257, max_sequences=4))
    loop = make_loop(gate, depth=2)
    seen = collect(loop)
    ended = threading.Event()
    loop.subscribe(lambda events: ended.set() if events.finished_sequences else None)
    loop.start()
    loop.submit(submission(1, max_tokens=4))
    for _ in range(4):
        gate.let.put(None)
    batches = [gate.begun.get(timeout=20) for _ in range(4)]
    # What was still being drawn when the step was scheduled was filled in where it was drawn.
    assert all((batch.token_ids >= 0).all() for batch in batches)
    assert [batch.positions.tolist()[-1] for batch in batches] == [9, 10, 11, 12]
    assert ended.wait(20)
    loop.close()
    assert seen == [(1, "finished", "length")]


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_failed_step_at_any_depth_spares_all_others(depth: int, caplog: pytest.LogCaptureFixture) -> None:
    loop = make_loop(FailsOn(MockModel(257, max_sequences=4), sequence_id=1), depth=depth)
    seen = collect(loop)
    loop.submit(submission(1, max_tokens=9))
    drive(loop, 12)
    loop.submit(submission(2, max_tokens=9))
    drive(loop, 24)
    assert seen == [(1, "failed", "engine_error"), (2, "finished", "length")]
    assert loop._scheduler.stats()["free_blocks"] == 64
    assert "no memory for this step" in caplog.text


class Late(BatchSampler):
    """Says of some sequences that their masks take long."""

    late_ids: tuple[int, ...] = ()

    def late(self) -> list[int]:
        return list(self.late_ids)


def test_a_step_does_not_wait_for_a_late_grammar_unless_nobody_else_is_there() -> None:
    loop = make_loop()
    late = Late(257)
    loop._sampler, loop._executor._sampler = late, late
    seen = collect(loop)
    loop.submit(submission(1, max_tokens=6), submission(2, max_tokens=6))
    drive(loop, 1)
    late.late_ids = (1,)
    drive(loop, 30)
    # The second ends first, and then the first goes on though it is late.
    assert seen == [(2, "finished", "length"), (1, "finished", "length")]


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
            loop._take_inbox(wait=True)
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
    loop = make_loop(capacity=Capacity(1, 1, 1))
    loop.submit(submission(1))
    loop.submit(submission(2))
    with pytest.raises(QueueFull, match="1 requests wait"):
        loop.submit(submission(3))


def test_several_sequences_enter_together_or_not_at_all() -> None:
    loop = make_loop(capacity=Capacity(1, 1, 1))
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


def test_who_is_still_in_the_inbox_when_the_engine_breaks_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    loop = make_loop()
    loop._outputs = Breaking(loop._outputs)  # type: ignore[assignment]
    seen = collect(loop)
    loop.submit(submission(1, max_tokens=50))
    drive(loop, 2)
    admit = loop._admit

    def admit_and_panic(submission: Submission) -> None:
        admit(submission)
        raise Panic("behind it stands another")

    loop._admit = admit_and_panic  # type: ignore[method-assign]
    loop.submit(submission(2), submission(3))
    loop.start()
    loop._thread.join(20)
    assert seen == [(number, "failed", "engine_error") for number in (1, 2, 3)]
    assert "behind it stands another" in caplog.text


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


@dataclass(frozen=True)
class Picture:
    """Four tokens of a prompt of ten show it."""

    digest: bytes
    pixels: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((2, 2, 3), np.uint8))
    start: int = 3
    rows: int = 2
    columns: int = 2


class Watcher:
    """The mock model with eyes, for which a picture takes three parts. Tells in order what it computed."""

    looks_around = False
    row_bytes = 4

    def __init__(self) -> None:
        self.trace: list[str] = []
        self._mock = MockModel(257, max_sequences=8)
        self._sights = Sights(self, device=torch.device("cpu"))
        self.show, self.hide, self.look = self._sights.open, self._sights.close, self._sights.look

    def seen_bytes(self, views: Sequence[View]) -> int:
        return sum(view.rows * view.columns for view in views) * self.row_bytes

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        self._sights.of(batch)  # raises for a picture that was not looked at
        self.trace.append("step")
        return self._mock.forward(batch)

    def see(self, view: View) -> Generator[None, None, torch.Tensor]:
        for _ in range(3):
            self.trace.append(view.digest.decode())
            if view.digest == b"broken":
                raise MemoryError("no memory for this picture")
            yield
        return torch.zeros((view.rows * view.columns, 1))

    def coordinates(self, views: Sequence[View], length: int) -> None:
        return None


def watching(watcher: Watcher, **options: Any) -> StepLoop:
    """A loop whose glances are one part long."""
    loop = make_loop(watcher, **options)
    loop._eyes = watcher
    loop._budget.between = lambda: 0.0  # type: ignore[method-assign]
    return loop


def seeing(sequence_id: int, *names: str, **options: Any) -> Submission:
    views = tuple(Picture(name.encode()) for name in names)
    return replace(submission(sequence_id, **options), views=views, shown_bytes=12)


def test_a_running_stream_gets_a_step_between_two_parts_of_a_picture() -> None:
    watcher = Watcher()
    loop = watching(watcher)
    loop.submit(submission(1, max_tokens=30))
    drive(loop, 3)
    loop.submit(seeing(2, "cat"))
    before = len(watcher.trace)
    drive(loop, 12)
    looked = watcher.trace[before:]
    assert looked.count("cat") == 3
    first = looked.index("cat")
    assert looked[first : first + 6] == ["cat", "step", "cat", "step", "cat", "step"]
    drive(loop, 60)
    assert loop.stats()["open"] == 0


def test_with_nobody_else_a_picture_is_looked_at_without_a_pause_and_before_any_step() -> None:
    watcher = Watcher()
    loop = watching(watcher)
    seen = collect(loop)
    loop.submit(seeing(1, "cat", max_tokens=2))
    drive(loop, 12)
    assert watcher.trace == ["cat", "cat", "cat", "step", "step"]
    assert seen == [(1, "finished", "length")]


def test_a_glance_takes_as_many_parts_as_fit_the_time_of_a_step() -> None:
    watcher = Watcher()
    loop = watching(watcher)
    loop._budget.between = lambda: 60.0  # type: ignore[method-assign]
    loop.submit(submission(1, max_tokens=30))
    drive(loop, 3)
    loop.submit(seeing(2, "cat"))
    before = len(watcher.trace)
    drive(loop, 6)
    looked = watcher.trace[before:]
    first = looked.index("cat")
    assert looked[first : first + 4] == ["cat", "cat", "cat", "step"]
    drive(loop, 60)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_picture_that_several_show_is_looked_at_once(depth: int) -> None:
    watcher = Watcher()
    loop = watching(watcher, depth=depth)
    seen = collect(loop)
    loop.submit(seeing(1, "cat"), seeing(2, "cat"))
    loop.submit(seeing(3, "dog"))
    loop.submit(seeing(4, "cat"))
    drive(loop, 60)
    assert [watcher.trace.count(name) for name in ("cat", "dog")] == [3, 3]
    assert sorted(seen) == [(number, "finished", "length") for number in (1, 2, 3, 4)]


def test_one_picture_does_not_wait_behind_all_of_another_request() -> None:
    watcher = Watcher()
    loop = watching(watcher)
    loop.submit(seeing(1, *"abcdefgh", key=1))
    drive(loop, 2)
    loop.submit(seeing(2, "cat", key=2))
    drive(loop, 60)
    looked = [name for name in watcher.trace if name != "step"]
    assert looked == [*"aaa", "cat", "cat", "cat", *"bbbcccdddeeefffggghhh"]
    assert watcher.trace.index("step") < watcher.trace.index("b")


def test_who_leaves_is_looked_at_no_more() -> None:
    watcher = Watcher()
    loop = watching(watcher)
    seen = collect(loop)
    loop.submit(seeing(1, "cat"), seeing(2, "dog"))
    drive(loop, 1)
    loop.cancel([1])
    drive(loop, 30)
    # The part that was being computed is one more at most.
    assert watcher.trace.count("cat") <= 2
    assert seen == [(2, "finished", "length")]
    assert loop.stats()["open"] == loop.stats()["waiting"] == 0
    assert watcher._sights._begun is None


def test_a_picture_that_cannot_be_looked_at_fails_its_own_sequence(caplog: pytest.LogCaptureFixture) -> None:
    watcher = Watcher()
    loop = watching(watcher)
    seen = collect(loop)
    loop.submit(submission(1), seeing(2, "broken"), seeing(3, "cat"))
    drive(loop, 30)
    assert sorted(seen) == [(1, "finished", "length"), (2, "failed", "engine_error"), (3, "finished", "length")]
    assert "no memory for this picture" in caplog.text
    assert loop.stats()["open"] == 0


def test_who_waits_to_be_looked_at_stands_in_the_line() -> None:
    loop = watching(Watcher(), capacity=Capacity(running=1, waiting=1, waiting_per_key=1))
    loop.submit(seeing(1, "cat", key=7))
    drive(loop, 1)
    assert loop.stats()["waiting"] == 1
    loop.submit(submission(2, key=8))
    with pytest.raises(QueueFull):
        loop.submit(submission(3, key=9))
    loop.cancel([1])
    drive(loop, 2)
    loop.submit(submission(3, key=9))
    drive(loop, 30)
    assert loop.stats()["open"] == 0
    assert not loop._arriving


def test_what_is_kept_of_pictures_counts_with_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecocore.loop.SHOWN_BYTES", 2 * (12 + 16))
    loop = watching(Watcher())
    loop.submit(seeing(1, "cat"))
    loop.submit(replace(seeing(2, "dog"), shown_bytes=6), replace(seeing(3, "dog"), shown_bytes=6))
    with pytest.raises(Overloaded, match="images of many requests"):
        loop.submit(replace(seeing(4, "owl"), shown_bytes=0))
    drive(loop, 40)
    loop.submit(seeing(4, "owl"))


def test_closing_fails_who_waits_to_be_looked_at() -> None:
    loop = watching(Watcher())
    seen = collect(loop)
    loop.submit(seeing(1, "cat", max_tokens=900))
    drive(loop, 1)
    loop.start()
    loop.close()
    assert seen == [(1, "failed", "runtime_closed")]
