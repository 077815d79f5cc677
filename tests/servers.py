"""Real databases of our own: a PostgreSQL cluster and a Redis, each in a folder that is gone afterwards.

They listen on loopback, and can be stopped, started, killed and frozen. Services of the machine are never touched.
"""

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

START_SECONDS = 30.0
# In URLs, so that tests see whether it gets anywhere it should not.
PASSWORD = "not-to-be-seen"


class Server:
    """A process that says in one line of its log when it answers."""

    ready_when: str

    def __init__(self, folder: Path, command: Sequence[str], *, user: str | None = None) -> None:
        self.folder = folder
        self._command = command
        self._user: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Starts it; it answers when this returns."""
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env={**os.environ, "LC_ALL": "C"},
            # Ctrl-C is for the tests, which then stop it.
            start_new_session=True,
            **self._user,
        )
        said: deque[str] = deque(maxlen=20)
        told = threading.Event()
        ready = threading.Event()

        def read() -> None:
            assert process.stdout is not None
            with process.stdout as log:
                for line in log:
                    said.append(line)
                    if self.ready_when in line:
                        ready.set()
                        told.set()
            told.set()

        threading.Thread(target=read, daemon=True).start()
        self._process = process
        told.wait(START_SECONDS)
        assert ready.is_set(), "".join(said)

    def stop(self) -> None:
        """Ends it in order; who is connected is cut off."""
        self.resume()
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As if the machine had crashed."""
        for pid in self._pids():
            with suppress(ProcessLookupError):
                end = os.pidfd_open(pid)
                _signal(pid, signal.SIGKILL)
                # What is left of it would keep a new start from the memory that they share.
                select.select([end], [], [], START_SECONDS)
                os.close(end)
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections, takes new ones, and answers nothing."""
        for pid in self._pids():
            _signal(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on where it was."""
        for pid in self._pids():
            _signal(pid, signal.SIGCONT)

    def close(self) -> None:
        """Ends it and removes its folder."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder)

    def _pids(self) -> list[int]:
        """Its own process first, then those that it started."""
        if self._process is None:
            return []
        own = self._process.pid
        return [own, *(pid for pid, parent in _parents() if parent == own)]

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            _signal(self._process.pid, number)
            self._process.wait(START_SECONDS)
            self._process = None


Started = TypeVar("Started", bound=Server)


@contextmanager
def running(server: Started) -> Iterator[Started]:
    """The server, started; gone afterwards, however it was left."""
    try:
        server.start()
        yield server
    finally:
        server.close()


class Postgres(Server):
    """A PostgreSQL cluster with a password, made by `initdb`."""

    ready_when = "database system is ready to accept connections"

    def __init__(self) -> None:
        programs = postgres_programs()
        assert programs is not None
        self._programs = programs
        self.port = free_port()
        folder = _folder("postgres")
        # PostgreSQL refuses to run as root.
        user = "postgres" if os.geteuid() == 0 else None
        if user is not None:
            shutil.chown(folder, user, user)
        data = folder / "data"
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            # No machine loses power here. What a crash of the server itself leaves is whole without it.
            "fsync": "off",
            # Those that tests make are found soon.
            "deadlock_timeout": "50ms",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        super().__init__(folder, [str(programs / "postgres"), "-D", str(data), *options], user=user)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        command = ["-D", str(data), "-U", "tests", "-A", "scram-sha-256", "--pwfile", str(secret), "-E", "UTF8", "--no-locale"]
        self._run("initdb", *command, "--no-sync", "--no-instructions")
        self._count = 0

    def url(self, database: str) -> str:
        """Where a database of the cluster is."""
        return f"postgresql://tests:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self) -> str:
        """A database with nothing in it; gives its name."""
        self._count += 1
        name = f"test_{self._count}"
        self.ask(f"CREATE DATABASE {name}")
        return name

    def drop(self, database: str) -> None:
        """Removes a database, whoever uses it."""
        self.ask(f"DROP DATABASE {database} WITH (FORCE)")

    def ask(self, statement: str, database: str = "postgres") -> str:
        """What psql answers, a row on each line."""
        return self._run("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url(database))

    def _run(self, program: str, *arguments: str) -> str:
        command = [str(self._programs / program), *arguments]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, cwd=self.folder, text=True, capture_output=True, check=False, **self._user
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Redis(Server):
    """A Redis that keeps nothing on disk."""

    ready_when = "Ready to accept connections"

    def __init__(self) -> None:
        self.port = free_port()
        program = shutil.which("redis-server")
        assert program is not None
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__(_folder("redis"), command)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"redis://127.0.0.1:{self.port}/0"


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs, which Debian keeps out of the way; None where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    place = found[-1] if found else shutil.which("initdb")
    return None if place is None else Path(place).parent


def has_redis() -> bool:
    """Whether there is a `redis-server`."""
    return shutil.which("redis-server") is not None


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def eventually(holds: Callable[[], bool], seconds: float) -> float | None:
    """After how many seconds it holds; None if it does not within the time."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            return None
        threading.Event().wait(0.005)
    return time.monotonic() - began


def _folder(name: str) -> Path:
    """Not below pytest's own folder, which only its owner may enter."""
    return Path(tempfile.mkdtemp(prefix=f"ecocore-{name}-"))


def _parents() -> list[tuple[int, int]]:
    """Every process with the one that started it."""
    found: list[tuple[int, int]] = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            told = stat.read_text()
        except OSError:
            continue
        found.append((int(stat.parent.name), int(told.rpartition(")")[2].split()[1])))
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
