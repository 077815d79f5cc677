"""One call of `ecocore bench`: what was asked for -> what was measured, shown and written. Gives the exit status."""

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from ecocore.bench.compare import Agreement, agreement
from ecocore.bench.document import NAMES, Setting, document
from ecocore.bench.endpoint import Endpoint
from ecocore.bench.live import View
from ecocore.bench.load import Client
from ecocore.bench.plan import Plan, Run, measure
from ecocore.bench.probe import Target, probe
from ecocore.errors import InvalidConfiguration

EXIT_NOTHING: Final = 1
EXIT_INTERRUPTED: Final = 130
# What a process has open beside its connections.
OTHER_FILES: Final = 64


@dataclass(frozen=True, slots=True)
class Server:
    """One server as it was named. `model` None: the first that it lists."""

    url: str
    key: str | None
    model: str | None


def levels(text: str) -> tuple[int, ...]:
    """Reads `1,8,64,256`. Raises InvalidConfiguration."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 65536 for part in parts):
        raise InvalidConfiguration(
            f"streams: {text[:200]!r} must be numbers from 1 to 65536 with commas between, as in 1,8,64,256"
        )
    return tuple(dict.fromkeys(int(part) for part in parts))


def bench(servers: Sequence[Server], plan: Plan, *, json_to: Path | None, report_to: Path | None, view: View) -> int:
    """Measures one server or two. Raises InvalidConfiguration before it measures, NotMeasurable if a server does not answer."""
    for name, path in {"json": json_to, "report": report_to}.items():
        if path is not None and not path.parent.is_dir():
            raise InvalidConfiguration(f"{name}: there is no folder {str(path.parent)[:200]!r} to write into")
    if report_to is not None:
        _need_plots()
    _allow_connections(max(plan.levels))
    endpoints = [Endpoint.parse(server.url, server.key) for server in servers]
    setting = Setting()
    run, agreed = asyncio.run(_measured(endpoints, servers, plan, view))
    view.show(run)
    if agreed is not None:
        view.tell(agreed.words)
    if json_to is not None:
        json_to.write_text(json.dumps(document(run, agreed, setting), indent=1, ensure_ascii=False) + "\n", "utf-8")
        view.say(f"figures: {json_to}")
    if report_to is not None:
        from ecocore.bench.report import report

        report_to.write_text(report(run, agreed, setting), "utf-8")
        view.say(f"report: {report_to}")
    if run.interrupted:
        return EXIT_INTERRUPTED
    return 0 if any(step.figures and step.figures.requests for step in run.steps) else EXIT_NOTHING


async def _measured(
    endpoints: Sequence[Endpoint], servers: Sequence[Server], plan: Plan, view: View
) -> tuple[Run, Agreement | None]:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(endpoint)) for endpoint in endpoints]
        targets: list[Target] = []
        for name, client, server in zip(NAMES, clients, servers, strict=False):
            target = await probe(client, server.model, plan.seed)
            targets.append(target)
            view.say(f"{name}: {target.model} at {target.endpoint.url}")
        view.say(_duration(*plan.seconds_for(targets)))
        run = Run(plan, targets)
        agreed = None
        # Ctrl-C cancels this task: from here on what was measured is kept and shown.
        with suppress(asyncio.CancelledError):
            if len(targets) == 2:
                agreed = await agreement(plan, targets)
            async with view.following(run):
                await measure(run, clients, view.on_step)
            return run, agreed
        run.interrupted = True
        return run, agreed


def _duration(at_once: float, in_turns: float) -> str:
    """From two short chats, so as a person would say it."""
    least, most = _spoken(at_once), _spoken(in_turns)
    if least == most:
        return f"this takes about {least}; Ctrl-C keeps what was measured"
    return f"this takes {least} to {most}, the less the more streams the server computes at once; Ctrl-C keeps what was measured"


def _spoken(seconds: float) -> str:
    """To two digits: more would promise what nobody knows."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{float(f'{seconds / length:.2g}'):g} {unit}"
    return f"{max(1, float(f'{seconds:.2g}')):g} s"


def _need_plots() -> None:
    try:
        import_module("matplotlib")
    except ImportError:
        raise InvalidConfiguration("report: its plots need matplotlib; pip install 'ecocore[report]'") from None


def _allow_connections(streams: int) -> None:
    """Raises the soft limit of open files where it is too low for a connection a stream."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = streams + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise InvalidConfiguration(f"streams: this process may open {hard} files, too few for {streams} streams; see ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
