"""`ecocore serve --isolate` as a process: however it ends, its engines end with it, and nothing is left."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.regions.isolated import eventually, lives
from tests.server.test_serve import STOPPING, process, read_until


@dataclass
class Started:
    """A server in a process, and the engines that it started."""

    process: subprocess.Popen[str]
    engines: list[int]
    client: openai.OpenAI
    model: str

    def stream(self, **fields: Any) -> Iterator[Any]:
        """A stream whose first piece has come."""
        ask: Any = {"model": self.model, "messages": [{"role": "user", "content": "x"}], "temperature": 0, "stream": True}
        stream: Iterator[Any] = iter(self.client.chat.completions.create(**ask, **fields))
        next(stream)
        return stream


@pytest.fixture
def sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers started from here on put their sockets."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@contextmanager
def started(home: Path) -> Iterator[Started]:
    with process(home, "--isolate", "--model", "second=mock") as server:
        curl = shlex.split(read_until(server, "^curl ").splitlines()[-1])
        key = next(text for text in curl if text.startswith("Authorization")).split()[-1]
        engines = children(server.pid)
        assert len(engines) == 2
        base = curl[1].removesuffix("/chat/completions")
        with closing(openai.OpenAI(base_url=base, api_key=key, max_retries=0, timeout=20)) as client:
            yield Started(server, engines, client, json.loads(curl[-1])["model"])


def children(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text("ascii").rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(folder.name))
    return found


def gone(server: Started, sockets: Path) -> bool:
    return eventually(lambda: not any(map(lives, server.engines)) and not list(sockets.iterdir()), 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_end_and_then_ends_the_engines(number: int, tmp_path: Path, sockets: Path) -> None:
    with started(tmp_path) as server:
        assert len(list(sockets.iterdir())) == 2
        streams = [server.stream(max_tokens=400) for _ in range(4)]
        server.process.send_signal(number)
        assert [list(stream)[-1].choices[0].finish_reason for stream in streams] == ["length"] * 4
        assert server.process.wait(20) == 0
        assert gone(server, sockets)
        assert server.process.stderr is not None
        assert re.fullmatch(STOPPING, server.process.stderr.read())


def test_the_second_signal_ends_everything_at_once(tmp_path: Path, sockets: Path) -> None:
    with started(tmp_path) as server:
        # It would take longer than anybody waits here.
        server.stream(max_tokens=8000, logprobs=True, top_logprobs=20)
        for _ in range(200):
            server.process.send_signal(signal.SIGTERM)
            if server.process.poll() is not None:
                break
            threading.Event().wait(0.01)
        assert server.process.wait(5) in (0, -signal.SIGTERM)
        assert gone(server, sockets)


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_a_server_that_is_killed_leaves_no_orphans(tmp_path: Path, sockets: Path, *, stopped: bool) -> None:
    with started(tmp_path) as server:
        server.stream(max_tokens=8000)
        if stopped:
            os.kill(server.engines[0], signal.SIGSTOP)
        server.process.kill()
        assert gone(server, sockets)


def test_a_lost_engine_is_told_in_the_log(tmp_path: Path, sockets: Path) -> None:
    with started(tmp_path) as server:
        assert server.process.stderr is not None
        os.kill(server.engines[0], signal.SIGKILL)
        lines = [server.process.stderr.readline() for _ in range(2)]
        model = re.search(r"ERROR \S+: the engine of (\S+) ended \(SIGKILL\) and is started again\n", lines[0])
        assert model is not None
        assert f"the engine of {model[1]} runs again" in lines[1]
        assert list(server.stream(max_tokens=3))[-1].choices[0].finish_reason == "length"
        server.process.terminate()
        assert server.process.wait(20) == 0
        assert list(sockets.iterdir()) == []


def test_a_model_that_cannot_be_loaded_is_told_as_without(tmp_path: Path, sockets: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [sys.executable, "-m", "ecocore", "serve", "--port", "0", "--model", f"HuggingFaceTB/SmolLM2-135M-Instruct={empty}"]
    environment = {**os.environ, "ECOCORE_HOME": str(tmp_path / "home")}
    plain, isolated = (
        subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=60, check=False)
        for more in ([], ["--isolate"])
    )
    assert isolated.returncode == plain.returncode != 0
    assert isolated.stderr == plain.stderr
    assert isolated.stderr.count("\n") == 1
    assert list(sockets.iterdir()) == []


def test_the_environment_may_ask_for_it(tmp_path: Path, sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECOCORE_ISOLATE", "true")
    with process(tmp_path) as server:
        read_until(server, "^curl ")
        assert len(children(server.pid)) == len(list(sockets.iterdir())) == 1
