"""A tokenizer in a process of its own: `python -m benches.encoder_worker NAME`; `encoder_process.py` is the other end.

Answers on standard output what it is asked on standard input. Its clocks run around its own loop: neither pipes nor the making
of the texts count.
"""

import contextlib
import gc
import os
import pickle
import sys
import time
from array import array
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from benches.encoders import ENCODERS, Door, Refused, Taken, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

# Encoded before each turn, untimed: a process that slept finds neither its code nor its clock rate.
AWAKE: Final = ["What is the capital of France?"] * 200


def main() -> None:
    """What a package prints goes to standard error, so that only answers stand on standard output."""
    with os.fdopen(os.dup(1), "wb") as answers, contextlib.redirect_stdout(sys.stderr):
        os.dup2(2, 1)
        serve(sys.argv[1], sys.stdin.buffer, answers)


def serve(name: str, questions: BinaryIO, answers: BinaryIO) -> None:
    """Loads the vocabulary named first, then answers turns until the questions end."""

    def answer(value: object) -> None:
        pickle.dump(value, answers)
        answers.flush()

    path = pickle.load(questions)
    try:
        import_module(name)
        began, cpu = time.perf_counter(), time.process_time()
        encoder = ENCODERS[name](path)
        loaded = Taken(time.perf_counter() - began, time.process_time() - cpu)
    except ModuleNotFoundError:
        answer(Refused("not installed"))
        return
    except Exception as error:  # noqa: BLE001 - whatever a package raises is its reason
        answer(Refused(_reason(error)))
        return
    _settle()
    answer(loaded)
    doors: dict[str, Callable[[], Door]] = {
        "text": lambda: encoder.text,
        "array": lambda: encoder.array,
        "chat": cache(encoder.chat),
    }
    while True:
        try:
            turn = pickle.load(questions)
        except EOFError:
            return
        answer(_timed(doors[turn.door](), turn))


def _timed(encode: Door, turn: Turn) -> Taken:
    """Each result is dropped at once, as a caller does who is done with it; those to compare are made in a turn of their own."""
    for text in AWAKE:
        encode(text)
    if turn.ids:
        return Taken(0, 0, [_ids(encode(text)) for text in turn.texts])
    gc.collect()
    gc.disable()
    cpu, wall = time.process_time(), time.perf_counter()
    for text in turn.texts:
        encode(text)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gc.enable()
    return Taken(wall, cpu)


def _ids(result: Any) -> "array[int]":
    """A list, an array, an encoding, or 32-bit numbers as bytes."""
    result = getattr(result, "ids", result)
    return array("I", result.tolist() if hasattr(result, "tolist") else result)


def _settle() -> None:
    """Waits for what a package still does on other threads after loading."""
    used = -1.0
    while time.process_time() - used > 0.001:
        used = time.process_time()
        time.sleep(0.02)


def _reason(error: Exception) -> str:
    first = str(error).strip().splitlines() or [""]
    return first[0][:120] or type(error).__name__


if __name__ == "__main__":
    main()
