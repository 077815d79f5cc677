"""The other processes that compute a model together with this one: started, told each step, watched, ended.

Takes steps here and gives them there, over a line of each worker's own; what ranks exchange while they compute is `parallel`'s.
A worker ends with its line, so none outlives the process that started it, and a worker that ends ends the engine.
"""

import json
import logging
import math
import os
import selectors
import signal
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, Self

import torch
from torch import Tensor

from ecocore.errors import EngineBroken, EngineFailure
from ecocore.model.attention import Spans
from ecocore.model.batch import ComputedBatch, Rehearsal
from ecocore.model.parallel import PATIENCE, ThreadShare
from ecocore.model.sight import Sight

log = logging.getLogger(__name__)

# The largest models are read in minutes; who is not ready by then hangs.
START_SECONDS: Final = 600.0
END_SECONDS: Final = 3.0
# A failed exchange is mostly a rank that died, of which its line tells at about the same time.
_NEWS_SECONDS: Final = 2.0
_MEETING: Final = "meeting"
_HEAD: Final = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class Step:
    """What every rank has to know of a step. `spans` as `AttentionPlan` takes them."""

    batch: ComputedBatch
    spans: Sequence[Spans] = ()
    sight: Sight | None = None


class Workers:
    """The ranks from 1 on, as rank 0 has them."""

    def __init__(self, commands: Sequence[Sequence[str]], threads: ThreadShare | None = None) -> None:
        """`commands`: one for each; it gets `--meeting PATH` besides, and adopts its standard input as a `Leader`.

        `threads`: what this rank shares with them, as long as they are.
        """
        self._threads = threads
        self._folder = Path(tempfile.mkdtemp(prefix="ecocore-"))
        self.meeting: Final = self._folder / _MEETING
        self._lines: list[socket.socket] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._closing = False
        self._lost: str | None = None
        self._news = threading.Event()
        self._abort: Any = None
        self._watch = threading.Thread(target=self._run, name="ecocore-workers", daemon=True)
        try:
            for command in commands:
                self._start([*command, "--meeting", str(self.meeting)])
        except BaseException:
            self.close()
            raise

    def _start(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._lines.append(ours)
        with theirs:
            # A session of its own: Ctrl-C is for this process, which ends the others in its own time.
            process = subprocess.Popen(  # noqa: S603  # our own command
                command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, start_new_session=True
            )
        self._processes.append(process)

    def ready(self) -> list[str]:
        """Waits until all have their part of the model; gives its identity of each. Raises EngineFailure if one fails."""
        identities = []
        for rank, line in enumerate(self._lines, 1):
            line.settimeout(START_SECONDS)
            try:
                news = _heard(line)
            except TimeoutError:
                raise EngineFailure("engine_error", f"rank {rank} of the model was not ready after {START_SECONDS:g} s") from None
            if news is None or "failed" in news:
                raise EngineFailure("engine_error", self._words(rank, news))
            identities.append(news["identity"])
            line.settimeout(PATIENCE.total_seconds())
        return identities

    def watch(self, abort: Any) -> None:
        """From here on the end of a worker is noticed; `abort()` is called then, to end exchanges that wait for it."""
        self._abort = abort
        self._watch.start()

    @property
    def is_alive(self) -> bool:
        """Whether all ranks are there."""
        return self._lost is None and not self._closing

    @contextmanager
    def told(self, step: Step) -> Iterator[None]:
        """Tells all workers a step; what happens inside is this rank's part of it. Raises EngineBroken.

        A step that one rank did not compute leaves the others out of step, so whatever goes wrong inside is the engine's end.
        """
        message = _packed(step)
        try:
            for line in self._lines:
                line.sendall(message)
            yield
        except Exception as error:
            self._news.wait(_NEWS_SECONDS)
            self._lose(f"a step failed that several processes compute: {error}")
            raise EngineBroken("engine_error", str(self._lost)) from error
        if self._lost is not None:
            raise EngineBroken("engine_error", self._lost)

    def close(self) -> None:
        """Ends all workers. May be called twice."""
        self._closing = True
        for line in self._lines:
            # The line itself stays until nobody looks at it any more.
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        if self._watch.is_alive():
            self._watch.join()
        for process in self._processes:
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for line in self._lines:
            line.close()
        if self._threads is not None:
            self._threads.close()
        with suppress(OSError):
            self.meeting.unlink(missing_ok=True)
            self._folder.rmdir()

    # --- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Waits for news, of which there is one kind: a worker ends."""
        with selectors.DefaultSelector() as selector:
            for rank, line in enumerate(self._lines, 1):
                selector.register(line, selectors.EVENT_READ, rank)
            (key, _), *_ = selector.select()
        if self._closing:
            return
        news = None
        with suppress(OSError, ValueError):
            news = _heard(self._lines[key.data - 1])
        self._lose(self._words(key.data, news))

    def _lose(self, words: str) -> None:
        """The first words count. None of the workers is of use without the others."""
        if self._lost is None and not self._closing:
            self._lost = words
            log.error("%s; the engine ends", words)
        for process in self._processes:
            process.kill()
        self._news.set()
        if self._abort is not None:
            self._abort()

    def _words(self, rank: int, news: Mapping[str, Any] | None) -> str:
        if news is not None:
            return f"rank {rank} of the model failed: {news['failed']}"
        process = self._processes[rank - 1]
        try:
            code = process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return f"rank {rank} of the model is lost"
        return f"rank {rank} of the model ended ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"


class Leader:
    """Rank 0 as a worker has it: at the other end of its standard input."""

    def __init__(self, line: socket.socket) -> None:
        """Use `adopt`."""
        self._line = line
        self._steps: SimpleQueue[Step] = SimpleQueue()
        threading.Thread(target=self._listen, name="ecocore-leader", daemon=True).start()

    @classmethod
    def adopt(cls) -> Self:
        """From here on this process ends with the one that started it."""
        return cls(socket.socket(fileno=os.dup(0)))

    def tell(self, news: Mapping[str, Any]) -> None:
        """`identity`, once this rank has its part of the model; or that it `failed`, and why."""
        # Who is gone hears nothing, and this process is about to end.
        with suppress(OSError):
            self._line.sendall(json.dumps(news).encode() + b"\n")

    def steps(self) -> Iterator[Step]:
        """One after the other, as they are told."""
        while True:
            yield self._steps.get()

    def _listen(self) -> None:
        try:
            while True:
                self._steps.put(_unpacked(self._line))
        except (OSError, EOFError):
            pass
        except Exception:
            log.exception("a step is not understood")
        # Nothing here is worth saving, and an orderly end might wait for a rank that is gone.
        os._exit(1)


def _heard(line: socket.socket) -> dict[str, Any] | None:
    """What a worker tells, on a line of its own; None at its end."""
    said = b""
    while not said.endswith(b"\n"):
        with suppress(ConnectionError):
            if piece := line.recv(65536):
                said += piece
                continue
        return None
    news: dict[str, Any] = json.loads(said)
    return news


# --- a step as bytes: how long its parts are, JSON that describes the arrays, and the arrays ---------------


def _packed(step: Step) -> bytes:
    arrays: list[bytes] = []

    def told(value: Any) -> Any:
        if value is None or isinstance(value, int):
            return value
        tensor = torch.as_tensor(value).cpu()
        # Whatever has no numbers may have strides that cannot be viewed as bytes.
        arrays.append(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        return [str(tensor.dtype).removeprefix("torch."), [*tensor.shape]]

    described = json.dumps(
        {
            "batch": {field.name: told(getattr(step.batch, field.name)) for field in fields(Rehearsal)},
            "spans": step.spans,
            "sight": step.sight and {field.name: told(getattr(step.sight, field.name)) for field in fields(Sight)},
        }
    ).encode()
    return b"".join((_HEAD.pack(len(described), sum(map(len, arrays))), described, *arrays))


def _unpacked(line: socket.socket) -> Step:
    """The next step on the line. Raises EOFError at its end."""
    described_size, size = _HEAD.unpack(_read(line, _HEAD.size))
    described = json.loads(_read(line, described_size))
    rest = memoryview(_read(line, size))

    def heard(value: Any) -> Any:
        nonlocal rest
        if not isinstance(value, list):
            return value
        dtype, shape = getattr(torch, value[0]), value[1]
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        here, rest = rest[:size], rest[size:]
        # A copy begins where memory is aligned.
        return torch.frombuffer(here, dtype=dtype).view(shape).clone()

    batch = {name: heard(value) for name, value in described["batch"].items()}
    arrays: dict[str, Any] = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in batch.items()}
    spans = [[(begin, end) for begin, end in spans] for spans in described["spans"]]
    sight = described["sight"]
    seen = None if sight is None else Sight(**{name: heard(value) for name, value in sight.items()})
    return Step(Rehearsal(**arrays), spans, seen)


def _read(line: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        count = line.recv_into(left)
        if not count:
            raise EOFError
        left = left[count:]
    return data
