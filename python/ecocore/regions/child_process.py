"""An engine's process and who watches over it: starts it, asks it each second whether it lives, starts it again.

Takes the command of the process, gives the facts of the engine in it and where it listens; what is said there is
`child`'s. Runs on a thread of its own, so that neither a busy event loop nor a slow request makes a live engine look dead.
"""

import http.client
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from ecocore.errors import EcocoreError, EngineFailure, RuntimeClosed
from ecocore.regions.contract import HEARTBEAT_PATH, Facts, rebuilt

log = logging.getLogger(__name__)

SOCKET_NAME: Final = "engine"
# The address of a Unix socket has 108 bytes, or 104, of which one is the end.
MAX_PATH_BYTES: Final = 100
_PF_EXITING: Final = 0x4
SHORT_FOLDER: Final = "/tmp"  # noqa: S108  # the folder made in it is its owner's alone


@dataclass(frozen=True, slots=True)
class Watch:
    """How closely an engine's process is watched, in seconds."""

    look: float = 0.2
    """From one look at the process to the next."""
    beat: float = 1.0
    """From one question to the next."""
    silence: float = 8.0
    """Who answers nothing for so long is killed: hostile requests keep an engine's process from answering for 5 s at most."""
    start: float = 600.0
    """For a start: the largest models are read in minutes; who is not ready by then hangs and is killed."""
    first_wait: float = 0.5
    """Before the second start in a row; the first is at once, and each later one waits twice as long."""
    longest_wait: float = 30.0
    well: float = 10.0
    """Who answered for so long did not end because of how it was started: the next start is at once again."""
    end: float = 3.0
    """For an orderly end."""


class ChildProcess:
    """The process of one engine, started again whenever it ends."""

    def __init__(self, name: str, command: Sequence[str], watch: Watch | None = None) -> None:
        """`command` runs an engine; it gets `--socket PATH` besides, and keeps what `parent` promises."""
        self.on_loss: Callable[[], None] = _nobody_minds
        """Called when the process is lost, on a thread of its own: before its sockets are closed, where that takes long."""
        self._name = name
        self._watch = watch or Watch()
        self._folder = _private_folder()
        self.socket_path: Final = self._folder / SOCKET_NAME
        self._command = [*command, "--socket", str(self.socket_path)]
        self._closing = threading.Event()
        self._first: Future[None] = Future()
        self._process: subprocess.Popen[bytes] | None = None
        self._facts: Facts | None = None
        self._stats: Mapping[str, int] = {}
        self._starts = 0
        self._ready_at = 0.0
        self._alive = False
        # It is the one that starts processes, and lives as long as they: the kernel takes it for their parent.
        self._thread = threading.Thread(target=self._run, name=f"ecocore-watch {name}", daemon=True)

    def start(self) -> None:
        """Starts the process and waits until it answers. Raises what its start raised, or EngineFailure."""
        self._thread.start()
        self._first.result()

    @property
    def facts(self) -> Facts:
        """Of the engine that runs, or ran last."""
        assert self._facts is not None, "the process was started"
        return self._facts

    @property
    def is_alive(self) -> bool:
        """Whether it takes requests, as far as is known."""
        return self._alive

    @property
    def pid(self) -> int | None:
        """The number of the process, if there is one."""
        process = self._process
        return None if process is None else process.pid

    def stats(self) -> dict[str, int]:
        """What the engine counted up to the last heartbeat, and `restarts`. A dead one has nothing that runs or waits."""
        stats = dict(self._stats)
        if not self._alive:
            stats |= {"open": 0, "running": 0, "waiting": 0}
            free = (name for name in self._stats if name.endswith("free_blocks"))
            stats |= {name: stats[name.replace("free", "total")] for name in free}
        return {**stats, "restarts": max(0, self._starts - 1)}

    def close(self) -> None:
        """Ends the process for good. May be called twice."""
        self._closing.set()
        self._let_go()
        if self._thread.is_alive():
            self._thread.join()
        with suppress(OSError):
            self.socket_path.unlink(missing_ok=True)
            self._folder.rmdir()

    # --- the thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        in_a_row = 0
        while not self._closing.is_set():
            self._ready_at = float("inf")
            try:
                self._live()
            except Exception as error:  # noqa: BLE001  # whatever it is, the next start may go well
                self._alive = False
                if not self._first.done():
                    self._first.set_exception(error)
                    return
                if not self._closing.is_set():
                    self._tell_of(error)
            if time.monotonic() - self._ready_at >= self._watch.well:
                in_a_row = 0
            wait = min(self._watch.longest_wait, self._watch.first_wait * 2 ** (in_a_row - 1)) if in_a_row else 0.0
            in_a_row += 1
            self._closing.wait(wait)
        if not self._first.done():
            self._first.set_exception(RuntimeClosed("the server ended before its engine was started"))

    def _tell_of(self, error: Exception) -> None:
        # Our own kinds say all that there is to say.
        unexpected = None if isinstance(error, EcocoreError) else error
        log.error("the engine of %s could not be started: %s", self._name, error, exc_info=unexpected)

    def _live(self) -> None:
        """One process, from its start to its end. Raises what its start raised."""
        self._starts += 1
        self.socket_path.unlink(missing_ok=True)
        process = subprocess.Popen(  # noqa: S603  # our own command
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._process = process
        if self._closing.is_set():
            self._let_go()
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(_line_of(process), selectors.EVENT_READ)
                self._begin(process, selector)
                self._attend(process, selector)
        finally:
            self._alive = False
            self.on_loss()
            self._end(process)
        if not self._closing.is_set():
            log.error("the engine of %s ended (%s) and is started again", self._name, _how(process.returncode))

    def _begin(self, process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> None:
        """Waits for what the process says of its start. Raises it if it is an error."""
        said = b""
        began = time.monotonic()
        while not said.endswith(b"\n"):
            while not selector.select(min(self._watch.beat, self._watch.start)):
                if self._closing.is_set():
                    raise RuntimeClosed("the server ended before its engine was ready")
                if time.monotonic() - began >= self._watch.start:
                    words = f"the engine of {self._name} was not ready after {self._watch.start:g} s and is killed; see above"
                    raise EngineFailure("engine_error", words)
            piece = os.read(_line_of(process).fileno(), 65536)
            if not piece:
                how = _how(process.wait())
                raise EngineFailure("engine_error", f"the engine of {self._name} ended before it was ready ({how}); see above")
            said += piece
        news = json.loads(said)
        if "failed" in news:
            raise rebuilt(news["failed"])
        self._facts = Facts.parse(news["facts"])
        self._stats = news["stats"]
        self._ready_at = time.monotonic()
        self._alive = not self._closing.is_set()
        if not self._first.done():
            self._first.set_result(None)
        else:
            log.warning("the engine of %s runs again", self._name)

    def _attend(self, process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> None:
        """Asks until the process ends or gives no sign of life for too long."""
        heard = asked = time.monotonic()
        while not self._closing.is_set():
            # Nothing is said on the line after the start: what arrives is its end.
            if selector.select(self._watch.look) or is_ending(process.pid):
                return
            now = time.monotonic()
            patience = min(self._watch.beat, heard + self._watch.silence - now)
            if patience <= 0:
                log.error("the engine of %s has given no sign of life for %g s", self._name, self._watch.silence)
                return
            if now - asked < self._watch.beat:
                continue
            asked = now
            with suppress(OSError, http.client.HTTPException, ValueError):
                self._stats = self._ask(patience)
                heard = time.monotonic()

    def _ask(self, seconds: float) -> Any:
        connection = _UnixConnection(self.socket_path, seconds)
        try:
            connection.request("GET", HEARTBEAT_PATH)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Whatever the process does: afterwards it is gone."""
        if self._closing.is_set():
            self._let_go()
            with suppress(subprocess.TimeoutExpired):
                process.wait(self._watch.end)
        # One that broke its line and lives on is of no use either, and must not clear away the next one's folder.
        process.kill()
        process.wait()
        self._let_go()
        _line_of(process).close()

    def _let_go(self) -> None:
        """The end of its input is the end of the process."""
        process = self._process
        if process is not None and process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()


def is_ending(pid: int) -> bool:
    """Whether the kernel takes a process apart. It closes the sockets last, of a large process only after seconds.

    False where there is no telling.
    """
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return fields[0] in "ZX" or bool(int(fields[6]) & _PF_EXITING)
    return False


def _nobody_minds() -> None:
    """Until somebody does."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("engine", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _private_folder() -> Path:
    """A folder that nobody else may enter: it is what guards the socket."""
    folder = tempfile.mkdtemp(prefix="ecocore-")
    if len(os.fsencode(folder)) + len(SOCKET_NAME) + 1 > MAX_PATH_BYTES:
        Path(folder).rmdir()
        folder = tempfile.mkdtemp(prefix="ecocore-", dir=SHORT_FOLDER)
    return Path(folder)


def _line_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    assert process.stdout is not None, "it was asked for"
    return process.stdout


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
