"""The processes beside rank 0: what is told on their lines, how they fail, and that none is left."""

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta

import numpy as np
import pytest
import torch

from ecocore.errors import EngineBroken, EngineFailure
from ecocore.model import workers as module
from ecocore.model.batch import Rehearsal
from ecocore.model.sight import Sight
from ecocore.model.workers import Step, Workers

BATCH = Rehearsal.of([(0, 70, 70), (64, 1, 64)], block_size=64, num_blocks=4)
SPEAK = "import socket, sys; line = socket.socket(fileno=0); say = lambda text: line.sendall(text.encode() + b'\\n'); "
READY = SPEAK + """say('{"identity": "part"}'); """


@contextmanager
def started(*scripts: str) -> Iterator[Workers]:
    """Workers that need no torch."""
    with closing(Workers([[sys.executable, "-c", script] for script in scripts])) as workers:
        yield workers
    assert all(process.returncode is not None for process in workers._processes)
    assert not workers.meeting.parent.exists()


@pytest.mark.parametrize(
    "sight",
    [
        None,
        Sight(torch.arange(2), torch.tensor([[0.5, -2.0], [3.0, 4.0]], dtype=torch.bfloat16), torch.arange(6).view(3, 2)),
        Sight(torch.zeros(0, dtype=torch.int64), torch.empty((0, 0)), None),
        Sight(torch.arange(1), torch.ones((3, 2)).T[:1], None),
    ],
)
@pytest.mark.parametrize("spans", [[], [[(1, 3), (5, 70)], []]])
def test_a_step_arrives_as_it_was_told(sight: Sight | None, spans: Sequence[Sequence[tuple[int, int]]]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for batch in (BATCH, Rehearsal.of([(3, 1, 1)], block_size=16, num_blocks=9)):
            ours.sendall(module._packed(Step(batch, spans, sight)))
            heard = module._unpacked(theirs)
            for name in Rehearsal.__slots__:
                np.testing.assert_array_equal(getattr(heard.batch, name), getattr(batch, name), strict=name != "block_size")
            assert [*heard.spans] == spans
            if sight is None:
                assert heard.sight is None
                continue
            assert heard.sight is not None
            for name in Sight.__slots__:
                mine, theirs_ = getattr(sight, name), getattr(heard.sight, name)
                assert (mine is None) == (theirs_ is None)
                assert mine is None or (mine.dtype == theirs_.dtype and torch.equal(mine, theirs_))


def test_each_tells_its_part_and_all_end_with_their_line() -> None:
    with started(READY + "line.recv(1)", READY + "line.recv(1)") as workers:
        assert workers.ready() == ["part", "part"]
        workers.watch(lambda: None)
        assert workers.is_alive
    assert [process.returncode for process in workers._processes] == [0, 0]
    assert not workers.is_alive


def test_one_that_does_not_end_by_itself_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "END_SECONDS", 0.1)
    with started(READY + "import signal; signal.pause()") as workers:
        workers.ready()
    assert workers._processes[0].returncode == -9


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit(3)", r"rank 1 of the model ended \(exit code 3\)"),
        (SPEAK + """say('{"failed": "no memory"}')""", "rank 1 of the model failed: no memory"),
    ],
)
def test_one_that_does_not_start_is_told_with_its_reason(script: str, words: str) -> None:
    with started(script) as workers, pytest.raises(EngineFailure, match=words):
        workers.ready()


def test_one_that_says_nothing_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 0.1)
    with started(SPEAK + "line.recv(1)") as workers, pytest.raises(EngineFailure, match=r"rank 1 .* not ready after 0\.1 s"):
        workers.ready()


def test_the_end_of_one_is_the_end_of_all(caplog: pytest.LogCaptureFixture) -> None:
    aborted: list[bool] = []
    with started(READY + "import signal; signal.pause()", READY + "line.recv(1); raise SystemExit(7)") as workers:
        workers.ready()
        workers.watch(lambda: aborted.append(True))
        with pytest.raises(EngineBroken, match=r"rank 2 of the model ended \(exit code 7\)"), workers.told(Step(BATCH)):
            workers._watch.join()
        assert workers._processes[0].wait() == -9
        with pytest.raises(EngineBroken, match="exit code 7"), workers.told(Step(BATCH)):
            pytest.fail("a step began without all ranks")
        assert not workers.is_alive
        assert aborted
    assert [record.message for record in caplog.records] == ["rank 2 of the model ended (exit code 7); the engine ends"]


def test_what_fails_in_a_step_is_told_as_what_the_lost_rank_said() -> None:
    with started(READY + """line.recv(1); say('{"failed": "RuntimeError: the worker"}'); line.recv(1)""") as workers:
        workers.ready()
        workers.watch(lambda: None)
        with pytest.raises(EngineBroken, match="rank 1 of the model failed: RuntimeError: the worker"), workers.told(Step(BATCH)):
            raise RuntimeError("connection closed by peer")


def test_a_step_that_fails_on_this_rank_alone_is_the_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NEWS_SECONDS", 0.1)
    with started(READY + "import signal; signal.pause()") as workers:
        workers.ready()
        workers.watch(lambda: None)
        with pytest.raises(EngineBroken, match="several processes compute: no memory"), workers.told(Step(BATCH)):
            raise RuntimeError("no memory")
        assert not workers.is_alive


def test_one_that_does_not_listen_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", timedelta(seconds=0.1))
    monkeypatch.setattr(module, "_NEWS_SECONDS", 0.1)
    large = Sight(torch.arange(1), torch.zeros((1, 2**22)), None)
    with started(READY + "import signal; signal.pause()") as workers:
        workers.ready()
        workers.watch(lambda: None)
        with pytest.raises(EngineBroken, match="timed out"), workers.told(Step(BATCH, [], large)):
            pytest.fail("it was told")


def test_a_worker_ends_with_whoever_started_it() -> None:
    script = "import threading; from ecocore.model.workers import Leader; Leader.adopt().tell({'identity': 'part'}); "
    with started(script + "threading.Event().wait()") as workers:
        assert workers.ready() == ["part"]
        workers._lines[0].shutdown(socket.SHUT_RDWR)
        assert workers._processes[0].wait(60) == 1
