"""Soaks the whole server over HTTP: mixed load on the embedded model and on a mock engine, for half an hour.

Streams and plain answers, choices, tools, schemas, images, completions, responses, log-probabilities, clients that leave,
requests that are wrong. No answer may be a 5xx but a deliberate 503, memory may not grow after the first minutes, file
descriptors stay, and at the end every KV block is back. `python -m tests.soak_server`; exit status 1 on any violation.
"""

import argparse
import base64
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image
from tests.soak import MAX_MB_PER_MINUTE, MAX_VIOLATIONS_TOLD, growth

EMBEDDED: Final = "HuggingFaceTB/SmolLM2-135M-Instruct"
MOCK: Final = "soak/mock"
MOCK_RATE: Final = 40
# Caches and allocator pools fill in the first minutes.
WARM_UP_SECONDS: Final = 300.0
SPARE_DESCRIPTORS: Final = 24
PATIENCE: Final = 60.0


@dataclass(slots=True)
class Tally:
    """What was asked and what came of it; shared by the threads of the load."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, action: str, status: int) -> None:
        with self.lock:
            self.answers[action, status] += 1

    def violate(self, words: str) -> None:
        with self.lock:
            self.violations.append(words)


@dataclass(frozen=True, slots=True)
class Served:
    """A server in a process of its own."""

    url: str
    key: str
    pid: int

    def resident_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text("ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=PATIENCE)


@contextmanager
def served() -> Iterator[Served]:
    """The server as people start it, with both models."""
    with tempfile.TemporaryDirectory() as home:
        command = [
            sys.executable,
            "-m",
            "ecocore",
            "serve",
            "--port",
            "0",
            "--model",
            f"{MOCK}=mock",
            "--mock-rate",
            str(MOCK_RATE),
        ]
        environment = {**os.environ, "ECOCORE_HOME": home}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        try:
            head = ""
            while "chat/completions" not in head:
                line = process.stdout.readline()
                assert line, f"the server ended before its port was open:\n{head}"
                head += line
            url = re.search(r"http://[^/\s]+", head)
            key = re.search(r"eco_[0-9A-Za-z]{20,}", head)
            assert url is not None
            assert key is not None
            yield Served(url[0], key[0], process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
            process.stdout.close()


# --- what is asked ------------------------------------------------------------------------------------------

Action = Callable[[httpx.Client, random.Random, str], int]

TOOLS: Final = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]},
        },
    }
]
SCHEMA: Final = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {
            "type": "object",
            "properties": {"ok": {"type": "boolean"}},
            "required": ["ok"],
            "additionalProperties": False,
        },
    },
}


def body(rng: random.Random, model: str, **fields: Any) -> dict[str, Any]:
    text = f"{rng.getrandbits(24)}: " + "Tell me of the tide and of the harbour. " * rng.choice((1, 1, 3, 12))
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": rng.randint(1, 40), **fields}


def plain(client: httpx.Client, rng: random.Random, model: str) -> int:
    fields = rng.choice(({"n": 2}, {"logprobs": True, "top_logprobs": 3}, {"seed": 7, "top_p": 0.9}, {"stop": ["the", "\n"]}))
    return client.post("/v1/chat/completions", json=body(rng, model, **fields)).status_code


def constrained(client: httpx.Client, rng: random.Random, model: str) -> int:
    fields = rng.choice(({"response_format": SCHEMA}, {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}))
    return client.post("/v1/chat/completions", json=body(rng, model, **fields)).status_code


def streamed(client: httpx.Client, rng: random.Random, model: str) -> int:
    with client.stream("POST", "/v1/chat/completions", json=body(rng, model, stream=True)) as answer:
        text = "".join(answer.iter_text())
    if answer.status_code == 200 and not text.endswith("data: [DONE]\n\n"):
        raise ValueError(f"a stream ended with {text[-200:]!r}")
    return answer.status_code


def left(client: httpx.Client, rng: random.Random, model: str) -> int:
    with client.stream("POST", "/v1/chat/completions", json=body(rng, model, stream=True) | {"max_tokens": 400}) as answer:
        for count, _ in enumerate(answer.iter_raw()):
            if count >= rng.randint(0, 6):
                break
    return answer.status_code


def completed(client: httpx.Client, rng: random.Random, model: str) -> int:
    fields = {"model": model, "prompt": f"{rng.random()} Once", "max_tokens": 8, "echo": True, "logprobs": 2}
    return client.post("/v1/completions", json=fields).status_code


def responded(client: httpx.Client, rng: random.Random, model: str) -> int:
    fields = {"model": model, "input": f"{rng.random()} Hello.", "max_output_tokens": 12, "stream": rng.random() < 0.5}
    return client.post("/v1/responses", json=fields).status_code


def pictured(client: httpx.Client, rng: random.Random, _model: str) -> int:
    file = io.BytesIO()
    Image.new("RGB", (rng.randint(8, 400), rng.randint(8, 400)), (rng.randint(0, 255), 0, 90)).save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": url}}]
    fields = body(rng, MOCK) | {"messages": [{"role": "user", "content": content}]}
    return client.post("/v1/chat/completions", json=fields).status_code


def asked_wrongly(client: httpx.Client, rng: random.Random, model: str) -> int:
    wrong: tuple[dict[str, Any], ...] = (
        {"temperature": 9},
        {"model": "nobody"},
        {"messages": []},
        {"max_tokens": -1},
        {"stop": [""]},
    )
    return client.post("/v1/chat/completions", json=body(rng, model) | rng.choice(wrong)).status_code


def looked(client: httpx.Client, rng: random.Random, model: str) -> int:
    if rng.random() < 0.5:
        return client.post("/tokenize", json={"model": model, "prompt": "A tide. " * rng.randint(1, 2000)}).status_code
    return client.get(rng.choice(("/v1/models", "/metrics", "/ready", "/health"))).status_code


ACTIONS: Final[dict[Action, int]] = {
    plain: 4,
    constrained: 2,
    streamed: 8,
    left: 4,
    completed: 1,
    responded: 2,
    pictured: 1,
    asked_wrongly: 2,
    looked: 2,
}


# --- the run ------------------------------------------------------------------------------------------------


def work(server: Served, tally: Tally, rng: random.Random, model: str, until: float) -> None:
    """Asks one thing after another until the time is over."""
    with server.client() as client:
        while time.monotonic() < until:
            (action,) = rng.choices(list(ACTIONS), weights=list(ACTIONS.values()))
            try:
                status = action(client, rng, model)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is a finding
                tally.violate(f"{action.__name__} on {model}: {error!r}")
                continue
            tally.add(action.__name__, status)
            if status >= 500 and status != 503:
                tally.violate(f"{action.__name__} on {model} was answered with {status}")


def soak(server: Served, *, minutes: float, embedded: int, mock: int, seed: int, tell: Callable[[str], None]) -> list[str]:
    """Runs the load and gives the violations."""
    tally = Tally()
    begun = time.monotonic()
    until = begun + 60 * minutes
    models = [EMBEDDED] * embedded + [MOCK] * mock
    threads = [
        threading.Thread(target=work, args=(server, tally, random.Random(f"{seed}/{number}"), model, until))
        for number, model in enumerate(models)
    ]
    for thread in threads:
        thread.start()
    memory: list[tuple[float, float]] = []
    descriptors: list[int] = []
    done = threading.Event()
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - begun, server.resident_mb()))
        descriptors.append(server.descriptors())
        if len(memory) % 10 == 0:
            tell(
                f"{memory[-1][0]:5.0f} s  {tally.answers.total()} answers, {memory[-1][1]:.0f} MB, {descriptors[-1]} descriptors"
            )
        done.wait(1.0)
    for thread in threads:
        thread.join()
    violations = [*tally.violations, *_left_behind(server)]
    slope = growth(memory, WARM_UP_SECONDS)
    if slope is not None and slope > MAX_MB_PER_MINUTE:
        violations.append(f"memory grows by {slope:.2f} MB per minute")
    warm = descriptors[: max(1, len(descriptors) // 6)]
    if max(descriptors[-60:]) > max(warm) + SPARE_DESCRIPTORS:
        violations.append(f"file descriptors rose from {max(warm)} to {max(descriptors[-60:])}")
    tell("too short to judge memory" if slope is None else f"memory {slope:+.2f} MB per minute after {WARM_UP_SECONDS:.0f} s")
    tell(json.dumps({f"{action} {status}": count for (action, status), count in sorted(tally.answers.items())}))
    return violations


def _left_behind(server: Served) -> Iterator[str]:
    """What an idle server still holds."""
    deadline = time.monotonic() + PATIENCE
    with server.client() as client:
        while True:
            lines = client.get("/metrics").text.splitlines()
            names = ("ecocore_num_requests_running", "ecocore_num_requests_waiting", "ecocore_kv_cache_usage_perc")
            held = [line for line in lines if line.startswith(names) and float(line.rsplit(" ", 1)[1]) != 0]
            if not held:
                return
            if time.monotonic() > deadline:
                yield f"the idle server still holds {held}"
                return
            threading.Event().wait(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak_server", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default 30)")
    parser.add_argument("--embedded", type=int, default=4, help="clients of the embedded model (default 4)")
    parser.add_argument("--mock", type=int, default=12, help="clients of the mock engine (default 12)")
    parser.add_argument("--seed", type=int, default=1, help="draws the requests (default 1)")
    options = parser.parse_args()
    with served() as server:
        violations = soak(
            server, minutes=options.minutes, embedded=options.embedded, mock=options.mock, seed=options.seed, tell=_tell
        )
    for violation in violations[:MAX_VIOLATIONS_TOLD]:
        _tell(f"violation: {violation}")
    _tell(f"{len(violations)} violations")
    return 1 if violations else 0


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
