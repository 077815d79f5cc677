"""Indexes: what every request asks finds its rows, however many there are."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Executable, create_engine, text
from sqlalchemy.dialects import sqlite

from ecocore.accounts import answers, keys, ledger, pricing, usage
from ecocore.accounts.database import Database

STATEMENTS = {
    f"{module.__name__.rpartition('.')[2]}{name}": statement
    for module in (answers, keys, ledger, pricing, usage)
    for name, statement in vars(module).items()
    if isinstance(statement, Executable) and name not in {"_STORED", "_CLAIM", "_POST", "_HOLD", "_HOLDERS"}
}
"""Those that only insert look for no rows; the lists of all keys, and of who holds anything at the moment, are no request's."""


@pytest.fixture
def plans(tmp_path: Path) -> Iterator[Connection]:
    async def make() -> None:
        await (await Database.open(f"sqlite:///{tmp_path / 'db'}")).close()

    asyncio.run(make())
    engine = create_engine(f"sqlite:///{tmp_path / 'db'}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_of_a_request_reads_a_whole_table(name: str, plans: Connection) -> None:
    compiled: Any = STATEMENTS[name].compile(dialect=sqlite.dialect(paramstyle="named"))  # type: ignore[attr-defined]
    plan = plans.execute(text(f"EXPLAIN QUERY PLAN {compiled}"), dict.fromkeys(compiled.params, 1)).all()
    assert plan
    assert [row.detail for row in plan if row.detail.startswith("SCAN")] == []


@pytest.mark.parametrize(
    ("name", "index"), [("usage_SUMS", "ledger_by_day (account_id=? AND created>?)"), ("ledger_CLAIMED", "claims_by_server")]
)
def test_long_tables_are_entered_where_the_rows_are(name: str, index: str, plans: Connection) -> None:
    compiled: Any = STATEMENTS[name].compile(dialect=sqlite.dialect(paramstyle="named"))  # type: ignore[attr-defined]
    plan = plans.execute(text(f"EXPLAIN QUERY PLAN {compiled}"), dict.fromkeys(compiled.params, 1)).all()
    assert index in plan[0].detail
