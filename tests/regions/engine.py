"""An engine's process that can be made to fail: the mock engine behind the real doors.

Usage: python -m tests.regions.engine SETTINGS --socket PATH. Settings: `name`, `tokens_per_second`, `context_length`,
`capacity` (running, waiting, of one key), `parked` (admissions), `connections` (clients), `deserted` (seconds), `talks` (form
of the events), and `faults`, a file whose text is what goes wrong at the next step.
"""

import json
import resource
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ecocore._core import Batch
from ecocore.capacity import Capacity
from ecocore.prompt.images.loader import ImageLoader
from ecocore.regions.local import LocalRegion
from ecocore.regions.parent import Parent
from ecocore.runtime import Runtime
from ecocore.server import connection, engine
from ecocore.server.wire import Told

ROOM_BYTES = 128 * 2**20


class Faulty:
    """A model that fails when it is told to."""

    def __init__(self, model: Any, faults: Path) -> None:
        self._model = model
        self._faults = faults

    def forward(self, batch: Batch) -> Any:
        if self._faults.exists():
            fault = self._faults.read_text("utf-8")
            self._faults.unlink()
            getattr(self, fault)()
        return self._model.forward(batch)

    def step(self) -> None:
        raise RuntimeError("this step fails")

    def engine(self) -> None:
        raise SystemExit("no step will ever be again")

    def memory(self) -> None:
        used = int(Path("/proc/self/statm").read_text("ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_BYTES, resource.RLIM_INFINITY))
        hoard = [np.ones(2**20)]
        while True:
            hoard.append(np.ones(2**20))


def main(settings: dict[str, Any], socket: Path) -> None:
    parent = Parent.adopt(socket)
    sys.stdout.write("what an engine prints is for the log\n")
    runtime = Runtime.mock(
        settings["name"],
        tokens_per_second=settings.get("tokens_per_second", 0.0),
        context_length=settings.get("context_length", 8192),
        capacity=Capacity(*settings.get("capacity", ())),
    )
    if "faults" in settings:
        executor = runtime._loop._executor
        executor._model = Faulty(executor._model, Path(settings["faults"]))
    vars(engine)["DESERTED_SECONDS"] = settings.get("deserted", engine.DESERTED_SECONDS)
    vars(connection)["MAX_CONNECTIONS"] = settings.get("connections", connection.MAX_CONNECTIONS)
    vars(engine)["PARKED_AT_MOST"] = settings.get("parked", engine.PARKED_AT_MOST)
    if "talks" in settings:
        vars(engine)["Told"] = partial(_told, settings["talks"])
    engine.serve_engine(LocalRegion(runtime, ImageLoader()), socket, parent.tell, log_level="warning")


def _told(talks: Any, **fields: Any) -> Told:
    return Told(**{**fields, "form": talks})


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[sys.argv.index("--socket") + 1]))
