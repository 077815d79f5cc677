"""Who watches over an engine's process: whatever it does, it is started again, or ended for good with all its traces."""

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.regions.isolated import CLOSE, command, eventually, lives

from ecocore.errors import EngineFailure, InvalidModelFile
from ecocore.regions import child_process
from ecocore.regions.child_process import ChildProcess, Watch

STATS = {"total_blocks": 4, "free_blocks": 1, "running": 3, "waiting": 2, "open": 5}
READY = {
    "facts": {
        "model_id": "m",
        "created": 1,
        "context_length": 2,
        "accepts_images": False,
        "fingerprint": "fp",
        "abilities": ["text"],
    },
    "stats": STATS,
}
# A process that keeps the contract, and then does what a test wants.
ACTOR = """
import json, os, sys, threading, time
from pathlib import Path
from ecocore.regions.parent import Parent
parent = Parent.adopt(Path(sys.argv[-1]))
def ready():
    parent.tell(json.loads('{ready}'))
def wait():
    threading.Event().wait()
{act}
"""


def actor(act: str) -> list[str]:
    return [sys.executable, "-c", ACTOR.format(ready=json.dumps(READY), act=act)]


@contextmanager
def watched(act: str, watch: Watch = CLOSE) -> Iterator[ChildProcess]:
    process = ChildProcess("m", actor(act), watch)
    try:
        process.start()
        yield process
    finally:
        process.close()
    assert not process.socket_path.parent.exists()


def test_it_is_ready_when_it_says_so_and_leaves_nothing_behind() -> None:
    with watched("ready(); wait()", replace(CLOSE, silence=60)) as process:
        assert process.is_alive
        assert process.facts.abilities == ("text",)
        assert process.stats() == {**STATS, "restarts": 0}
        assert process.socket_path.parent.stat().st_mode & 0o777 == 0o700
        pid = process.pid
        assert pid is not None
    assert not lives(pid)
    assert not process.is_alive
    process.close()


def test_what_its_start_raised_is_raised() -> None:
    failed = "parent.tell({'failed': {'kind': 'InvalidModelFile', 'message': 'tensor x: cut'}})"
    with pytest.raises(InvalidModelFile, match="tensor x: cut"), watched(failed):
        pass


@pytest.mark.parametrize(("act", "how"), [("os._exit(7)", "exit code 7"), ("os.kill(os.getpid(), 9)", "SIGKILL")])
def test_one_that_ends_before_it_is_ready_is_told(act: str, how: str) -> None:
    with pytest.raises(EngineFailure, match=rf"ended before it was ready \({how}\)"), watched(act):
        pass


def test_a_command_that_cannot_run_is_told() -> None:
    process = ChildProcess("m", ["/no/such/program"])
    with pytest.raises(FileNotFoundError):
        process.start()
    process.close()
    assert not process.socket_path.parent.exists()


def test_what_it_prints_does_not_disturb_the_line(capfd: pytest.CaptureFixture[str]) -> None:
    with watched("print('hello', flush=True); ready(); print('x' * 100_000, flush=True); wait()", replace(CLOSE, silence=60)):
        said = ""

        def hears() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return said == "hello\n" + "x" * 100_000 + "\n"

        assert eventually(hears, 60)


def test_one_that_ends_is_started_again() -> None:
    with watched("ready(); wait()", replace(CLOSE, silence=60)) as process:
        first = process.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        assert eventually(lambda: process.pid != first and process.is_alive, 60)
        assert process.stats()["restarts"] == 1
        assert not lives(first)


def test_one_that_is_dead_has_nothing_that_runs(tmp_path: Path) -> None:
    """The second start never gets ready."""
    act = f"mark = Path({str(tmp_path / 'mark')!r})\nif not mark.exists():\n    mark.touch(); ready()\nwait()"
    with watched(act, replace(CLOSE, silence=60)) as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        assert eventually(lambda: process.stats()["restarts"] == 1, 60)
        assert not process.is_alive
        assert process.stats() == {"total_blocks": 4, "free_blocks": 4, "running": 0, "waiting": 0, "open": 0, "restarts": 1}


def test_one_that_says_nothing_is_killed_and_started_again() -> None:
    """It lives, but nobody answers on its socket."""
    with watched("ready(); wait()", Watch(look=0.02, beat=0.02, silence=0.2, first_wait=0)) as process:
        first = process.pid
        assert first is not None
        assert eventually(lambda: process.pid != first, 60)
        assert not lives(first)


def test_one_that_is_being_taken_apart_is_known_before_it_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert not child_process.is_ending(process.pid)
        process.kill()
        # Nobody has asked for its end yet, so the kernel keeps what is left of it.
        assert eventually(lambda: child_process.is_ending(process.pid), 60)
    assert not child_process.is_ending(process.pid)


def test_one_that_breaks_its_line_is_replaced() -> None:
    act = "ready(); os.close(parent._line); wait()"
    with watched(act, Watch(look=0.02, beat=0.02, silence=60, first_wait=0)) as process:
        first = process.pid
        assert first is not None
        assert eventually(lambda: process.pid != first and process.stats()["restarts"] >= 2, 60)
        assert not lives(first)
        assert process.socket_path.parent.exists()


def test_one_that_ends_again_and_again_waits_longer_each_time(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    act = f"open({str(starts)!r}, 'a').write(f'{{time.monotonic()}}\\n'); ready(); os._exit(1)"
    with watched(act, Watch(first_wait=0.1, longest_wait=0.3)):
        assert eventually(lambda: starts.read_text().count("\n") >= 6, 60)
    times = [float(line) for line in starts.read_text().splitlines()[:6]]
    waits = [after - before for before, after in itertools.pairwise(times)]
    # The first start again is at once; how long a start itself takes is the machine's matter.
    assert all(waited >= due for waited, due in zip(waits, [0, 0.1, 0.2, 0.3, 0.3], strict=True))


def test_one_that_lived_long_enough_is_started_at_once_again(tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    act = f"open({str(starts)!r}, 'a').write('x'); ready(); time.sleep(0.2); os._exit(1)"
    with watched(act, Watch(first_wait=3600, well=0.1)):
        assert eventually(lambda: len(starts.read_text()) >= 4, 60)


def test_a_start_that_fails_later_is_tried_again(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    act = (
        f"mark = Path({str(mark)!r}); count = len(mark.read_text()) if mark.exists() else 0\n"
        "mark.write_text('x' * (count + 1))\n"
        "if count == 1:\n    parent.tell({'failed': {'kind': 'InvalidModelFile', 'message': 'cut'}}); os._exit(1)\n"
        "ready(); wait()"
    )
    with watched(act, replace(CLOSE, silence=60)) as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        assert eventually(lambda: mark.read_text() == "xxx" and process.is_alive, 60)
        assert process.stats()["restarts"] == 2


def test_a_start_that_hangs_is_killed_and_tried_again(tmp_path: Path) -> None:
    """The second start never gets ready, however long it may take; later ones do."""
    starts = tmp_path / "starts"
    act = (
        f"starts = Path({str(starts)!r}); before = len(starts.read_text().split()) if starts.exists() else 0\n"
        "with starts.open('a') as file:\n    file.write(f'{os.getpid()} ')\n"
        "if before != 1:\n    ready()\nwait()"
    )
    patient = replace(CLOSE, silence=60)
    with watched(act, patient) as process:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        assert eventually(lambda: len(starts.read_text().split()) == 2, 60)
        hanging = int(starts.read_text().split()[1])
        process._watch = replace(patient, start=0)
        assert eventually(lambda: process.pid != hanging, 60)
        process._watch = patient
        assert not lives(hanging)
        assert eventually(lambda: process.is_alive, 60)


def test_a_first_start_that_hangs_is_told() -> None:
    with pytest.raises(EngineFailure, match=r"was not ready after 0\.1 s"), watched("wait()", replace(CLOSE, start=0.1)):
        pass


@pytest.mark.parametrize("act", ["ready(); wait()", "wait()"], ids=["running", "starting"])
def test_one_that_is_stopped_is_ended_all_the_same(act: str) -> None:
    process = ChildProcess("m", actor(act), replace(CLOSE, silence=60, end=0.2))
    process._thread.start()
    try:
        assert eventually(lambda: process.pid is not None and (process.is_alive or act.startswith("wait")), 60)
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    finally:
        process.close()
    assert not lives(pid)
    assert not process.socket_path.parent.exists()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_made_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    process = ChildProcess("m", [])
    assert len(os.fsencode(process.socket_path)) <= child_process.MAX_PATH_BYTES
    assert process.socket_path.parent.stat().st_mode & 0o777 == 0o700
    process.close()
    assert list(deep.iterdir()) == []


SERVER = """
import json, sys, threading
from ecocore.regions.child_process import ChildProcess, Watch
process = ChildProcess("m", json.loads(sys.argv[1]), Watch(silence=60))
process.start()
print(process.pid, process.socket_path, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
def test_it_ends_with_a_server_that_is_killed(*, stopped: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER, json.dumps(command())], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        number, socket = server.stdout.readline().split()
        if stopped:
            os.kill(int(number), signal.SIGSTOP)
            assert eventually(lambda: Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "T", 60)
        server.kill()
    assert eventually(lambda: not lives(int(number)), 60)
    assert not Path(socket).parent.exists()


def test_an_engine_that_nobody_asks_any_more_says_where_it_stands_and_ends(tmp_path: Path) -> None:
    socket = tmp_path / "engine"
    with subprocess.Popen(
        [*command(deserted=0.2), "--socket", str(socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        assert json.loads(started.stdout.readline())["facts"]["context_length"] == 8192
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket))) as http:
            assert http.get("http://engine/heartbeat").json()["open"] == 0
        said = started.stderr.read()
        assert started.wait(10) == 1
    assert "Timeout" in said
    assert "most recent call first" in said
