"""No key in anything that a server writes: log, metrics, answers, files, cores. (RELIABILITY S7)"""

import asyncio
import base64
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ecocore.accounts.books import Books
from ecocore.accounts.database import Database
from ecocore.accounts.keys import new_key
from ecocore.server.serve import Welcome

MODEL = "some-model"


@dataclass
class Watched:
    """A server in a process of its own; what it was asked, and everything that it said."""

    url: str
    pid: int
    key: str
    home: Path
    client: httpx.Client
    heard: dict[str, bytes] = field(default_factory=dict)

    def http(self, name: str, method: str = "POST", path: str = "/v1/chat/completions", **options: Any) -> int:
        options.setdefault("headers", {"authorization": f"Bearer {self.key}"})
        answer = self.client.request(method, self.url + path, **options)
        self.heard[name] = repr(answer.headers.raw).encode() + answer.content
        return answer.status_code

    def raw(self, name: str, sent: str) -> None:
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(sent.encode())
            connection.shutdown(socket.SHUT_WR)
            self.heard[name] = b"".join(iter(lambda: connection.recv(65536), b""))


@contextmanager
def watched(home: Path, *arguments: str) -> Iterator[tuple[Watched, Callable[[], None]]]:
    """The second value ends the server gently, after which its log is among what was heard."""
    command = [sys.executable, "-m", "ecocore", "serve", "--port", "0", "--log-level", "info", "--no-remote-images"]
    # In the place of the embedded model, so that none is loaded.
    command += ["--model", "HuggingFaceTB/SmolLM2-135M-Instruct=mock", "--model", f"{MODEL}=mock", *arguments]
    environment = {**os.environ, "ECOCORE_HOME": str(home)}
    with (
        (home.parent / "stderr").open("w+b") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log) as started,
        httpx.Client(timeout=20) as client,
    ):
        try:
            assert started.stdout is not None
            said = next(line for line in iter(started.stdout.readline, b"") if line.startswith(b"curl "))
            words = shlex.split(said.decode())
            key = next(word for word in words if word.startswith("Authorization")).split()[-1]
            server = Watched(words[1].removesuffix("/v1/chat/completions"), started.pid, key, home, client)

            def end() -> None:
                started.send_signal(signal.SIGTERM)
                assert started.stdout is not None
                server.heard["stdout"] = started.stdout.read()
                assert started.wait(20) == 0
                log.seek(0)
                server.heard["stderr"] = log.read()

            yield server, end
        finally:
            started.kill()


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, "max_tokens": 5, **fields}


def ask_rightly(server: Watched) -> None:
    key = server.key
    assert server.http("plain", json=chat()) == 200
    assert server.http("stream", json=chat(stream=True)) == 200
    assert server.http("key in the prompt", json=chat(messages=[{"role": "user", "content": key}])) == 200
    assert server.http("key in other fields", json=chat(user=key, metadata={key: key}, **{key: key})) == 200
    assert server.http("key in the query", path=f"/v1/chat/completions?api_key={key}", json=chat()) == 200
    assert server.http("responses", path="/v1/responses", json={"model": MODEL, "input": key, "max_output_tokens": 5}) == 200
    assert server.http("tokenize", path="/tokenize", json={"model": MODEL, "prompt": key}) == 200
    headers = {"authorization": f"bearer {key}", "x-request-id": key, "user-agent": key, "referer": key, "cookie": f"a={key}"}
    assert server.http("key in other headers", json=chat(), headers=headers) == 200
    headers = {"authorization": f"Bearer {key}", "idempotency-key": key}
    for name in ("once", "again"):
        assert server.http(f"key as an Idempotency-Key, {name}", json=chat(), headers=headers) == 200
    for path in ("/v1/models", "/v1/balance", "/v1/usage"):
        assert server.http(path, "GET", path) == 200


def ask_wrongly(server: Watched) -> None:
    key = server.key
    basic = base64.b64encode(f"user:{key}".encode()).decode()
    for name, value in {
        "without a scheme": key,
        "basic": f"Basic {basic}",
        "another scheme": f"Token {key}",
        "twice in one": f"Bearer {key} {key}",
        "mistyped": f"Bearer {key[:-1]}",
        "quoted": f'Bearer "{key}"',
    }.items():
        assert server.http(name, json=chat(), headers={"authorization": value}) == 401, name
    assert server.http("in another header", json=chat(), headers={"x-api-key": key}) == 401
    two = [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")]
    assert server.http("two headers", json=chat(), headers=two) == 401
    for name, body in {
        "as the model": chat(model=key),
        "as a role": chat(messages=[{"role": key, "content": "x"}]),
        "as a field of a message": chat(messages=[{"role": "user", "content": "x", key: 1, "tool_call_id": key}]),
        "as a number": chat(temperature=key, max_tokens=key),
        "as a stop": chat(stop=[key] * 50),
        "as a format": chat(response_format={"type": key}),
        "in a schema": chat(response_format={"type": "json_schema", "json_schema": {"name": key, "schema": {"type": key}}}),
        "in a pattern": chat(
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "string", "pattern": f"({key}"}},
            }
        ),
        "as a tool": chat(tools=[{"type": "function", "function": {"name": f"{key} {key}", "parameters": {"type": key}}}]),
        "as a tool choice": chat(tools=[], tool_choice={"type": "function", "function": {"name": key}}),
        "as an image": chat(
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"https://x.example/{key}"}}]}]
        ),
        "as a bias": chat(logit_bias={key: 1}),
    }.items():
        assert server.http(name, json=body) in {200, 400, 404}, name
    for name, text in {
        "no JSON": key,
        "broken JSON": f'{{"model": "{key}',
        "twice the same name": f'{{"{key}": 1, "{key}": 2}}',
        "a number of it": f'{{"model": {key}}}',
    }.items():
        assert server.http(name, content=text) == 400, name
    bearer = {"authorization": f"Bearer {key}"}
    assert server.http("as the type of the body", content=b"{}", headers={**bearer, "content-type": key}) == 400
    assert server.http("as its coding", content=b"{}", headers={**bearer, "content-encoding": key}) == 415
    assert server.http("as a path", "GET", f"/{key}") == 404
    assert server.http("as a model in the path", "GET", f"/v1/models/{key}") == 404
    assert server.http("encoded in the path", "GET", f"/v1/models/{key.replace('_', '%5F')}") == 404
    assert server.http("as a method", key, "/v1/models") in {400, 405}
    assert server.http("with a wrong method", "DELETE", f"/v1/models?{key}") == 405


def ask_brokenly(server: Watched) -> None:
    key = server.key
    authorization = f"Authorization: Bearer {key}\r\n"
    post = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    for name, sent in {
        "as the first line": f"{key}\r\n\r\n",
        "as the version": f"GET /v1/models {key}\r\nHost: x\r\n\r\n",
        "as the host": f"GET /v1/models HTTP/1.1\r\nHost: {key}/{key}\r\n{authorization}\r\n",
        "in two hosts": f"GET /v1/models HTTP/1.1\r\nHost: a\r\nHost: b\r\n{authorization}\r\n",
        "as the name of a header": f"GET /v1/models HTTP/1.1\r\nHost: x\r\n{key} : {key}\r\n\r\n",
        "folded": f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization:\r\n Bearer {key}\r\n\r\n",
        "with bare line feeds": f"GET /v1/models HTTP/1.1\nHost: x\nAuthorization: Bearer {key}\n\n",
        "as a length": f"{post}Content-Length: {key}\r\n{authorization}\r\n",
        "as a coding": f"{post}Transfer-Encoding: {key}\r\n{authorization}\r\n",
        "as a chunk": f"{post}Transfer-Encoding: chunked\r\n{authorization}\r\n{key}\r\n",
        "in too many headers": f"GET / HTTP/1.1\r\nHost: x\r\n{authorization * 150}\r\n",
        "in a long path": f"GET /{key * 200} HTTP/1.1\r\nHost: x\r\n\r\n",
        "in an absolute URL": f"GET http://{key}/{key} HTTP/1.1\r\nHost: x\r\n\r\n",
        "in an upgrade": f"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: {key}\r\nConnection: Upgrade, close\r\n\r\n",
        "leaving amid the body": f"{post}Content-Length: 999\r\n{authorization}\r\n{key}",
    }.items():
        server.raw(name, sent)


async def fund(url: str) -> None:
    """Gives the first account money, and the model a price."""
    database = await Database.open(url)
    books = Books(database)
    await books.credit("default", 10**9)
    await books.set_price(MODEL, 10**9, 10**9)
    await database.close()


@pytest.mark.parametrize("arguments", [("--billing", "prepaid"), ("--isolate",)], ids=["prepaid", "isolated"])
def test_no_key_in_anything_that_a_server_writes(arguments: tuple[str, ...], tmp_path: Path) -> None:
    home = tmp_path / "home"
    with watched(home, *arguments) as (server, end):
        asyncio.run(fund(f"sqlite:///{home / 'ecocore.db'}"))
        ask_rightly(server)
        ask_wrongly(server)
        ask_brokenly(server)
        for page in ("/metrics", "/openapi.json", "/docs", "/ready", "/"):
            assert server.http(page, "GET", page, headers={}) == 200
        # While it runs, the write-ahead log is there as well.
        files = [path for path in home.rglob("*") if path.is_file()]
        assert {"ecocore.db", "ecocore.db-wal"} <= {path.name for path in files}
        for path in files:
            server.heard[path.name] = path.read_bytes()
        command_line = Path(f"/proc/{server.pid}/cmdline")
        server.heard["command line"] = command_line.read_bytes() if command_line.exists() else b""
        end()
    assert server.heard["stderr"].count(b"ecocore.access") >= 50
    secret = server.key[len("eco_") + 4 :].encode()
    leaks = [name for name, heard in server.heard.items() if secret.lower() in heard.lower()]
    assert leaks == []
    # And no less obvious way: the longest piece of it anywhere is what lists show of a key.
    pieces = {secret[place : place + 12] for place in range(len(secret) - 12)}
    assert [name for name, heard in server.heard.items() if any(piece in heard for piece in pieces)] == []


def test_the_key_would_have_been_found(tmp_path: Path) -> None:
    """The search above sees keys where they may stand: in the terminal's first lines."""
    with watched(tmp_path / "home") as (server, end):
        assert server.http("models", "GET", "/v1/models") == 200
        end()
        server.heard["known"] = json.dumps({"key": server.key}).encode()
    assert [name for name, heard in server.heard.items() if server.key[8:].encode() in heard] == ["known"]


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="limits of a process are read from /proc")
def test_a_server_leaves_no_core(tmp_path: Path) -> None:
    with watched(tmp_path / "home") as (server, _):
        limits = Path(f"/proc/{server.pid}/limits").read_text("utf-8")
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


LEAKS = """
import logging, sys, threading, warnings
from ecocore.server.serve import _log_to_stderr
key, password = sys.argv[1:]
_log_to_stderr("info", secrets=[password])
log = logging.getLogger("any.library")
log.warning("a line with %s and %s", key, password)
log.warning("arguments %r", {"authorization": key.encode()})
try:
    raise ValueError(key)
except ValueError as error:
    try:
        raise RuntimeError(password) from error
    except RuntimeError:
        log.exception("failed with %s", key)
warnings.warn("deprecated: " + key)
def lost():
    raise ValueError(key)
thread = threading.Thread(target=lost, name=key)
thread.start()
thread.join()
class Unraisable:
    def __del__(self):
        raise ValueError(key + password)
Unraisable()
"""


def test_whatever_way_a_secret_takes_to_the_log() -> None:
    key, password = new_key(), "correct horse"
    ran = subprocess.run([sys.executable, "-c", LEAKS, key, password], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    assert ran.stderr.count("[redacted]") >= 10
    assert key[8:] not in ran.stderr
    assert password not in ran.stderr
    for line in ("a line with", "arguments", "ValueError", "RuntimeError", "deprecated", "the thread", "Unraisable"):
        assert line in ran.stderr


def test_the_welcome_does_not_show_its_key_by_accident() -> None:
    key = new_key()
    assert key not in repr(Welcome("http://x", (MODEL,), key))
