"""The server that the abuse tests attack: the real one, in a process of its own, with deadlines short enough to wait for.

Usage: python -m tests.abuse.server FOLDER SETTINGS. Prints one line of JSON when the port is open.
"""

import asyncio
import json
import sys
from typing import Any

from ecocore.prompt.images.loader import ImageLimits, ImageLoader
from ecocore.regions.local import LocalRegion
from ecocore.runtime import Runtime
from ecocore.server import connection, serve
from ecocore.server.guard import Limits
from ecocore.server.tidy import share_one_pool
from ecocore.server.wire import Pace

MODEL = "some-maker/some-model"
BLIND = "some-maker/text-only"
PACED = "some-maker/paced"


def main(folder: str, settings: dict[str, Any]) -> None:
    vars(serve).update(settings.get("serve", {}))
    vars(connection).update(settings.get("connection", {}))
    share_one_pool()
    serve._log_to_stderr("warning")
    serve._allow_many_connections()
    images = ImageLoader(allowed_origins=settings.get("origins", ()), limits=ImageLimits(**settings.get("images", {})))
    runtimes = [Runtime.mock(MODEL), Runtime.mock(BLIND, images=False), Runtime.mock(PACED, tokens_per_second=100)]
    listening = serve.bind("127.0.0.1", settings.get("port", 0))

    def announce(welcome: serve.Welcome) -> None:
        sys.stdout.write(json.dumps({"url": welcome.url, "key": welcome.first_key}) + "\n")
        sys.stdout.flush()

    async def run() -> None:
        stop = asyncio.Event()
        serve._stop_on_signals(stop)
        await serve.serve_until(
            stop,
            [LocalRegion(runtime, images) for runtime in runtimes],
            f"sqlite:///{folder}/ecocore.db",
            listening,
            announce,
            grace=1.0,
            limits=Limits(body_bytes=16 * 2**20, **settings.get("limits", {})),
            pace=Pace(**settings.get("pace", {})),
        )

    asyncio.run(run())
    for runtime in runtimes:
        runtime.close()
    images.close()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
