"""The process side of serving: socket, signals, Hypercorn's start and end.

Takes regions and a database, answers until a signal. What becomes of a connection is `connection`'s.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from hypercorn.asyncio import serve as hypercorn_serve
from hypercorn.config import Config, Sockets
from starlette.types import ASGIApp, Receive, Scope, Send

from ecocore.accounts.answers import Answers
from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.database import Database
from ecocore.accounts.keys import KeyStore
from ecocore.accounts.ledger import Ledger
from ecocore.accounts.limits import KeyCounts
from ecocore.accounts.pricing import PriceList
from ecocore.accounts.shared_limits import SharedLimits
from ecocore.accounts.usage import Usage
from ecocore.errors import InvalidConfiguration
from ecocore.redaction import redacted
from ecocore.regions.region import Region
from ecocore.regions.router import DEFAULT_PRIORITY
from ecocore.server.account import AccountPages
from ecocore.server.app import Service, create_app, create_metrics_app
from ecocore.server.billing import Cashier
from ecocore.server.connection import MAX_CONNECTIONS, adapt_hypercorn
from ecocore.server.guard import Limits
from ecocore.server.rate_limit import RateLimiter
from ecocore.server.tidy import stay_out_of_the_way
from ecocore.server.wire import Pace

log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 30.0
END_SECONDS: Final = 3.0
BACKLOG: Final = 2048
KEEP_ALIVE_SECONDS: Final = 5.0
OPEN_FILES: Final = 16 * MAX_CONNECTIONS
ENGINE_POLL_SECONDS: Final = 0.1
ENGINE_FAREWELL_SECONDS: Final = 0.2
# Twice what the guard allows, so that it is the guard who refuses, with its reason.
MAX_HEAD_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Welcome:
    """What there is to say once the port is open.

    `first_key`: only if there was no key yet. `metrics_url`: only if the metrics have a port of their own. `unpriced`: models
    that are refused, because answers cost something here and theirs have no price.
    """

    url: str
    models: tuple[str, ...]
    first_key: str | None = field(repr=False)
    metrics_url: str | None = None
    unpriced: tuple[str, ...] = ()


def bind(host: str, port: int) -> socket.socket:
    """Takes a port without opening it: connections are refused until `serve`. Raises InvalidConfiguration."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InvalidConfiguration(f"host: {host!r} is no address of this machine ({error.strerror})") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.setblocking(False)
    try:
        listening.bind(address)
    except OSError as error:
        listening.close()
        raise _no_port(host, port, error) from None
    return listening


def bind_unix(path: Path) -> socket.socket:
    """As `bind`, for a socket that has its place in a folder."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    listening.bind(str(path))
    return listening


def serve(
    regions: Sequence[Region],
    database_url: str,
    listening: socket.socket,
    announce: Callable[[Welcome], None],
    *,
    metrics: socket.socket | None = None,
    prepaid: bool = False,
    spools: Path | None = None,
    redis_url: str | None = None,
    elsewhere: Sequence[tuple[int, Region]] = (),
    log_level: str = "warning",
    secrets: Sequence[str] = (),
) -> None:
    """Answers on `listening` until SIGTERM or SIGINT; a second one ends the process at once.

    `announce` is called when the port is open. `metrics`: the socket of a port that shows the metrics, which the other
    then does not. `prepaid`: whether answers cost what their models' prices say. `spools`: the folder for charges that the
    database does not take. `redis_url`: where several servers count the limits of keys together. `elsewhere`: regions at
    other servers with their priorities, beside `regions`, whose priority is 0. `log_level`: "info" tells every request.
    `secrets` never reach the log, and keys never do. Raises InvalidConfiguration, DatabaseUnavailable.
    """
    _log_to_stderr(log_level, secrets=secrets)
    _leave_no_core()
    _allow_many_connections()
    stay_out_of_the_way()

    async def until_signal() -> None:
        stop = asyncio.Event()
        _stop_on_signals(stop)
        await serve_until(
            stop,
            regions,
            database_url,
            listening,
            announce,
            metrics=metrics,
            prepaid=prepaid,
            spools=spools,
            redis_url=redis_url,
            elsewhere=elsewhere,
        )

    asyncio.run(until_signal())


def serve_child(
    app: ASGIApp,
    listening: socket.socket,
    opened: Callable[[], None],
    is_alive: Callable[[], bool],
    *,
    name: str,
    log_level: str,
) -> NoReturn:
    """Answers for one engine, on a socket that its server alone reaches, and ends the process with the engine.

    `opened` is called when the socket is open. `name` stands in each line of the log.
    """
    _log_to_stderr(log_level, name)
    _leave_no_core()
    # The server has a line for each request already.
    logging.getLogger("ecocore.access").setLevel(logging.WARNING)
    _allow_many_connections()
    stay_out_of_the_way()

    async def until_the_end() -> None:
        asyncio.get_running_loop().set_exception_handler(_on_loop_error)

        async def trigger() -> None:
            opened()
            await asyncio.Event().wait()

        serving = asyncio.create_task(hypercorn_serve(app, _config([listening]), shutdown_trigger=trigger, mode="asgi"))  # type: ignore[arg-type]
        while is_alive() and not serving.done():
            await asyncio.wait({serving}, timeout=ENGINE_POLL_SECONDS)
        if serving.done():
            await serving
        # The last events are on their way.
        await asyncio.sleep(ENGINE_FAREWELL_SECONDS)

    try:
        asyncio.run(until_the_end())
    finally:
        # Whoever started this process starts another. Nothing here is worth waiting for.
        os._exit(1)


async def serve_until(
    stop: asyncio.Event,
    regions: Sequence[Region],
    database_url: str,
    listening: socket.socket,
    announce: Callable[[Welcome], None],
    *,
    grace: float = GRACE_SECONDS,
    limits: Limits | None = None,
    pace: Pace | None = None,
    metrics: socket.socket | None = None,
    prepaid: bool = False,
    spools: Path | None = None,
    redis_url: str | None = None,
    elsewhere: Sequence[tuple[int, Region]] = (),
) -> None:
    """`serve` on the running event loop, until `stop` is set."""
    asyncio.get_running_loop().set_exception_handler(_on_loop_error)
    async with AsyncExitStack() as stack:
        database = await Database.open(database_url)
        stack.push_async_callback(database.close)
        keys = KeyStore(database)
        commit = GroupCommit(database)
        prices = PriceList(database)
        # What dead servers left is settled before the port opens.
        ledger = await stack.enter_async_context(Ledger.opened(database, commit, spools))
        service = Service(
            [*((DEFAULT_PRIORITY, region) for region in regions), *elsewhere],
            keys,
            pace or Pace(),
            cashier=Cashier(ledger, prices, prepaid=prepaid),
            answers=Answers(commit, ledger),
            account=AccountPages(ledger, Usage(database)),
            limiter=RateLimiter(KeyCounts(None if redis_url is None else SharedLimits.at(redis_url))),
        )
        limits = limits or Limits.for_models(images=any(region.accepts_images for region in service.models.regions()))
        app: ASGIApp = create_app(service, limits, metrics=metrics is None)
        sockets = [listening]
        if metrics is not None:
            app = _by_port({_port(listening): app, _port(metrics): create_metrics_app(service, limits)})
            sockets.append(metrics)

        async def opened() -> None:
            first_key = await keys.create("first") if await keys.is_empty() else None
            models = tuple(service.models)
            unpriced = tuple([model for model in models if prepaid and await prices.find(model) is None])
            metrics_url = None if metrics is None else f"{_url(metrics)}/metrics"
            announce(Welcome(_url(listening), models, first_key, metrics_url, unpriced))

        await _run_hypercorn(app, sockets, opened, stop, lambda: service.drain(grace))


def _by_port(apps: Mapping[int, ASGIApp]) -> ASGIApp:
    """One application for each port that is listened on."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # Everything but a request, such as the start of the server, is for the first: there the answers are delivered.
        port = scope["server"][1] if scope["type"] in ("http", "websocket") else next(iter(apps))
        await apps[port](scope, receive, send)

    return app


def _port(listening: socket.socket) -> int:
    return int(listening.getsockname()[1])


async def _run_hypercorn(
    app: ASGIApp,
    sockets: Sequence[socket.socket],
    opened: Callable[[], Awaitable[None]],
    stop: asyncio.Event,
    drain: Callable[[], Awaitable[None]],
) -> None:
    """Opens the port, and closes it when `stop` is set and `drain` has ended: until then, new requests get a 503."""
    drained = asyncio.Event()

    async def trigger() -> None:
        # Hypercorn asks when to end as soon as it listens.
        await opened()
        await drained.wait()

    serving = asyncio.create_task(hypercorn_serve(app, _config(sockets), shutdown_trigger=trigger, mode="asgi"))  # type: ignore[arg-type]
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        stopping.cancel()
        host, port = sockets[0].getsockname()[:2]
        try:
            await serving
        except OSError as error:
            raise _no_port(host, port, error) from None
        return
    await drain()
    drained.set()
    # From Python 3.12.1 on, Hypercorn may wait for connections without end.
    await asyncio.wait({serving}, timeout=2 * END_SECONDS)
    serving.cancel()
    await asyncio.wait({serving}, timeout=END_SECONDS)


def _config(sockets: Sequence[socket.socket]) -> Config:
    config = _BoundSockets()
    config.bound = list(sockets)
    config.backlog = BACKLOG
    config.graceful_timeout = END_SECONDS
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.include_server_header = False
    config.errorlog = logging.getLogger("hypercorn.error")
    config.errorlog.setLevel(logging.WARNING)
    adapt_hypercorn()
    return config


class _BoundSockets(Config):
    """Listens where `bind` said."""

    bound: list[socket.socket]

    def create_sockets(self) -> Sockets:
        return Sockets(secure_sockets=[], insecure_sockets=self.bound, quic_sockets=[])


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    signals = signal.SIGTERM, signal.SIGINT

    def first() -> None:
        log.warning("stopping: running answers may take up to %g s to end; the same signal again ends at once", GRACE_SECONDS)
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in signals:
        loop.add_signal_handler(number, first)


def _on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Connections that are cut at the end, or by their client, are no news.
    if not isinstance(context.get("exception"), (asyncio.CancelledError, ConnectionError)):
        loop.default_exception_handler(context)


def _no_port(host: str, port: int, error: OSError) -> InvalidConfiguration:
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidConfiguration(f"host: {host!r} is no address of this machine; choose another with --host")
    return InvalidConfiguration(f"port: cannot listen on {host} port {port}: {error.strerror}; choose another with --port")


def _url(listening: socket.socket) -> str:
    """Where a client on this machine reaches the server."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _allow_many_connections() -> None:
    """The usual soft limit of 1024 open files is less than the connections that this server takes.

    To an engine's process, a client has one for each of its prompts.
    """
    with suppress(ImportError, ValueError, OSError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
        if soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _leave_no_core() -> None:
    """A core dump would hold keys and prompts. Where the kernel hands cores to a collector, this tells it to keep none."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Redacted(logging.Formatter):
    """Nothing that looks like a key, and none of the `secrets`, reaches a log, wherever it came from."""

    def __init__(self, form: str, secrets: Iterable[str]) -> None:
        super().__init__(form)
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record), self._secrets)


def _log_to_stderr(level: str, name: str | None = None, secrets: Iterable[str] = ()) -> None:
    """`name`: of the one engine that this process runs. `secrets`: what is blacked out beside keys."""
    # What Pillow remarks about strangers' files is of no use to whoever reads the log.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    handler = logging.StreamHandler(sys.stderr)
    place = "" if name is None else "[" + name.replace("%", "%%") + "] "
    handler.setFormatter(_Redacted(f"%(asctime)s %(levelname)s {place}%(name)s: %(message)s", secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("ecocore").setLevel(level.upper())
    # What Python itself would write to standard error takes the same way.
    logging.captureWarnings(True)
    threading.excepthook = _log_lost_thread
    sys.unraisablehook = _log_unraisable


def _log_lost_thread(lost: threading.ExceptHookArgs) -> None:
    if lost.exc_type is not SystemExit:
        name = "unknown" if lost.thread is None else lost.thread.name
        log.error("the thread %s ended with an error", name, exc_info=lost.exc_value)


def _log_unraisable(lost: "sys.UnraisableHookArgs") -> None:
    log.error("%s, in %r", lost.err_msg or "an error that nobody could be told of", lost.object, exc_info=lost.exc_value)
