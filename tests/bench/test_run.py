"""`ecocore bench` as a person types it, on a server of our own."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.live_server import MODEL, Live, live, slow

from ecocore.bench import document as documents

__all__ = ["live", "slow"]

SCHEMA = json.loads(Path(documents.__file__).with_name("result.schema.json").read_text("utf-8"))
ANSI = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ecocore", "bench", *arguments]


def bench(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("ECOCORE_")}
    return subprocess.run(command(*arguments), env=given | environment, capture_output=True, text=True, timeout=120, check=False)


def document(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(path.read_text("utf-8"))
    Draft202012Validator(SCHEMA).validate(loaded)
    return loaded


def test_one_server_is_measured_told_and_written(live: Live, tmp_path: Path) -> None:
    figures, page = tmp_path / "figures.json", tmp_path / "page.html"
    small = ["--streams", "1,4", "--requests", "6", "--max-tokens", "9", "--prompt-tokens", "60"]
    told = bench(live.url, *small, "--json", str(figures), "--report", str(page), ECOCORE_API_KEY=live.key)
    assert told.returncode == 0, told.stderr
    assert re.search(r"^this takes (about )?[0-9.]+ s", told.stderr, re.MULTILINE)
    rows = [line.split(" | ") for line in told.stdout.splitlines() if line.startswith("| ")]
    assert [row[0].strip("| ") for row in rows] == ["streams", "1", "4"]
    assert re.search(rf"A: {MODEL} at {live.url}/v1\.", told.stdout)
    assert [line.split(",")[1] for line in told.stderr.splitlines() if " round 1: 6 answers" in line] == [
        " 1 streams",
        " 4 streams",
    ]
    steps = document(figures)["steps"]
    for step in steps:
        found = step["figures"]
        assert (found["requests"], found["output_tokens"], found["failed"], found["tokens_from"]) == (6, 54, {}, "usage")
        assert found["finish_reasons"] == {"length": 6}
        # The mock engine's token is a byte, so the words are as many as fit.
        assert 50 < found["prompt_tokens"] < 70
        assert found["gap_ms"]["count"] == 6 * 8
    assert page.read_text("utf-8").count("<svg") == 4
    assert live.key not in figures.read_text("utf-8") + page.read_text("utf-8") + told.stdout + told.stderr


def test_two_servers_are_compared(live: Live, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    small = ["--streams", "2", "--requests", "2", "--max-tokens", "4", "--rounds", "2"]
    second = ["--against", f"{live.url}/v1", "--against-model", MODEL, "--against-key", live.key]
    told = bench(live.url, *small, *second, "--model", MODEL, "--key", live.key, "--json", str(figures))
    assert told.returncode == 0, told.stderr
    assert "answers at temperature 0: 8 of 8 equal" in told.stdout
    assert re.search(r"\|  \| B / A \| [0-9.]+x", told.stdout)
    found = document(figures)
    assert [(step["server"], step["round"]) for step in found["steps"]] == [("A", 1), ("B", 1), ("A", 2), ("B", 2)]
    assert found["comparison"]["agreement"]["equal"] == 8


def test_quiet_says_nothing_but_what_was_found(live: Live) -> None:
    told = bench(live.url, "--key", live.key, "--streams", "1", "--requests", "1", "--max-tokens", "2", "--quiet")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("| streams |")


def test_ctrl_c_keeps_what_was_measured(slow: Live, tmp_path: Path) -> None:
    """The second level takes seconds; it is broken off as soon as the first has been told."""
    figures, page = tmp_path / "figures.json", tmp_path / "page.html"
    small = ["--streams", "1,200", "--requests", "1", "--max-tokens", "200", "--json", str(figures), "--report", str(page)]
    asked = command(slow.url, "--key", slow.key, *small)
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("1 streams, round 1: 1 answers" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "| 1 | A |" in out
    assert "The run was broken off" in out
    found = document(figures)
    assert found["interrupted"]
    assert found["steps"][0]["streams"] == 1
    assert page.read_text("utf-8").count("<svg") == 4
    assert slow.becomes_idle()


def test_on_a_terminal_a_table_fills_in(live: Live) -> None:
    """Read as it is drawn, until the process ends: at first all waits, in the end the result stands there."""
    screen, terminal = pty.openpty()
    small = ["--key", live.key, "--streams", "1,2", "--requests", "40", "--max-tokens", "200"]
    asked = command(live.url, *small)
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160"}
    with subprocess.Popen(asked, stdout=terminal, stderr=terminal, env=environment) as process:
        os.close(terminal)
        shown = "".join(_shown(screen, process))
    assert process.returncode == 0, shown
    os.close(screen)
    plain = ANSI.sub("", shown)
    assert re.search(r"2 │ +A │ +1 │ waiting", plain)
    assert re.search(r"1 │ +A │ +1 │ (warming up|\d+ s|done)", plain)
    assert re.search(r"│ +40 │ +0 *│\r?\n└", plain[plain.rindex("streams") :])


def _shown(screen: int, process: subprocess.Popen[bytes]) -> Iterator[str]:
    while True:
        ready, _, _ = select.select([screen], [], [], 60)
        assert ready, "the terminal stays silent"
        try:
            piece = os.read(screen, 65536)
        except OSError:
            # The other end is closed: the process has ended.
            return
        if not piece:
            return
        yield piece.decode("utf-8", "replace")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nowhere"], 2, "url: 'nowhere' is not of the form http://HOST:PORT"),
        (["http://127.0.0.1:1"], 1, "http://127.0.0.1:1/v1 cannot be reached: Connection refused; is the server running?"),
        (["--streams", "1,zero"], 2, "streams: '1,zero' must be numbers"),
        (["--streams", "0"], 2, "streams: '0' must be numbers"),
        (["--requests", "5", "--seconds", "3"], 2, "requests: a level ends by --requests or by --seconds, not by both"),
        (["--against-key", "k"], 2, "against: there is a model or a key for a second server"),
        (["--json", "no/such/folder.json"], 2, "json: there is no folder 'no/such'"),
        (["--report", "no/such/folder.html"], 2, "report: there is no folder 'no/such'"),
        (["--key", "a b"], 2, "key: holds spaces"),
        (["--max-tokens", "0"], 2, "--max-tokens"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], code: int, words: str) -> None:
    told = bench(*arguments)
    assert (told.returncode, told.stdout) == (code, "")
    assert told.stderr.startswith("ecocore: ")
    assert told.stderr.count("\n") == 1
    assert words in told.stderr


def test_a_wrong_key_is_told_with_what_to_do(live: Live) -> None:
    told = bench(live.url)
    assert told.returncode == 1
    assert re.search(r"/v1/models answers 401: .*; give a key with --key or ECOCORE_API_KEY\n$", told.stderr)


def test_without_matplotlib_a_report_is_refused_before_anything_is_measured(live: Live, tmp_path: Path) -> None:
    code = "import sys; sys.modules['matplotlib'] = None; from ecocore.cli import main; main()"
    asked = [sys.executable, "-c", code, "bench", live.url, "--key", live.key, "--report", str(tmp_path / "page.html")]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "ecocore: report: its plots need matplotlib; pip install 'ecocore[report]'\n"


def test_a_server_that_only_fails_is_exit_code_1(live: Live, tmp_path: Path) -> None:
    """The short chats of the beginning fit the model's context, the measured ones do not."""
    told = bench(live.url, "--key", live.key, "--streams", "1", "--requests", "2", "--prompt-tokens", "20000", "--quiet")
    assert told.returncode == 1, told.stdout
    assert "A, 1 streams: 2 x http: 400 context_length_exceeded" in told.stdout
