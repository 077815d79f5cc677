"""The server as the process of an engine sees it: at the other end of its standard input and output.

Tells it once how the start went, and ends this process when the server ends, however that happens. Imports little, so
that it is at work before the model is.
"""

import ctypes
import json
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

_PR_SET_PDEATHSIG: Final = 1
# The kernel's measure goes from -1000 to 1000.
_OOM_SCORE: Final = "500"
_OOM_FILE: Final = Path("/proc/self/oom_score_adj")


class Parent:
    """The process that started this one and holds its standard input open while it lives."""

    def __init__(self, line: int) -> None:
        """Use `adopt`."""
        self._line = line

    @classmethod
    def adopt(cls, socket: Path) -> Self:
        """From here on this process ends with its parent, which then finds neither `socket` nor its folder.

        Standard output becomes the line to the parent; what others print there goes to standard error.
        """
        line = os.dup(1)
        os.dup2(2, 1)
        _be_woken_by_its_end()
        _be_taken_first_where_memory_ends()
        threading.Thread(target=_end_with_it, args=(socket,), name="ecocore-parent", daemon=True).start()
        return cls(line)

    def tell(self, news: Mapping[str, Any]) -> None:
        """How the start went, once. The line stays open, so that its end tells of this process's own."""
        # A parent that is gone hears nothing, and this process is about to end.
        with suppress(BrokenPipeError):
            os.write(self._line, json.dumps(news).encode() + b"\n")


def _end_with_it(socket: Path) -> None:
    with suppress(OSError):
        while os.read(0, 64):
            pass
    with suppress(OSError):
        socket.unlink(missing_ok=True)
        socket.parent.rmdir()
    # Nothing here is worth saving, and an orderly end might wait for a step that never ends.
    os._exit(0)


def _be_woken_by_its_end() -> None:
    """A process that was stopped would not read the end of its input. Where the kernel cannot do this, nothing is done."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGCONT), 0, 0, 0)


def _be_taken_first_where_memory_ends() -> None:
    """An engine that is lost is started again; a server that is lost takes all engines along."""
    with suppress(OSError):
        _OOM_FILE.write_text(_OOM_SCORE, "ascii")
