"""An ecocore in a process of its own, on a port, to be a region of a test: it may be stopped, killed and started again.

Serves `MODEL` as fast as it can, and `PACED` at a hundred tokens a second.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODEL = "some-maker/some-model"
PACED = "some-maker/paced"


@dataclass
class PeerProcess:
    """The running server."""

    url: str
    key: str | None
    process: subprocess.Popen[str]

    def send(self, number: signal.Signals) -> None:
        """A signal; one that kills has done so when this returns."""
        self.process.send_signal(number)
        if number is signal.SIGKILL:
            self.process.wait()


@contextmanager
def peer_process(folder: Path, *, port: int = 0) -> Iterator[PeerProcess]:
    """Started, and gone afterwards, however it was left. `folder` keeps its keys; only its first start tells one."""
    command = [sys.executable, "-m", "tests.abuse.server", str(folder), json.dumps({"port": port})]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield PeerProcess(told["url"], told["key"], process)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
