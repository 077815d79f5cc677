"""The verbs of administration, as a person types them, beside a server that runs."""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.live_server import MODEL, Live, live, serving
from typer.testing import CliRunner

from ecocore import admin
from ecocore.accounts.database import Database
from ecocore.accounts.keys import id_of, is_well_formed
from ecocore.cli import app
from ecocore.errors import InvalidConfiguration

__all__ = ["live"]

Verb = Callable[..., str]

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


@pytest.fixture
def ecocore(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verb:
    """What a verb prints, on a database of the test's own. Raises what the verb raises."""
    monkeypatch.setenv("ECOCORE_HOME", str(tmp_path))
    asyncio.run(make_database(f"sqlite:///{tmp_path / 'ecocore.db'}"))

    def run(*words: str) -> str:
        return CliRunner().invoke(app, list(words), catch_exceptions=False).stdout

    return run


@pytest.fixture
def document(ecocore: Verb) -> Callable[..., Any]:
    """The document that a verb prints with --json."""
    return lambda *words: json.loads(ecocore(*words, "--json"))


async def make_database(url: str) -> None:
    await (await Database.open(url)).close()


def columns(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


# --- where the books are ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "keys list",
        "keys revoke x",
        "keys rotate x",
        "keys limit x --concurrency 1",
        "accounts credit default 5",
        "accounts list",
        "accounts ledger default",
        "accounts check",
        "prices list",
        "prices remove m",
        "database copy sqlite:///{folder}/copy.db",
    ],
)
def test_what_needs_books_makes_none(words: str, ecocore: Verb, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    path = tmp_path / "mistyped.db"
    told = f"no database at {path}; ecocore serve or ecocore keys create makes one"
    with pytest.raises(InvalidConfiguration, match=re.escape(told)):
        ecocore(*words.format(folder=tmp_path).split(), "--database", f"sqlite:///{path}")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("words", ["keys create --name x", "accounts create x", "prices set m --input 1 --output 1"])
def test_what_begins_the_books_makes_a_file_and_no_folder(words: str, ecocore: Verb, tmp_path: Path) -> None:
    ecocore(*words.split(), "--database", f"sqlite:///{tmp_path / 'new.db'}")
    assert (tmp_path / "new.db").is_file()
    with pytest.raises(InvalidConfiguration, match=rf"there is no folder '{tmp_path / 'mistyped'}' .*from --database"):
        ecocore(*words.split(), "--database", f"sqlite:///{tmp_path / 'mistyped' / 'new.db'}")
    assert not (tmp_path / "mistyped").exists()


# --- keys -----------------------------------------------------------------------------------------------


def test_a_key_is_printed_alone_and_never_again(ecocore: Verb) -> None:
    key = ecocore("keys", "create", "--name", "laptop").removesuffix("\n")
    assert is_well_formed(key)
    header, row = columns(ecocore("keys", "list"))
    assert dict(zip(header, row, strict=True))["id"] == id_of(key)
    assert (row[1], key not in " ".join(row)) == (key[:8], True)


def test_a_key_has_what_it_was_made_with(document: Callable[..., Any], ecocore: Verb) -> None:
    ecocore("accounts", "create", "team")
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "9000", "--concurrency", "4"]
    made = document("keys", "create", "--name", "bot", "--account", "team", "--expires-at", "2100-01-31", *limits)
    assert made.keys() == {"key", "id"}
    (listed,) = document("keys", "list")
    assert re.fullmatch(TIME, listed.pop("created"))
    assert listed == {
        "id": made["id"],
        "prefix": made["key"][:8],
        "name": "bot",
        "account": "team",
        "state": "active",
        "expires": "2100-01-31T00:00:00Z",
        "revoked": None,
        "requests_per_minute": 60,
        "tokens_per_minute": 9000,
        "concurrency": 4,
    }


@pytest.mark.parametrize(("spelled", "seconds"), [("45s", 45), ("90m", 5400), ("12h", 43200), ("30d", 2592000), ("4w", 2419200)])
def test_a_time_may_be_spelled_in_any_unit(spelled: str, seconds: int, document: Callable[..., Any]) -> None:
    document("keys", "create", "--name", "bot", "--expires-in", spelled)
    (listed,) = document("keys", "list")
    lives = datetime.fromisoformat(listed["expires"]) - datetime.fromisoformat(listed["created"])
    assert abs(lives.total_seconds() - seconds) <= 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--expires-in", "30"], "expires-in: '30' is no time"),
        (["--expires-in", "0d"], "expires-in"),
        (["--expires-in", "-1d"], "expires-in"),
        (["--expires-in", "9999999w"], "expires-in"),
        (["--expires-at", "soon"], "expires-at: 'soon' is no date"),
        (["--expires-at", "2001-01-31"], "past"),
        (["--expires-at", "2100-01-31", "--expires-in", "1d"], "not both"),
        (["--account", "nobody"], "account: there is none named 'nobody'; ecocore accounts create makes one"),
        (["--concurrency", "0"], "concurrency: must be from 1"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(
    options: list[str], words: str, ecocore: Verb, document: Callable[..., Any]
) -> None:
    with pytest.raises(InvalidConfiguration, match=words):
        ecocore("keys", "create", "--name", "bot", *options)
    assert document("keys", "list") == []


def test_dates_without_a_zone_are_in_utc() -> None:
    expected = int(datetime(2100, 1, 31, 12, tzinfo=UTC).timestamp())
    for spelled in ("2100-01-31T12:00", "2100-01-31 12:00:00", "2100-01-31T12:00Z", "2100-01-31T14:00+02:00"):
        assert admin._expiry(None, spelled) == expected


def test_a_running_server_hears_of_each_change_at_once(tmp_path: Path, document: Callable[..., Any], ecocore: Verb) -> None:
    def status(key: str) -> int:
        with server.http() as http:
            return http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code

    with serving(tmp_path) as server:
        key = ecocore("keys", "create", "--name", "laptop").strip()
        assert status(key) == 200
        rotated = ecocore("keys", "rotate", "laptop").strip()
        assert (status(key), status(rotated)) == (401, 200)
        again = ecocore("keys", "rotate", "laptop", "--keep-old-for", "1h").strip()
        assert (status(rotated), status(again)) == (200, 200)
        with pytest.raises(InvalidConfiguration, match=f"{id_of(rotated)}, {id_of(again)}|{id_of(again)}, {id_of(rotated)}"):
            ecocore("keys", "revoke", "laptop")
        revoked = document("keys", "revoke", id_of(rotated))
        assert (revoked["id"], revoked["state"]) == (id_of(rotated), "revoked")
        assert (status(rotated), status(again), status(server.key)) == (401, 200, 200)


def test_limits_of_a_key_change_in_a_running_server(tmp_path: Path, document: Callable[..., Any], ecocore: Verb) -> None:
    def limit_told() -> str | None:
        with server.http() as http:
            headers: Mapping[str, str] = http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).headers
            return headers.get("x-ratelimit-limit-requests")

    with serving(tmp_path) as server:
        key = ecocore("keys", "create", "--name", "bot", "--tokens-per-minute", "9000").strip()
        assert limit_told() is None
        limited = document("keys", "limit", "bot", "--requests-per-minute", "5", "--tokens-per-minute", "none")
        assert (limited["requests_per_minute"], limited["tokens_per_minute"], limit_told()) == (5, None, "5")
        document("keys", "limit", id_of(key), "--requests-per-minute", "none")
        assert limit_told() is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "limit: say which: --requests-per-minute"),
        (["--concurrency", "many"], "concurrency: must be a whole number or none, not 'many'"),
        (["--concurrency", "0"], "concurrency: must be from 1"),
    ],
)
def test_limits_that_make_no_sense_change_nothing(
    options: list[str], words: str, ecocore: Verb, document: Callable[..., Any]
) -> None:
    ecocore("keys", "create", "--name", "bot", "--concurrency", "4")
    with pytest.raises(InvalidConfiguration, match=words):
        ecocore("keys", "limit", "bot", "--requests-per-minute", "5", *options) if options else ecocore("keys", "limit", "bot")
    (listed,) = document("keys", "list")
    assert (listed["requests_per_minute"], listed["concurrency"]) == (None, 4)


# --- money ----------------------------------------------------------------------------------------------


def test_money_is_exact_to_the_last_digit(ecocore: Verb, document: Callable[..., Any]) -> None:
    assert columns(ecocore("accounts", "create", "team"))[1][:4] == ["team", "0.00", "0.00", "0.00"]
    for amount in ("12.50", "0.000000001", "-2.5"):
        account = document("accounts", "credit", "team", amount)
    assert re.fullmatch(TIME, account.pop("created"))
    assert account == {"name": "team", "balance": "10.000000001", "reserved": "0.00", "available": "10.000000001"}
    assert [row["amount"] for row in document("accounts", "ledger", "team")] == ["12.50", "0.000000001", "-2.50"]
    assert [row["amount"] for row in document("accounts", "ledger", "team", "--limit", "1")] == ["-2.50"]
    assert [row["name"] for row in document("accounts", "list")] == ["default", "team"]
    assert ecocore("accounts", "check") == "all sums are right\n"
    assert document("accounts", "check") == {"wrong": []}


def test_a_credit_is_given_once_for_each_idempotency_key(document: Callable[..., Any]) -> None:
    given = ["accounts", "credit", "default", "5", "--idempotency-key", "invoice-7"]
    assert [document(*given)["balance"] for _ in range(3)] == ["5.00"] * 3


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["accounts", "credit", "default", "0.0000000001"], "more than nine digits"),
        (["accounts", "credit", "default", "1e3"], "no amount of dollars"),
        (["accounts", "credit", "default", "nan"], "no amount of dollars"),
        (["accounts", "credit", "default", "-1"], "available"),
        (["accounts", "credit", "nobody", "1"], "none named 'nobody'"),
        (["accounts", "create", "default"], "already"),
        (["accounts", "create", ""], "name"),
        (["accounts", "create", "\udcff"], "printable text"),
        (["accounts", "create", "a\nb"], "printable text"),
        (["accounts", "ledger", "\udcff"], "no text in UTF-8"),
        (["accounts", "ledger", "nobody"], "none named 'nobody'"),
        (["prices", "set", "m", "--input", "x", "--output", "1"], "^input: 'x' is no amount"),
        (["prices", "set", "m", "--input", "1", "--output", "1e3"], "^output: "),
        (["prices", "set", "m", "--input", "-1", "--output", "1"], "^input: must be from 0"),
        (["prices", "remove", "m"], "^model: 'm' has no price"),
    ],
)
def test_wrong_money_changes_nothing(words: list[str], told: str, ecocore: Verb, document: Callable[..., Any]) -> None:
    with pytest.raises(InvalidConfiguration, match=told):
        ecocore(*words)
    assert [(row["name"], row["balance"]) for row in document("accounts", "list")] == [("default", "0.00")]
    assert document("prices", "list") == []


def test_a_sum_that_is_wrong_is_found(ecocore: Verb, tmp_path: Path) -> None:
    import sqlite3

    ecocore("accounts", "credit", "default", "5")
    with sqlite3.connect(tmp_path / "ecocore.db") as connection:
        connection.execute("UPDATE accounts SET balance = balance + 1")
    connection.close()
    ended = CliRunner().invoke(app, ["accounts", "check"], standalone_mode=False)
    assert ended.return_value == 1
    assert ended.stdout == "default: the balance is 5.000000001, its ledger's sum 5.00\n"


def test_the_last_price_is_in_force(ecocore: Verb, document: Callable[..., Any]) -> None:
    ecocore("prices", "set", "m", "--input", "1", "--output", "2")
    ecocore("prices", "set", "n", "--input", "0", "--output", "0")
    assert document("prices", "set", "m", "--input", "0.15", "--output", "0.6") == {
        "model": "m",
        "input": "0.15",
        "output": "0.60",
        "version": 3,
    }
    assert columns(ecocore("prices", "list")) == [
        ["model", "input", "output", "version"],
        ["m", "0.15", "0.60", "3"],
        ["n", "0.00", "0.00", "2"],
    ]
    assert [row["model"] for row in document("prices", "remove", "m")] == ["n"]


# --- regions and settings -------------------------------------------------------------------------------


def test_regions_tell_whether_they_answer(live: Live, tmp_path: Path, ecocore: Verb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_KEY", live.key)
    monkeypatch.setenv("WRONG_KEY", "eco_wrong")
    file = tmp_path / "ecocore.toml"
    tables = [
        ("gone", "http://127.0.0.1:1/v1", 'api_key_env = "LIVE_KEY"'),
        ("here", f"{live.url}/v1", 'priority = 0\napi_key_env = "LIVE_KEY"'),
        ("closed", live.url, 'priority = 5\napi_key_env = "WRONG_KEY"'),
        ("unset", live.url, 'priority = 5\napi_key_env = "NO_SUCH_KEY"'),
    ]
    file.write_text("\n".join(f'[[regions]]\nname = "{n}"\nurl = "{u}"\nmodels = ["{MODEL}"]\n{more}' for n, u, more in tables))
    told = ecocore("regions", "list", "--config", str(file), "--json")
    assert [(row["name"], row["priority"], row["answers"], row["problem"]) for row in json.loads(told)] == [
        ("gone", 0, False, "no connection"),
        ("here", 0, True, None),
        ("closed", 5, False, "/v1/models answers 401"),
        ("unset", 5, False, "api_key_env of 'unset' names the variable NO_SUCH_KEY, which is not set"),
    ]
    assert live.key not in told
    header, first, *_ = columns(ecocore("regions", "list", "--config", str(file)))
    assert dict(zip(header[:5], first, strict=False)) == {
        "name": "gone",
        "url": "http://127.0.0.1:1/v1",
        "models": MODEL,
        "priority": "0",
        "answers": "no",
    }


def test_regions_that_do_not_answer_are_exit_code_1(live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_KEY", live.key)
    file = tmp_path / "ecocore.toml"
    for url, code in {live.url: 0, "http://127.0.0.1:1": 1}.items():
        file.write_text(f'[[regions]]\nname = "x"\nurl = "{url}"\nmodels = ["{MODEL}"]\napi_key_env = "LIVE_KEY"\n')
        ended = CliRunner().invoke(app, ["regions", "list", "--config", str(file)], standalone_mode=False)
        assert ended.return_value == code


def test_no_regions_are_told_as_none(ecocore: Verb, document: Callable[..., Any]) -> None:
    assert ecocore("regions", "list").startswith("no regions are set up; ")
    assert document("regions", "list") == []


def test_the_settings_tell_where_they_came_from(ecocore: Verb, document: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "ecocore.toml"
    file.write_text("port = 1\nhost = '::1'\n")
    options = ["--config", str(file), "--port", "2", "--database", "postgresql://me:secret@host/db", "--model", "a=mock"]
    told = document("config", *options)
    assert told["port"] == {"value": 2, "source": "--port"}
    assert told["host"] == {"value": "::1", "source": str(file)}
    assert told["database"] == {"value": "postgresql://me:***@host/db", "source": "--database"}
    assert told["model"] == {"value": ["a=mock"], "source": "--model"}
    assert told["home"] == {"value": str(tmp_path), "source": "ECOCORE_HOME"}
    assert told["billing"] == {"value": "off", "source": "default"}
    rows = {row[0]: row[1:] for row in columns(ecocore("config", *options))}
    assert rows["port"] == ["2", "--port"]
    assert rows["isolate"] == ["no", "default"]
    assert "secret" not in str(rows)


def test_every_option_of_serve_is_a_setting_and_an_option_of_config() -> None:
    from typer.main import get_command

    from ecocore.config import RuntimeConfig, ServerConfig

    commands: Any = get_command(app)
    options = {
        verb: {parameter.name for parameter in commands.commands[verb].params if parameter.name != "help"}
        for verb in ("serve", "config")
    }
    assert options["config"] == options["serve"] | {"as_json"}
    # The home is a place of this machine, not of one start; regions are tables.
    assert options["serve"] == (ServerConfig.model_fields.keys() | RuntimeConfig.model_fields.keys()) - {"home", "regions"}


def test_a_table_shows_control_characters_as_none(capsys: pytest.CaptureFixture[str]) -> None:
    admin.print_table([("name", "b"), ("\x1b[31mred\n", "1")])
    assert capsys.readouterr().out == "name       b\n?[31mred?  1\n"


@pytest.mark.parametrize("words", [["keys"], ["accounts"], ["prices"], ["regions"]])
def test_a_room_without_a_verb_shows_its_help(words: list[str]) -> None:
    assert "Usage:" in CliRunner().invoke(app, words).output
