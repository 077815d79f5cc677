"""A server under attack: sends it bytes, reads what it answers, and judges every answer.

Whatever is sent, `exchange` fails the test for a 5xx that is no deliberate 503, for an error without the envelope, and for
anything in an answer that tells of the server's insides.
"""

import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11
from tests.abuse.server import MODEL

DEADLINE = 20.0
_DELIBERATE = {"overloaded", "shutting_down", "ledger_unavailable", "all_regions_unavailable"}
_INSIDES = re.compile(
    rb"Traceback|File \"|\.py\b|site-packages|/(?:tmp|root|home|usr|etc|proc|var)/|0x[0-9a-fA-F]{6,}"
    rb"|<class|object at|Error\b|eco_[0-9A-Za-z]{8}"
)


@dataclass(frozen=True)
class Answer:
    """One answer, judged."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error


def judged(answer: Answer) -> Answer:
    """Holds for every answer, whatever was asked."""
    assert not _INSIDES.search(answer.body), answer.body[:500]
    assert not _INSIDES.search(repr(sorted(answer.headers.items())).encode())
    if answer.status >= 400 and answer.complete:
        assert answer.headers["content-type"] == "application/json"
        assert len(answer.body) <= 4000
        assert answer.json.keys() == {"error"}
        assert list(answer.error) == ["message", "type", "param", "code"]
        assert isinstance(answer.error["message"], str)
        assert answer.error["code"] is None or isinstance(answer.error["code"], str)
    if answer.status >= 500 and answer.complete:
        assert (answer.status, answer.error["code"] in _DELIBERATE, "retry-after" in answer.headers) == (503, True, True)
    return answer


@dataclass
class Target:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    key: str
    log: Path

    # --- asking -----------------------------------------------------------------------------------------

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def head(self, method: str = "POST", path: str = "/v1/chat/completions", *lines: str, key: str | None = None) -> bytes:
        """A head without its empty line."""
        start = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key or self.key}"]
        return "\r\n".join([*start, *lines, ""]).encode("latin-1")

    def request(self, body: bytes | Mapping[str, Any], *lines: str, path: str = "/v1/chat/completions") -> bytes:
        """A whole POST request."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.head("POST", path, f"Content-Length: {len(data)}", *lines) + b"\r\n" + data

    def chat(self, **fields: Any) -> Answer:
        return self.ask(chat_body(**fields))

    def ask(self, body: bytes | Mapping[str, Any], *lines: str, path: str = "/v1/chat/completions") -> Answer:
        """One whole request, one answer."""
        answers = self.exchange(self.request(body, *lines, path=path))
        assert len(answers) == 1
        return answers[0]

    def exchange(self, data: bytes, *, answers: int = 1) -> list[Answer]:
        """Sends, and reads until so many answers came or the server closed. At most `DEADLINE` seconds."""
        with self.connect() as connection:
            return self.read(connection, data, answers=answers)

    def read(self, connection: socket.socket, data: bytes = b"", *, answers: int = 1) -> list[Answer]:
        received = bytearray()
        left = memoryview(data)
        connection.setblocking(False)
        deadline = time.monotonic() + DEADLINE
        while True:
            readable, writable, _ = select.select([connection], [connection] if left else [], [], 1.0)
            assert time.monotonic() < deadline, f"no end of the answer: {bytes(received[:300])!r}"
            try:
                if writable:
                    left = left[connection.send(left[: 256 * 1024]) :]
                piece = connection.recv(256 * 1024) if readable else None
            except ConnectionError:
                piece = b""
            if piece:
                received += piece
            found = list(parsed(bytes(received), closed=piece == b""))
            if piece == b"" or len([one for one in found if one.complete]) >= answers:
                return found

    # --- how it is --------------------------------------------------------------------------------------

    def is_well(self) -> bool:
        """Answers a normal request within five seconds."""
        begun = time.monotonic()
        answer = self.chat(max_tokens=2)
        return answer.status == 200 and time.monotonic() - begun < 5 and self.process.poll() is None

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def computed(self) -> float:
        """Seconds that all its threads have computed."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @staticmethod
    def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
        """Whether it holds within the time."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                return False
            threading.Event().wait(0.02)
        return True


def parsed(received: bytes, *, closed: bool) -> Iterator[Answer]:
    """The answers in a stream of bytes, read by h11 as strictly as any client; an incomplete last one too."""
    while received:
        reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
        reader.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(received)
        status, headers, body = 0, {}, bytearray()
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA and closed and status:
                reader.receive_data(b"")
                try:
                    event = reader.next_event()
                except h11.RemoteProtocolError:
                    event = h11.NEED_DATA
            if isinstance(event, h11.Response):
                status = event.status_code
                headers = {name.decode(): value.decode("latin-1") for name, value in event.headers}
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                yield judged(Answer(status, headers, bytes(body), complete=True))
                received = reader.trailing_data[0]
                break
            elif event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed):
                if status:
                    yield judged(Answer(status, headers, bytes(body), complete=False))
                return


def chat_body(**fields: Any) -> dict[str, Any]:
    """At temperature 0 the mock engine never draws its end token."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 2, **fields}


@contextmanager
def attacked(folder: Path, **settings: Any) -> Iterator[Target]:
    """A server of one's own. At the end it must have logged nothing but what it was told to refuse."""
    log = folder / "log"
    command = [sys.executable, "-m", "tests.abuse.server", str(folder), json.dumps(settings)]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        said = json.loads(line)
        yield Target(process, int(said["url"].rsplit(":", 1)[1]), said["key"], log)
        process.terminate()
        assert process.wait(10) == 0
        (last,) = log.read_text().splitlines()
        assert " stopping: " in last
    finally:
        process.kill()
        process.communicate()


def statuses(answers: Iterable[Answer]) -> list[int]:
    return [answer.status for answer in answers]
