"""The verbs of `ecocore`. Each builds its configuration and calls one thing; what they need is imported when they run."""

import inspect
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from ecocore.admin import ADMINISTRATION, ConfigFile, Database, Json, print_json, print_table, spelled
from ecocore.errors import EcocoreError, InvalidConfiguration, InvalidRequest
from ecocore.redaction import redacted

if TYPE_CHECKING:
    from ecocore.config import ModelChoice, RuntimeConfig, ServerConfig
    from ecocore.prompt.images.loader import ImageLoader
    from ecocore.regions.region import Region
    from ecocore.runtime import Runtime
    from ecocore.server.serve import Welcome

# The API's default of 1 suits large models; on a terminal with a small one it reads as nonsense.
CHAT_TEMPERATURE: Final = 0.2

BENCH_SECONDS: Final = 10.0
BENCH_ROUNDS: Final = 3

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INTERRUPTED: Final = 130

# Plain help needs no rich, whose import would take longer than all the rest.
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
for name, verbs in ADMINISTRATION.items():
    app.add_typer(verbs, name=name)

Model = Annotated[
    list[str] | None, typer.Option(metavar="MODEL", help="NAME=PATH, PATH or NAME=mock; may be given several times.")
]
Mmproj = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]PATH",
        help="GGUF file of a model's part that sees, if not beside it; may be given several times.",
    ),
]
Precision = Annotated[str | None, typer.Option(metavar="exact|fast", help="exact computes in float32, fast in bfloat16.")]
MmprojPath = Annotated[
    Path | None,
    typer.Option("--mmproj", metavar="PATH", help="GGUF file of the part that sees, if not beside the model."),
]
ModelPath = Annotated[Path, typer.Argument(help="A .gguf file, or a folder with config.json and safetensors.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default="auto")]
KvCache = Annotated[int | None, typer.Option(help="Memory for keys and values, MiB for each model.", show_default="256")]
TensorParallel = Annotated[
    int | None,
    typer.Option(metavar="N", help="Processes that share each model of --model, on CUDA with a device each.", show_default="1"),
]


def main() -> NoReturn:
    """Runs a verb. Whatever goes wrong is one line on standard error, and an exit code."""
    try:
        code = app(standalone_mode=False) or 0
    except (typer.TyperException, InvalidConfiguration, InvalidRequest) as error:
        code = _complain(_words(error), EXIT_USAGE)
    except EcocoreError as error:
        code = _complain(str(error), EXIT_FAILED)
    except (typer.Abort, KeyboardInterrupt):
        code = EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001  # a traceback helps nobody at a terminal
        code = _complain(f"{type(error).__name__}: {error}", EXIT_FAILED)
    sys.exit(code)


def _tell_version(asked: bool) -> None:  # noqa: FBT001  # typer's own form
    if asked:
        from ecocore import __version__

        typer.echo(f"ecocore {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def ecocore(
    context: typer.Context,
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A Rust-accelerated runtime for chat models, with an OpenAI-compatible server."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default="8000")] = None,
    model: Model = None,
    mmproj: Mmproj = None,
    precision: Precision = None,
    device: Device = None,
    kv_cache_mb: KvCache = None,
    generation_config: Annotated[
        str | None,
        typer.Option(metavar="model", help="model: requests that say nothing draw as the model's generation_config.json says."),
    ] = None,
    tensor_parallel: TensorParallel = None,
    max_sequences: Annotated[
        int | None, typer.Option(help="Answers of a model that are computed at once, as its memory allows.", show_default="256")
    ] = None,
    max_waiting: Annotated[
        int | None, typer.Option(help="Answers of a model that may wait; more are refused with 503.", show_default="256")
    ] = None,
    max_waiting_per_key: Annotated[
        int | None, typer.Option(help="Those of one key that may wait; more are refused with 429.", show_default="64")
    ] = None,
    mock_rate: Annotated[
        float | None,
        typer.Option(help="Tokens per second of a mock engine's streams; 0 is full speed.", show_default="0"),
    ] = None,
    billing: Annotated[
        str | None,
        typer.Option(
            metavar="off|prepaid", help="prepaid: answers are paid for from the balance of the key's account.", show_default="off"
        ),
    ] = None,
    database: Database = None,
    redis: Annotated[str | None, typer.Option(help="Count the limits of keys here, together with other servers.")] = None,
    allow_image_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Images may come from here, also without https; may be given several times."),
    ] = None,
    no_remote_images: Annotated[bool | None, typer.Option("--no-remote-images", help="Fetch no images; data URLs only.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Show /metrics on this port, and not on the other.")] = None,
    isolate: Annotated[
        bool | None, typer.Option("--isolate", help="Run each engine in a process of its own, started again if lost.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="warning|info", help="info writes a line for each request.", show_default="warning")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Serve models over HTTP: the embedded one, and those of --model beside it.

    The first start makes a key and prints it with a curl line. Every option is also a variable ECOCORE_... and a key of
    the TOML file; what counts in the end, and from where, tells `ecocore config` with the same options.
    """
    flags = dict(locals())

    from ecocore.config import RuntimeConfig, ServerConfig

    server, runtime = ServerConfig.read(flags), RuntimeConfig.read(flags)
    secrets = server.secrets

    from ecocore.prompt.images.loader import ImageLoader
    from ecocore.server import serve as serving
    from ecocore.server.tidy import share_one_pool

    share_one_pool()
    with ExitStack() as stack:
        images = ImageLoader(allowed_origins=server.allow_image_origin, remote=not server.no_remote_images)
        stack.callback(images.close)
        # What can be refused at once is, before seconds go into loading.
        listening = stack.enter_context(serving.bind(server.host, server.port))
        metrics = None
        if server.metrics_port is not None:
            metrics = stack.enter_context(serving.bind(server.host, server.metrics_port))
        _check_database(server.database_url)
        elsewhere = _elsewhere(server)
        regions = [
            _isolated(choice, runtime, server, stack) if server.isolate else _in_this_process(choice, runtime, images, stack)
            for choice in _choices(runtime)
        ]
        serving.serve(
            regions,
            server.database_url,
            listening,
            _welcome,
            metrics=metrics,
            prepaid=server.billing == "prepaid",
            spools=server.spools,
            redis_url=server.redis,
            elsewhere=elsewhere,
            log_level=server.log_level,
            secrets=secrets,
        )


def _with_options_of(verb: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a verb that takes what another one takes: its `**flags` are the other's options, all of them, always."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]
        parameters = [*inspect.signature(verb).parameters.values(), *own]
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        function.__annotations__ = {one.name: one.annotation for one in parameters}
        return function

    return decorate


@app.command("config")
@_with_options_of(serve)
def show_config(*, as_json: Json = False, **flags: Any) -> None:
    """Print each setting as `serve` with the same options would have it, and where it came from. Secrets are hidden."""
    from ecocore.config import ServerConfig, settings

    told = settings(flags)
    if as_json:
        print_json({one.name: {"value": one.value, "source": one.source} for one in told})
    else:
        print_table([("setting", "value", "source"), *((one.name, spelled(one.value), one.source) for one in told)])
    # Serving would fail for the key of a region that is not there.
    _ = ServerConfig.read(flags).secrets


@app.command()
def show(path: ModelPath, *, mmproj: MmprojPath = None, as_json: Json = False) -> None:
    """Print what a model's files say of it. No weight is read."""
    from dataclasses import asdict

    from ecocore.describing import describe

    card = asdict(describe(path, mmproj))
    if as_json:
        print_json(card)
        return
    listed = {
        name: ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value) for name, value in card.items()
    }
    print_table([(name.replace("_", " "), value) for name, value in listed.items()])


@app.command()
def fit(
    path: ModelPath,
    *,
    mmproj: MmprojPath = None,
    precision: Precision = None,
    device: Device = None,
    kv_cache_mb: KvCache = None,
    as_json: Json = False,
) -> None:
    """Print what memory a model needs, before it is loaded."""
    from dataclasses import asdict

    from ecocore.config import RuntimeConfig
    from ecocore.describing import describe, need

    config = RuntimeConfig.read({"precision": precision, "device": device, "kv_cache_mb": kv_cache_mb})
    card = describe(path, mmproj)
    told = need(card, precision=config.precision, kv_cache_mb=config.kv_cache_mb, device=config.device)
    if as_json:
        print_json(asdict(told) | {"peak": told.peak})
        return
    print_table(
        [
            ("weights", _mebibytes(told.weights)),
            ("beside them while loading", _mebibytes(told.loading)),
            ("key-value cache", f"{_mebibytes(told.cache)}, which holds {told.cached_tokens} tokens"),
            ("in all, at most", _mebibytes(told.peak)),
            ("a cache for the whole context", _mebibytes(told.full_context)),
        ]
    )


def _mebibytes(count: int) -> str:
    return f"{-(-count // 2**20):,} MiB"


@app.command(hidden=True)
def engine(
    settings: Annotated[str, typer.Argument(help="JSON of the model and of how to run it.")],
    *,
    socket: Annotated[Path, typer.Option(help="Where to listen.")],
) -> None:
    """One engine in a process of its own. `serve --isolate` starts it, and ends it with itself."""
    from ecocore.regions.parent import Parent

    parent = Parent.adopt(socket)

    from ecocore.config import ModelChoice, RuntimeConfig
    from ecocore.prompt.images.loader import ImageLoader
    from ecocore.regions.contract import spelled
    from ecocore.server.engine import serve_engine
    from ecocore.server.tidy import share_one_pool

    share_one_pool()
    told = json.loads(settings)
    server = told["server"]
    # All of it, so that nothing is left to be read from the environment: whose settings count, the server has judged.
    config = RuntimeConfig(**told["runtime"], model=(), mmproj=())
    places = told["model"] and {key: told["model"][key] and Path(told["model"][key]) for key in ("path", "mmproj")}
    choice = told["model"] and ModelChoice(told["model"]["name"], **places)
    with ExitStack() as stack:
        try:
            images = ImageLoader(allowed_origins=server["allow_image_origin"], remote=not server["no_remote_images"])
            region = _in_this_process(choice, config, images, stack)
        except EcocoreError as error:
            # The server says it, in the way that it says everything.
            parent.tell({"failed": spelled(error)})
            raise typer.Exit(EXIT_FAILED) from None
        serve_engine(region, socket, parent.tell, log_level=server["log_level"])


@app.command(hidden=True)
def rank(
    share: Annotated[str, typer.Argument(help="JSON of what to load.")],
    *,
    meeting: Annotated[Path, typer.Option(help="Where the ranks meet.")],
) -> int:
    """One of the processes that share a model. Whoever loads the model starts it, and ends it with itself."""
    from ecocore.worker import Share, work

    return work(Share.of(json.loads(share)), meeting)


@app.command()
def bench(
    url: Annotated[str, typer.Argument(help="The server, as in http://HOST:PORT.")] = "http://127.0.0.1:8000",
    *,
    model: Annotated[str | None, typer.Option(help="Which model to ask.", show_default="the first that it lists")] = None,
    key: Annotated[str | None, typer.Option(help="The API key.", show_default="ECOCORE_API_KEY")] = None,
    streams: Annotated[str, typer.Option(help="How many at a time, one level after another.")] = "1,8,64,256",
    requests: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="So many for each level, in place of --seconds.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, metavar="SECONDS", help="So long for each level.", show_default="10")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Length of the made prompts.")] = 128,
    prompt: Annotated[str | None, typer.Option(help="Ask this, behind a number that differs each time.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Length of the answers.")] = 128,
    against: Annotated[str | None, typer.Option(help="A second server to measure in turns with the first.")] = None,
    against_model: Annotated[str | None, typer.Option(help="Its model.")] = None,
    against_key: Annotated[str | None, typer.Option(help="Its key; the first one's is not sent to it.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of each level.", show_default="1, with --against 3")
    ] = None,
    json_to: Annotated[str | None, typer.Option("--json", help="Write the figures to this file.")] = None,
    report: Annotated[str | None, typer.Option(help="Write a page with plots to this file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    seed: Annotated[int, typer.Option(help="Other prompts with another seed.")] = 1,
) -> int:
    """Measure a server that speaks the OpenAI chat API, or two side by side. Ctrl-C keeps what was measured."""
    from pathlib import Path

    from ecocore.bench.live import View
    from ecocore.bench.plan import Plan
    from ecocore.bench.run import Server, levels
    from ecocore.bench.run import bench as measure
    from ecocore.config import ClientConfig

    if requests is not None and seconds is not None:
        raise InvalidConfiguration("requests: a level ends by --requests or by --seconds, not by both")
    if against is None and (against_model is not None or against_key is not None):
        raise InvalidConfiguration("against: there is a model or a key for a second server, but no URL of it")
    servers = [Server(url, ClientConfig.read({"api_key": key}).api_key, model)]
    if against is not None:
        servers.append(Server(against, against_key, against_model))
    plan = Plan(
        levels=levels(streams),
        max_tokens=max_tokens,
        count=requests,
        seconds=(seconds or BENCH_SECONDS) if requests is None else None,
        rounds=rounds or (1 if against is None else BENCH_ROUNDS),
        seed=seed,
        prompt_tokens=prompt_tokens,
        prompt=prompt,
    )
    outputs = [None if path is None else Path(path) for path in (json_to, report)]
    return measure(servers, plan, json_to=outputs[0], report_to=outputs[1], view=View(quiet=quiet))


@app.command()
def chat(
    text: Annotated[str | None, typer.Argument(help="What to say; without it, a conversation or what is piped in.")] = None,
    *,
    model: Annotated[str | None, typer.Option(help="NAME=PATH, PATH or NAME=mock.", show_default="the embedded one")] = None,
    system: Annotated[str | None, typer.Option(help="Instructions that come before everything.")] = None,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, metavar="X", help="0 always takes the likeliest token.")
    ] = CHAT_TEMPERATURE,
    top_p: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="X", help="Draw from the likeliest tokens that have this share.", show_default="1"),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most so many tokens in one answer.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    precision: Precision = None,
    device: Device = None,
    kv_cache_mb: KvCache = None,
    tensor_parallel: TensorParallel = None,
) -> None:
    """Talk with a model on the terminal, without a server. Ctrl-C stops an answer, Ctrl-D or /exit leaves."""
    from ecocore.config import RuntimeConfig
    from ecocore.conversation import Conversation

    flags = {
        "model": model and [model],
        "precision": precision,
        "device": device,
        "kv_cache_mb": kv_cache_mb,
        "tensor_parallel": tensor_parallel,
    }
    config = RuntimeConfig.read(flags)
    if text is None and not sys.stdin.isatty():
        text = sys.stdin.read().strip()
        if not text:
            raise InvalidConfiguration("text: nothing was piped in")
    given = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "seed": seed}
    params = {name: value for name, value in given.items() if value is not None}
    turns = [{"role": "system", "content": system}] if system else []
    models = config.models()
    with _load(models[0] if models else None, config) as runtime:
        conversation = Conversation(runtime, turns, params)
        if text is None:
            conversation.go_on(complain=lambda error: _complain(str(error), EXIT_USAGE))
        else:
            conversation.say(text)


def _choices(config: "RuntimeConfig") -> Sequence["ModelChoice | None"]:
    """What to load: the embedded model (None) first, unless one is given in its place or its file is not there."""
    from ecocore.errors import InvalidModelFile
    from ecocore.weights.embedded import EMBEDDED_MODEL_ID, embedded_model_path

    given = config.models()
    if EMBEDDED_MODEL_ID in {choice.name for choice in given}:
        return given
    try:
        embedded_model_path()
    except InvalidModelFile as error:
        if not given:
            raise
        typer.echo(f"serving without the embedded model: {error}", err=True)
        return given
    return (None, *given)


def _load(choice: "ModelChoice | None", config: "RuntimeConfig") -> "Runtime":
    from ecocore.capacity import Capacity
    from ecocore.runtime import Runtime

    capacity = Capacity(config.max_sequences, config.max_waiting, config.max_waiting_per_key)
    if choice is not None and choice.path is None:
        return Runtime.mock(choice.name, tokens_per_second=config.mock_rate, capacity=capacity)
    path, mmproj, name = (None, None, None) if choice is None else (choice.path, choice.mmproj, choice.name)
    return Runtime.load(
        path,
        mmproj=mmproj,
        device=config.device,
        precision=config.precision,
        kv_cache_mb=config.kv_cache_mb,
        generation_config=config.generation_config,
        # The embedded model is too small to gain from it, and the numbers of its heads are odd.
        tensor_parallel=1 if choice is None else config.tensor_parallel,
        capacity=capacity,
        model_id=name,
    )


def _in_this_process(choice: "ModelChoice | None", config: "RuntimeConfig", images: "ImageLoader", stack: ExitStack) -> "Region":
    from ecocore.regions.local import LocalRegion

    region = LocalRegion(stack.enter_context(_load(choice, config)), images)
    stack.callback(region.close)
    return region


def _elsewhere(server: "ServerConfig") -> list[tuple[int, "Region"]]:
    """A region for each model of each server that the settings name."""
    from ecocore.regions.remote import RemoteRegion

    return [
        (
            settings.priority,
            RemoteRegion(
                settings.name,
                settings.url,
                model.name,
                model_there=model.name_there,
                api_key=None if settings.api_key is None else settings.api_key.get_secret_value(),
                context_length=settings.context_length,
            ),
        )
        for settings in server.regions
        for model in settings.models
    ]


def _isolated(choice: "ModelChoice | None", config: "RuntimeConfig", server: "ServerConfig", stack: ExitStack) -> "Region":
    from ecocore.regions.child import ChildRegion
    from ecocore.weights.embedded import EMBEDDED_MODEL_ID

    settings = {
        "model": choice
        and {
            "name": choice.name,
            "path": choice.path and str(choice.path),
            "mmproj": choice.mmproj and str(choice.mmproj),
        },
        "runtime": config.model_dump(mode="json", exclude={"model", "mmproj"}),
        "server": server.model_dump(mode="json", include={"allow_image_origin", "no_remote_images", "log_level"}),
    }
    # -P: what lies in the folder that the server was started in is not for importing.
    command = [sys.executable, "-P", "-m", "ecocore", "engine", json.dumps(settings)]
    region = ChildRegion.start(choice.name if choice else EMBEDDED_MODEL_ID, command)
    stack.callback(region.close)
    return region


def _check_database(url: str) -> None:
    import asyncio

    from ecocore.accounts.database import Database

    async def check() -> None:
        await (await Database.open(url)).close()

    asyncio.run(check())


def _welcome(welcome: "Welcome") -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    console.print(Text("ecocore answers at ").append(f"{welcome.url}/v1", style="bold green"))
    console.print(Text("models: " + ", ".join(welcome.models)))
    if welcome.metrics_url is not None:
        console.print(Text(f"metrics: {welcome.metrics_url}"))
    if welcome.unpriced:
        console.print(Text("answers are paid for, and these models have no price yet: " + ", ".join(welcome.unpriced)))
        console.print(Text(f"set one: ecocore prices set {shlex.quote(welcome.unpriced[0])} --input USD --output USD"))
        console.print(Text("give credit: ecocore accounts credit default USD"))
    if welcome.first_key is None:
        console.print(Text("one more key: ecocore keys create --name NAME", style="dim"))
        return
    body = {
        "model": welcome.models[0],
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
    }
    curl = [
        "curl",
        f"{welcome.url}/v1/chat/completions",
        *("-H", f"Authorization: Bearer {welcome.first_key}"),
        *("-H", "Content-Type: application/json"),
        *("-d", json.dumps(body, ensure_ascii=False)),
    ]
    console.print(Text("\nYour first API key, shown this once:\n").append(welcome.first_key, style="bold"))
    console.print(Text("\nTry it:\n" + shlex.join(curl) + "\n"))


# How typer, by way of pydantic, calls what is wrong with an option, and how people do.
_PLAIN: Final = {
    "Input should be a valid integer, unable to parse string as an integer": "must be a whole number",
    "Input should be a valid number, unable to parse string as a number": "must be a number",
    "Input should be greater than or equal to": "must be at least",
    "Input should be less than or equal to": "must be at most",
}


def _words(error: Exception) -> str:
    # Its longer form names the option that is at fault, or those that may have been meant.
    words = error.format_message() if isinstance(error, typer.TyperException) else str(error)
    for theirs, ours in _PLAIN.items():
        words = words.replace(theirs, ours)
    return words


def _complain(message: str, code: int) -> int:
    """One red line on standard error."""
    from rich.console import Console
    from rich.text import Text

    line = redacted(" ".join(message.split()))
    Console(stderr=True, soft_wrap=True).print(Text(f"ecocore: {line}", style="red"))
    return code
