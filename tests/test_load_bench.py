"""`make load` runs whole at tiny sizes and tells its figures with what was aimed at. No speed is asserted."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benches.load import Served, asking, serving
from benches.load_server import KINDS
from benches.plain_frames import values

from ecocore.bench.answer import ChatAnswer
from ecocore.bench.load import Client, closed_loop

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run of all three parts wrote."""
    path = tmp_path_factory.mktemp("load") / "figures.json"
    command = [sys.executable, "-m", "benches.load", "--quick", "--json", str(path)]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    assert ran.stdout.count("\n| ") == len(loaded["lines"]) + 1
    return loaded


def test_every_part_tells_what_it_aimed_at(told: dict[str, Any]) -> None:
    aims = [(line["what"], line["target"]) for line in told["lines"] if line["target"]]
    assert aims == [
        ("gap p50 / p99 / max", "p99 <= 250 ms"),
        ("errors", "0"),
        ("memory above idle", "<= 400 MB"),
        ("goodput", ">= 90 %"),
        ("refusal p50 / p99 / max", "<= 100 ms"),
        ("refusals without Retry-After", "0"),
        ("other errors", "0"),
        ("outputs", "equal"),
        ("ratio", ">= 4x"),
    ]
    assert "cpu" in told["machine"]


def test_streams_are_held_without_an_error_and_both_servers_say_the_same(told: dict[str, Any]) -> None:
    verdicts = {line["what"]: line["met"] for line in told["lines"]}
    assert verdicts["errors"]
    assert verdicts["outputs"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_of_a_process_of_its_own_answers_and_ends(kind: str) -> None:
    with serving(kind, sequences=2) as served:
        assert served.resident_mb() > 10
        assert served.cpu_seconds() > 0
        with Client(served.endpoint, timeout=60, hearing=lambda outcome: ChatAnswer(outcome, keep_text=True)) as client:
            load = await closed_loop(client, asking(6, "test"), streams=2, count=4)
        assert [outcome.failure for outcome in load.outcomes] == [None] * 4
        assert all(len("".join(outcome.text or ())) >= 6 for outcome in load.outcomes)
    with pytest.raises(FileNotFoundError):
        Served(served.endpoint, served.pid).cpu_seconds()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_ends_with_whoever_started_it(kind: str) -> None:
    command = [sys.executable, "-m", "benches.load_server", kind, "--with-stdin"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        assert b"url" in server.stdout.readline()
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(30) == 0


def test_a_server_that_cannot_start_says_why() -> None:
    with (
        pytest.raises(RuntimeError, match=r"(?s)status 2 before it answered: .*argument --context"),
        serving("plain", context=0.5),
    ):
        raise AssertionError("it answers")


def test_frames_are_compared_but_for_what_each_server_makes_anew() -> None:
    one = b'data: {"id":"a","created":1,"x":2}\n\ndata: [DONE]\n\n'
    assert values([one]) == values([one.replace(b'"a","created":1', b'"b","created":2')])
    assert values([one]) != values([one.replace(b'"x":2', b'"x":3')])
