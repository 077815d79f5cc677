"""The verbs of administration: keys, accounts, prices, regions. Each opens the database, does one thing and tells it.

What they change holds at once in a running server. What they need is imported when they run.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from ecocore.errors import EcocoreError, InvalidConfiguration

if TYPE_CHECKING:
    from ecocore.accounts.books import Account, Entry
    from ecocore.accounts.database import Database as OpenDatabase
    from ecocore.accounts.keys import StoredKey
    from ecocore.config import RegionSettings

Result = TypeVar("Result")

PROBE_SECONDS: Final = 3
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

ConfigFile = Annotated[Path | None, typer.Option(help="A TOML file with settings.", show_default="ECOCORE_CONFIG")]
Database = Annotated[str | None, typer.Option(help="Where accounts and keys are kept.", show_default="a file in ECOCORE_HOME")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
KeyName = Annotated[str, typer.Argument(help="Its name or id.")]
KeyLimit = Annotated[str | None, typer.Option(metavar="N|none", help="Unless given, it stays.")]
ExpiresIn = Annotated[str | None, typer.Option(help="Refuse it after this time: 90m, 12h, 30d, 4w.")]
ExpiresAt = Annotated[str | None, typer.Option(help="Refuse it from this date on: 2030-01-31, 2030-01-31T12:00 (UTC).")]


def _verbs(what: str) -> typer.Typer:
    return typer.Typer(rich_markup_mode=None, no_args_is_help=True, help=what)


keys_app = _verbs("Make API keys, list them, end them.")
accounts_app = _verbs("Accounts: whose keys are paid for from which balance.")
prices_app = _verbs("What the tokens of a model cost.")
regions_app = _verbs("Where the answers of a model may come from.")

database_app = _verbs("Where accounts and keys are kept.")

ADMINISTRATION: Final = {
    "keys": keys_app,
    "accounts": accounts_app,
    "prices": prices_app,
    "regions": regions_app,
    "database": database_app,
}


# --- keys -----------------------------------------------------------------------------------------------


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    *,
    account: Annotated[str, typer.Option(help="Whose it is.")] = "default",
    requests_per_minute: Annotated[int | None, typer.Option(help="More are refused with 429.", show_default="no limit")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="More are refused with 429.", show_default="no limit")] = None,
    concurrency: Annotated[
        int | None, typer.Option(help="Answers at a time; more are refused with 429.", show_default="no limit")
    ] = None,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Make a key and print it: it is shown this once. A running server takes it at once."""
    from ecocore.accounts.keys import KeyLimits, KeyStore

    limits = KeyLimits(requests_per_minute, tokens_per_minute, concurrency)
    expires = _expiry(expires_in, expires_at)

    async def create(opened: "OpenDatabase") -> str:
        return await KeyStore(opened).create(name, account, limits=limits, expires=expires)

    _tell_key(_with_database(create, database, config, make=True), as_json=as_json)


@keys_app.command("list")
def list_keys(*, as_json: Json = False, database: Database = None, config: ConfigFile = None) -> None:
    """Print all keys, those that have ended too; of each only how it begins."""
    import time

    from ecocore.accounts.keys import KeyStore

    now = time.time()
    found = _with_database(lambda opened: KeyStore(opened).all(), database, config)
    _tell([_key_row(key, now) for key in found], as_json=as_json)


@keys_app.command("revoke")
def revoke_key(key: KeyName, *, as_json: Json = False, database: Database = None, config: ConfigFile = None) -> None:
    """End a key at once: a running server refuses it from the next request on."""
    import time

    from ecocore.accounts.keys import KeyStore

    revoked = _with_database(lambda opened: KeyStore(opened).revoke(key), database, config)
    _tell([_key_row(revoked, time.time())], as_json=as_json, one=True)


@keys_app.command("rotate")
def rotate_key(
    key: KeyName,
    *,
    keep_old_for: Annotated[str | None, typer.Option(help="Let the old key live so long: 90m, 1h, 1d.")] = None,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Make a new key with the name, account and limits of another, and print it. The old one ends, at once unless told."""
    from ecocore.accounts.keys import KeyStore

    keep_seconds = 0 if keep_old_for is None else _duration("keep-old-for", keep_old_for)
    expires = _expiry(expires_in, expires_at)

    async def rotate(opened: "OpenDatabase") -> str:
        return await KeyStore(opened).rotate(key, keep_seconds=keep_seconds, expires=expires)

    _tell_key(_with_database(rotate, database, config), as_json=as_json)


@keys_app.command("limit")
def limit_key(
    key: KeyName,
    *,
    requests_per_minute: KeyLimit = None,
    tokens_per_minute: KeyLimit = None,
    concurrency: KeyLimit = None,
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Change limits of a key at once: a running server goes by them from the next request on. `none` takes one away."""
    import time

    from ecocore.accounts.keys import KeyStore

    given = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "concurrency": concurrency,
    }
    changes = {name: _limit(name, text) for name, text in given.items() if text is not None}
    if not changes:
        raise InvalidConfiguration("limit: say which: --requests-per-minute, --tokens-per-minute or --concurrency")
    limited = _with_database(lambda opened: KeyStore(opened).limit(key, changes), database, config)
    _tell([_key_row(limited, time.time())], as_json=as_json, one=True)


def _limit(name: str, text: str) -> int | None:
    if text == "none":
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text):
        raise InvalidConfiguration(f"{name}: must be a whole number or none, not {text[:40]!r}")
    return int(text)


def _tell_key(key: str, *, as_json: bool) -> None:
    """The one place that prints a key: alone on its line, so that scripts can take it."""
    from ecocore.accounts.keys import id_of

    if as_json:
        print_json({"key": key, "id": id_of(key)})
    else:
        typer.echo(key)


def _key_row(key: "StoredKey", now: float) -> dict[str, Any]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "account": key.account,
        "state": key.state(now),
        "created": _moment(key.created),
        "expires": _moment(key.expires),
        "revoked": _moment(key.revoked),
        "requests_per_minute": key.limits.requests_per_minute,
        "tokens_per_minute": key.limits.tokens_per_minute,
        "concurrency": key.limits.concurrency,
    }


# --- accounts and prices --------------------------------------------------------------------------------


@accounts_app.command("create")
def create_account(
    name: Annotated[str, typer.Argument(help="Of its own among the accounts.")],
    *,
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Make an account with balance 0."""
    from ecocore.accounts.books import Books

    async def create(opened: "OpenDatabase") -> "Account":
        books = Books(opened)
        await books.create_account(name)
        return next(account for account in await books.accounts() if account.name == name)

    _tell([_account_row(_with_database(create, database, config, make=True))], as_json=as_json, one=True)


@accounts_app.command("credit", context_settings={"ignore_unknown_options": True})
def credit_account(
    name: Annotated[str, typer.Argument(help="Of the account.")],
    usd: Annotated[str, typer.Argument(help="Dollars, as in 12.50; with a minus they are taken back.")],
    *,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again, with the same amount, adds nothing more.")
    ] = None,
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Add money to an account, exactly, and print what it has then."""
    from ecocore.accounts.books import Books
    from ecocore.accounts.money import parse_usd

    nanos = parse_usd(usd)
    account = _with_database(lambda opened: Books(opened).credit(name, nanos, idempotency_key), database, config)
    _tell([_account_row(account)], as_json=as_json, one=True)


@accounts_app.command("list")
def list_accounts(*, as_json: Json = False, database: Database = None, config: ConfigFile = None) -> None:
    """Print all accounts with their money in dollars. `available` is `balance` without what running answers may cost."""
    from ecocore.accounts.books import Books

    found = _with_database(lambda opened: Books(opened).accounts(), database, config)
    _tell([_account_row(account) for account in found], as_json=as_json)


@accounts_app.command("ledger")
def show_ledger(
    name: Annotated[str, typer.Argument(help="Of the account.")],
    *,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, metavar="N", help="So many rows, the last ones.")] = 50,
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Print what was added to an account and taken from it, the newest last."""
    from ecocore.accounts.books import Books

    found = _with_database(lambda opened: Books(opened).entries(name, limit), database, config)
    _tell([_entry_row(entry) for entry in found], as_json=as_json)


@accounts_app.command("check")
def check_accounts(*, as_json: Json = False, database: Database = None, config: ConfigFile = None) -> int:
    """Add everything up: each balance is its ledger's sum, what is reserved its holds'. Exit code 1 if anything is wrong."""
    from ecocore.accounts.books import Books

    wrong = _with_database(lambda opened: Books(opened).check(), database, config)
    if as_json:
        print_json({"wrong": wrong})
    else:
        typer.echo("\n".join(wrong) or "all sums are right")
    return 1 if wrong else 0


def _account_row(account: "Account") -> dict[str, Any]:
    from ecocore.accounts.money import spell_usd

    return {
        "name": account.name,
        "balance": spell_usd(account.balance),
        "reserved": spell_usd(account.reserved),
        "available": spell_usd(account.available),
        "created": _moment(account.created),
    }


def _entry_row(entry: "Entry") -> dict[str, Any]:
    from ecocore.accounts.money import spell_usd

    return {
        "id": entry.id,
        "created": _moment(entry.created),
        "kind": entry.kind,
        "amount": spell_usd(entry.amount),
        "model": entry.model,
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.completion_tokens,
        "request_id": entry.request_id,
    }


@prices_app.command("set")
def set_price(
    model: Annotated[str, typer.Argument(help="As requests name it.")],
    *,
    input_usd: Annotated[str, typer.Option("--input", help="Dollars for a million tokens of prompts, as in 0.15.")],
    output_usd: Annotated[str, typer.Option("--output", help="Dollars for a million tokens of answers.")],
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Set the price of a model, from the next request on."""
    from ecocore.accounts.books import Books

    prices = _dollars("input", input_usd), _dollars("output", output_usd)

    async def put(opened: "OpenDatabase") -> list[dict[str, Any]]:
        books = Books(opened)
        await books.set_price(model, *prices)
        return [row for row in await _price_rows(books) if row["model"] == model]

    _tell(_with_database(put, database, config, make=True), as_json=as_json, one=True)


@prices_app.command("remove")
def remove_price(
    model: Annotated[str, typer.Argument(help="As requests name it.")],
    *,
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Take the price of a model away and print those that are left: under --billing prepaid it gets a 402 from then on."""
    from ecocore.accounts.books import Books

    async def remove(opened: "OpenDatabase") -> list[dict[str, Any]]:
        books = Books(opened)
        await books.remove_price(model)
        return await _price_rows(books)

    _tell(_with_database(remove, database, config), as_json=as_json)


@prices_app.command("list")
def list_prices(*, as_json: Json = False, database: Database = None, config: ConfigFile = None) -> None:
    """Print the prices in force, in dollars for a million tokens."""
    from ecocore.accounts.books import Books

    _tell(_with_database(lambda opened: _price_rows(Books(opened)), database, config), as_json=as_json)


async def _price_rows(books: Any) -> list[dict[str, Any]]:
    from ecocore.accounts.money import spell_usd

    return [
        {"model": price.model, "input": spell_usd(price.input), "output": spell_usd(price.output), "version": price.id}
        for price in await books.prices()
    ]


def _dollars(name: str, text: str) -> int:
    from ecocore.accounts.money import parse_usd

    try:
        return parse_usd(text)
    except InvalidConfiguration as error:
        raise InvalidConfiguration(f"{name}: {str(error).partition(': ')[2]}") from None


# --- the database ---------------------------------------------------------------------------------------


@database_app.command("copy")
def copy_database(
    target: Annotated[str, typer.Argument(help="URL of an empty database, or of a file of SQLite that is not there yet.")],
    *,
    as_json: Json = False,
    database: Database = None,
    config: ConfigFile = None,
) -> None:
    """Copy everything as it is at this moment: for a backup, or to go from SQLite to PostgreSQL and back."""
    from ecocore.accounts.books import Books
    from ecocore.accounts.copy import copy
    from ecocore.accounts.database import Database

    async def run(source: "OpenDatabase") -> tuple[dict[str, int], list[str]]:
        opened = await Database.open(target)
        try:
            return await copy(source, opened), await Books(opened).check()
        finally:
            await opened.close()

    copied, wrong = _with_database(run, database, config)
    _tell([{"table": name, "rows": rows} for name, rows in copied.items()], as_json=as_json)
    if wrong:
        raise EcocoreError("; ".join(wrong))


# --- regions --------------------------------------------------------------------------------------------


@regions_app.command("list")
def list_regions(*, as_json: Json = False, config: ConfigFile = None) -> int:
    """Print the regions of the settings, the first to be asked first. Exit code 1 if any does not answer now."""
    import asyncio

    from ecocore.config import ServerConfig

    regions = sorted(ServerConfig.read({"config": config}).regions, key=lambda region: region.priority)
    problems = asyncio.run(_ask(regions))
    rows = [
        {
            "name": region.name,
            "url": region.url,
            "models": [str(model) for model in region.models],
            "priority": region.priority,
            "answers": problem is None,
            "problem": problem,
        }
        for region, problem in zip(regions, problems, strict=True)
    ]
    if rows or as_json:
        _tell(rows, as_json=as_json)
    else:
        typer.echo("no regions are set up; they are [[regions]] tables of the file that --config names")
    return 1 if any(problems) else 0


async def _ask(regions: Sequence["RegionSettings"]) -> list[str | None]:
    """Of each why it does not answer, or None."""
    import asyncio

    import aiohttp

    async def ask(session: aiohttp.ClientSession, region: "RegionSettings") -> str | None:
        path = "/models" if region.url.endswith("/v1") else "/v1/models"
        try:
            headers = {} if region.api_key is None else {"Authorization": f"Bearer {region.api_key.get_secret_value()}"}
            async with session.get(region.url + path, headers=headers, allow_redirects=False) as answer:
                return None if answer.status == HTTPStatus.OK else f"{path} answers {answer.status}"
        except InvalidConfiguration as error:
            return str(error).partition(": ")[2]
        except TimeoutError:
            return f"no answer within {PROBE_SECONDS} s"
        except aiohttp.ClientConnectionError:
            return "no connection"
        except aiohttp.ClientError:
            return "what answers there does not speak HTTP"

    timeout = aiohttp.ClientTimeout(total=PROBE_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        return await asyncio.gather(*(ask(session, region) for region in regions))


# --- reading and printing -------------------------------------------------------------------------------


def _with_database(
    work: Callable[["OpenDatabase"], Awaitable[Result]], database: str | None, config: Path | None, *, make: bool = False
) -> Result:
    """What `work` gives, on the database that a server with these settings would use.

    `make`: whether the verb may be the first thing that is ever done, and so make a file of SQLite. To the others, one that
    is not there is a mistyped path.
    """
    import asyncio

    from ecocore.accounts.database import Database
    from ecocore.config import ServerConfig

    url = ServerConfig.read({"database": database, "config": config}).database_url

    async def run() -> Result:
        opened = await Database.open(url, must_exist=not make)
        try:
            return await work(opened)
        finally:
            await opened.close()

    try:
        return asyncio.run(run())
    except UnicodeEncodeError:
        raise InvalidConfiguration("a name holds bytes that are no text in UTF-8") from None


def _duration(name: str, text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if match is None or int(match[1]) == 0:
        raise InvalidConfiguration(f"{name}: {text[:40]!r} is no time; write a number and s, m, h, d or w, as in 30d")
    return int(match[1]) * SECONDS[match[2]]


def _expiry(expires_in: str | None, expires_at: str | None) -> int | None:
    """Seconds since 1970, or None where nothing was said."""
    import time

    if expires_in is not None and expires_at is not None:
        raise InvalidConfiguration("expires-in: there may be --expires-in or --expires-at, not both")
    if expires_in is not None:
        return int(time.time()) + _duration("expires-in", expires_in)
    if expires_at is None:
        return None
    try:
        moment = datetime.fromisoformat(expires_at)
    except ValueError:
        raise InvalidConfiguration(f"expires-at: {expires_at[:40]!r} is no date; write 2030-01-31") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def _moment(seconds: int | None) -> str | None:
    """ISO 8601, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _tell(rows: Sequence[Mapping[str, Any]], *, as_json: bool, one: bool = False) -> None:
    """Rows with the same fields: for people a table, for programs a list, or the `one` that there is."""
    if as_json:
        print_json(rows[0] if one else rows)
    elif rows:
        print_table([list(rows[0]), *([spelled(value) for value in row.values()] for row in rows)])


def spelled(value: Any) -> str:
    """A value as it stands in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(spelled(one) for one in value) or "-"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={spelled(one)}" for name, one in value.items())
    return str(value)


def print_json(document: Any) -> None:
    """One document on standard output."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns, the first row above them; nothing else, so that programs for columns can read it too."""
    lines = [["".join(sign if sign.isprintable() else "?" for sign in cell) for cell in row] for row in rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    for line in lines:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
