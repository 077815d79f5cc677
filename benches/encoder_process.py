"""The near end of `encoder_worker.py`: a tokenizer in a process of its own, asked turn by turn."""

import os
import pickle
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benches.encoders import Refused, Taken, Turn

ROOT: Final = Path(__file__).parents[1]
# Far more than any turn takes; some packages have texts that they never come back from.
PATIENCE: Final = 120.0

_ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), "1") | {"TOKENIZERS_PARALLELISM": "false"}


class Lost(Exception):
    """The process ended or does not answer."""


@dataclass(frozen=True, slots=True)
class EncoderProcess:
    """A loaded tokenizer. `loaded` is what loading took."""

    process: subprocess.Popen[bytes]
    loaded: Taken

    def take(self, turn: Turn) -> Taken:
        """Raises Lost."""
        taken = _ask(self.process, turn)
        assert isinstance(taken, Taken)
        return taken


@contextmanager
def encoder_process(name: str, vocabulary: Path, python: str = sys.executable) -> Iterator[EncoderProcess | Refused]:
    """Starts `python -m benches.encoder_worker NAME` and loads the file; ends it at the end."""
    command = [python, "-m", "benches.encoder_worker", name]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | _ONE_THREAD, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    )
    try:
        yield _loaded(process, vocabulary)
    finally:
        process.kill()
        with suppress(BrokenPipeError):
            process.communicate()


def _loaded(process: subprocess.Popen[bytes], vocabulary: Path) -> EncoderProcess | Refused:
    try:
        answer = _ask(process, str(vocabulary))
    except Lost as lost:
        return Refused(str(lost))
    return answer if isinstance(answer, Refused) else EncoderProcess(process, answer)


def _ask(process: subprocess.Popen[bytes], question: object) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump(question, process.stdin)
        process.stdin.flush()
        if not select.select([process.stdout], [], [], PATIENCE)[0]:
            raise Lost(f"no answer in {PATIENCE:.0f} s")
        return pickle.load(process.stdout)
    except (EOFError, BrokenPipeError) as error:
        raise Lost("the process ended") from error
