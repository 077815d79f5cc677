"""The process: start, signals, secrets, and a gentle end."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from ecocore.errors import InvalidConfiguration
from ecocore.server.serve import bind

# All that a server has to say of its end.
STOPPING = r".* stopping: running answers may take up to 30 s .*\n"


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidConfiguration, match=f"port {port}.*--port"):
            bind("127.0.0.1", port)


def test_a_host_that_is_none_is_told() -> None:
    with pytest.raises(InvalidConfiguration, match="host"):
        bind("no such host", 8000)


def test_a_bound_port_is_not_open_yet() -> None:
    with bind("127.0.0.1", 0) as listening, pytest.raises(ConnectionRefusedError):
        socket.create_connection(listening.getsockname())


def test_what_runs_may_end_and_what_comes_is_refused(serving_with: Any) -> None:
    with serving_with(tokens_per_second=50, grace=20) as live, live.client() as client:
        stream = client.chat.completions.create(
            model="some-maker/some-model", messages=[{"role": "user", "content": "x"}], temperature=0, max_tokens=40, stream=True
        )
        next(iter(stream))
        live.stop()
        refused = live.chat()
        while refused.status_code == 200:
            refused = live.chat(max_tokens=1)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "shutting_down"
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{live.url}/ready").status_code == 503
        assert httpx.get(f"{live.url}/health").status_code == 200
        assert list(stream)[-1].choices[0].finish_reason == "length"


def test_a_server_whose_engine_ended_is_not_ready(serving_with: Any) -> None:
    with serving_with() as live:
        live.runtime.close()
        refused = httpx.get(f"{live.url}/ready")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "all_regions_unavailable")
        assert live.chat().status_code == 503


def test_what_does_not_end_in_time_ends_with_an_error(slow: Any) -> None:
    outcomes: list[str] = []

    def ask_plain() -> None:
        response = slow.chat()
        outcomes.append(f"{response.status_code} {response.json()['error']['code']}")

    plain = threading.Thread(target=ask_plain)
    with slow.client() as client:
        stream = client.chat.completions.create(
            model="some-maker/some-model", messages=[{"role": "user", "content": "x"}], temperature=0, stream=True
        )
        plain.start()
        assert slow.becomes_busy(2)
        slow.stop()
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
    plain.join(20)
    assert outcomes == ["503 shutting_down"]


@contextmanager
def process(home: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`ecocore serve` with the mock engine in the place of the embedded model."""
    from ecocore.weights.embedded import EMBEDDED_MODEL_ID

    command = [sys.executable, "-m", "ecocore", "serve", "--port", "0", "--model", f"{EMBEDDED_MODEL_ID}=mock", *arguments]
    environment = {**os.environ, "ECOCORE_HOME": str(home)}
    started = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def read_until(started: subprocess.Popen[str], pattern: str) -> str:
    """What the process says, up to the line that holds the pattern."""
    assert started.stdout is not None
    said = ""
    for line in started.stdout:
        said += line
        if re.search(pattern, line):
            return said
    assert started.stderr is not None
    raise AssertionError(said + started.stderr.read())


def test_the_first_start_prints_a_curl_line_that_works(tmp_path: Path) -> None:
    with process(tmp_path / "home") as started:
        said = read_until(started, "^curl ")
        curl = shlex.split(said.splitlines()[-1])
        options = dict(zip(curl[2::2], curl[3::2], strict=True))
        headers = dict(text.split(": ", 1) for flag, text in zip(curl[2::2], curl[3::2], strict=True) if flag == "-H")
        body = json.loads(options["-d"])
        assert (body["temperature"], body["messages"][0]["content"]) == (0, "What is the capital of France?")
        answer = httpx.post(curl[1], headers=headers, json={**body, "max_tokens": 5}, timeout=20)
        assert answer.json()["usage"]["completion_tokens"] == 5
        key = headers["Authorization"].removeprefix("Bearer ")
        assert said.count(key) == 2

        made = subprocess.run(
            [sys.executable, "-m", "ecocore", "keys", "create", "--name", "laptop"],
            env={**os.environ, "ECOCORE_HOME": str(tmp_path / "home")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert re.fullmatch(r"eco_\w{49}\n", made.stdout)
        url = curl[1].replace("/chat/completions", "/models")
        assert httpx.get(url, headers={"authorization": f"Bearer {made.stdout.strip()}"}).status_code == 200

        started.send_signal(signal.SIGTERM)
        rest, log = started.communicate(timeout=20)
        assert started.returncode == 0
        assert re.fullmatch(STOPPING, log)
        assert key not in rest
        stored = b"".join(file.read_bytes() for file in (tmp_path / "home").rglob("*") if file.is_file())
        assert key[8:].encode() not in stored

    with process(tmp_path / "home") as started:
        assert "eco_" not in read_until(started, "keys create")


def test_sigterm_lets_streams_end_and_a_second_one_does_not_wait(tmp_path: Path) -> None:
    with process(tmp_path) as started:
        said = read_until(started, "^curl ")
        curl = shlex.split(said.splitlines()[-1])
        key = next(text for text in curl if text.startswith("Authorization")).split()[-1]
        model = json.loads(curl[-1])["model"]
        with openai.OpenAI(base_url=curl[1].removesuffix("/chat/completions"), api_key=key, max_retries=0) as client:
            ask: Any = {"model": model, "messages": [{"role": "user", "content": "x"}], "temperature": 0, "stream": True}
            # So few tokens that none of them is too much for the buffer of a stream that waits its turn to be read.
            streams = [client.chat.completions.create(**ask, max_tokens=500) for _ in range(8)]
            for stream in streams:
                next(iter(stream))
            started.send_signal(signal.SIGTERM)
            assert [list(stream)[-1].choices[0].finish_reason for stream in streams] == ["length"] * 8
        assert started.wait(20) == 0
        assert started.stderr is not None
        assert re.fullmatch(STOPPING, started.stderr.read())


def test_a_line_for_each_request_on_demand(tmp_path: Path) -> None:
    with process(tmp_path, "--log-level", "info") as started:
        said = read_until(started, "^curl ")
        url = shlex.split(said.splitlines()[-1])[1]
        for path in ("/models?key=eco_abc", "/%0d%0anothing"):
            httpx.get(url.replace("/chat/completions", path), headers={"x-request-id": "mine"})
        key = re.search(r"Bearer (eco_\w+)", said)
        assert key is not None
        models = url.replace("/chat/completions", "/models")
        httpx.get(models, headers={"x-request-id": "mine", "authorization": f"Bearer {key[1]}"})
        started.send_signal(signal.SIGTERM)
        _, log = started.communicate(timeout=20)
    lines = [line for line in log.splitlines() if "ecocore.access" in line]
    assert [re.sub(r".*access: (.*), \d+ ms", r"\1", line) for line in lines] == [
        "mine GET /v1/models 401 by -",
        "mine GET /v1/%0d%0anothing 404 by -",
        "mine GET /v1/models 200 by default/first",
    ]


def test_a_server_that_bills_says_what_has_no_price_yet(tmp_path: Path) -> None:
    with process(tmp_path, "--billing", "prepaid") as started:
        said = read_until(started, "^curl ")
        started.send_signal(signal.SIGTERM)
        started.communicate(timeout=20)
    assert re.search("^answers are paid for, and these models have no price yet: .*SmolLM2", said, re.MULTILINE)
    assert re.search("^set one: ecocore prices set .*SmolLM2.* --input USD --output USD$", said, re.MULTILINE)


def test_the_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with process(tmp_path) as started:
        said = read_until(started, "^curl ")
        curl = shlex.split(said.splitlines()[-1])
        port = int(re.search(r":(\d+)/", curl[1])[1])  # type: ignore[index]
        # A client that holds the server in its grace: a request whose body never comes.
        with socket.create_connection(("127.0.0.1", port)) as connection:
            key = next(text for text in curl if text.startswith("Authorization"))
            body = (
                b'{"model": "%s", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "stream": true}'
                % json.loads(curl[-1])["model"].encode()
            )
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n{key}\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(head.encode() + body)
            assert connection.recv(15) == b"HTTP/1.1 200 \r\n"
            for _ in range(200):
                started.send_signal(signal.SIGTERM)
                if started.poll() is not None:
                    break
                threading.Event().wait(0.01)
            assert started.wait(5) == -signal.SIGTERM
