"""Keeps the interpreter out of the way of streams, and gives memory back to the system after large requests.

Whatever was loaded is never looked at again by the garbage collector, and what requests leave is collected in small portions; a
thread that waits for the interpreter's lock gets it soon, since a step of the engine waits with it.

The C library keeps what was freed for its next need, in one pool for each thread that ever allocated: a hundred requests of
a few megabytes left two hundred megabytes behind. So there is one pool, and it is asked to let go, at most once a second,
when such requests have ended. Where the C library has no such calls, nothing is done.
"""

import asyncio
import ctypes
import gc
import sys
from typing import Final

TIDY_SECONDS: Final = 1.0
_M_ARENA_MAX: Final = -8


# The default is 5 ms: as long as a step of a fast engine, for each of its threads that finds the event loop busy.
SWITCH_SECONDS: Final = 0.0005
# Requests leave few cycles. The second number is how many young collections make an older one.
_GC_THRESHOLDS: Final = (5000, 20, 50)


def stay_out_of_the_way() -> None:
    """To be called once everything is loaded, in a process that serves."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_SECONDS)


def share_one_pool() -> None:
    """Makes the C library keep one pool for all threads that start from here on: of others it gives nothing back."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


class Tidier:
    """Tidies up on the running event loop, some time after it was told to."""

    def __init__(self) -> None:
        """Looks for the C library's `malloc_trim`."""
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._due = False

    def after_large_request(self) -> None:
        """There may be something to give back. Costs nothing now."""
        if self._trim is not None and not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(TIDY_SECONDS, self._tidy)

    def _tidy(self) -> None:
        self._due = False
        # A few milliseconds, without the GIL; on a thread, so that no answer waits for it.
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
