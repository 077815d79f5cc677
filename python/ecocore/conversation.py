"""A conversation on the terminal: takes a runtime, reads what is said and writes what it answers, as it comes."""

import sys
from collections.abc import Callable, Generator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, cast

from ecocore.errors import InvalidRequest
from ecocore.events import TextDelta

if TYPE_CHECKING:
    from ecocore.events import Finished
    from ecocore.runtime import Runtime


class Conversation:
    """What was said so far, and with what parameters it is answered."""

    def __init__(self, runtime: "Runtime", turns: list[dict[str, str]], params: dict[str, Any]) -> None:
        """`turns`: what comes before; `params`: keywords of `Runtime.stream`."""
        self._runtime = runtime
        self._turns = turns
        self._params = params

    def say(self, text: str) -> None:
        """Writes the answer to one message. Ctrl-C ends it, and everything. Raises InvalidRequest."""
        self._turns.append({"role": "user", "content": text})
        for piece in self._pieces():
            _write(piece)
        _write("\n")

    def go_on(self, *, complain: Callable[[InvalidRequest], object]) -> None:
        """Reads and answers until Ctrl-D or /exit. Ctrl-C ends an answer; `complain` hears what cannot be answered."""
        with suppress(ImportError):
            import readline  # noqa: F401  # gives input() its line editing
        _tell(f"{self._runtime.model_id}: Ctrl-C stops an answer, Ctrl-D or /exit leaves.")
        while (said := _listen()) != "/exit":
            if said.startswith("/"):
                _tell(f"there is no command {said.split()[0]}; Ctrl-C stops an answer, Ctrl-D or /exit leaves")
                continue
            self._turns.append({"role": "user", "content": said})
            answer: list[str] = []
            try:
                for piece in self._pieces():
                    _write(piece)
                    answer.append(piece)
            except KeyboardInterrupt:
                _write(" ...")
            except InvalidRequest as error:
                complain(error)
                self._turns.pop()
                continue
            _write("\n")
            self._turns.append({"role": "assistant", "content": "".join(answer)})

    def _pieces(self) -> Generator[str]:
        """The answer's text as it comes. Closing stops the work."""
        events = cast("Generator[TextDelta | Finished]", self._runtime.stream(self._turns, **self._params))
        with closing(events):
            for event in events:
                if isinstance(event, TextDelta):
                    yield event.text


def _listen() -> str:
    """The next line that says something; Ctrl-D reads as /exit."""
    while True:
        try:
            if said := input("> ").strip():
                return said
        except KeyboardInterrupt:
            _write("\n")
        except EOFError:
            _write("\n")
            return "/exit"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
