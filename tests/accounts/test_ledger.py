"""Holds and settlements: what may be spent, what is taken, and what is left when somebody ends in the middle."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, select, text

from ecocore.accounts import ledger as ledger_module
from ecocore.accounts.books import Books
from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.copy import copy
from ecocore.accounts.database import BrokenConstraint, Database, DatabaseUnavailable
from ecocore.accounts.ledger import DEAD_SECONDS, Hold, InsufficientBalance, Ledger, Settlement
from ecocore.accounts.pricing import Price, PriceList
from ecocore.accounts.schema import holds, ledger
from ecocore.accounts.spool import Spool
from ecocore.errors import InvalidConfiguration, RuntimeClosed

CENT = 10**7
DEFAULT = 1


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = await Database.open(database_url)
    books = Books(opened)
    # A token of a prompt costs 1000 nano-dollars, one of an answer 2000.
    await books.set_price("m", 10**9, 2 * 10**9)
    await books.credit("default", CENT)
    yield opened
    await opened.close()


def opened(database: Database, spools: Path | None = None) -> AbstractAsyncContextManager[Ledger]:
    return Ledger.opened(database, GroupCommit(database), spools)


async def price(database: Database) -> Price:
    found = await PriceList(database).find("m")
    assert found is not None
    return found


async def state(database: Database) -> tuple[int, int, list[str]]:
    account = (await Books(database).accounts())[0]
    return account.balance, account.reserved, await Books(database).check()


async def test_a_hold_is_set_aside_and_settled_for_what_was_used(database: Database) -> None:
    async with opened(database) as books:
        hold = await books.hold(DEFAULT, await price(database), 10, 100)
        assert hold.amount == 10 * 1000 + 100 * 2000
        assert await state(database) == (CENT, hold.amount, [])
        await books.settle(hold, 10, 3)
        assert await state(database) == (CENT - 16_000, 0, [])
        await books.settle(hold, 10, 100)
        assert await state(database) == (CENT - 16_000, 0, []), "settled once"
    row = (await Books(database).entries("default"))[-1]
    assert (row.kind, row.amount, row.model, row.prompt_tokens, row.completion_tokens) == ("usage", -16_000, "m", 10, 3)


async def test_nothing_above_the_hold_is_taken(database: Database) -> None:
    async with opened(database) as books:
        await books.settle(await books.hold(DEFAULT, await price(database), 1, 1), 5, 5)
        assert await state(database) == (CENT - 3000, 0, [])


async def test_what_delivered_nothing_costs_nothing_and_leaves_no_row(database: Database) -> None:
    async with opened(database) as books:
        await books.settle(await books.hold(DEFAULT, await price(database), 10, 100), 0, 0)
        assert await state(database) == (CENT, 0, [])
    assert [entry.kind for entry in await Books(database).entries("default")] == ["credit"]


async def test_a_balance_pays_for_what_it_can_and_says_what_would_fit(database: Database) -> None:
    async with opened(database) as books:
        with pytest.raises(InsufficientBalance) as refused:
            await books.hold(DEFAULT, await price(database), 10, 10**6)
        assert (refused.value.needed, refused.value.available) == (10_000 + 2 * 10**9, CENT)
        fitting = refused.value.affordable
        assert fitting == (CENT - 10_000) // 2000
        hold = await books.hold(DEFAULT, await price(database), 10, fitting)
        with pytest.raises(InsufficientBalance) as refused:
            await books.hold(DEFAULT, await price(database), 10, 1)
        assert refused.value.affordable is None, "the prompt alone is too much"
        await books.settle(hold, 0, 0)


async def test_many_at_once_never_spend_more_than_there_is(database: Database) -> None:
    async with opened(database) as books:
        # Each may cost a hundredth of the balance.
        each = [books.hold(DEFAULT, await price(database), 0, 50) for _ in range(500)]
        outcomes = await asyncio.gather(*each, return_exceptions=True)
        kept = [outcome for outcome in outcomes if isinstance(outcome, Hold)]
        assert len(kept) == 100
        assert sum(isinstance(outcome, InsufficientBalance) for outcome in outcomes) == 400
        assert await state(database) == (CENT, CENT, [])
        await asyncio.gather(*(books.settle(hold, 0, 50) for hold in kept))
        assert await state(database) == (0, 0, [])


@pytest.mark.parametrize("statement", ["UPDATE ledger SET amount = 1", "DELETE FROM ledger"])
async def test_rows_of_the_ledger_stay_as_they_are(statement: str, database: Database) -> None:
    with pytest.raises(BrokenConstraint):
        await database.transact(lambda connection: connection.execute(text(statement)).rowcount)
    assert await state(database) == (CENT, 0, [])


async def test_a_server_that_ended_is_settled_by_its_marks(database: Database, tmp_path: Path) -> None:
    dying = opened(database, tmp_path / "spool")
    books = await dying.__aenter__()
    delivered, silent = [await books.hold(DEFAULT, await price(database), 10, 100) for _ in range(2)]
    books.mark(delivered, 10, 7)
    await books._write_marks()
    books.mark(delivered, 10, 9)
    # As if the process were killed here: nothing is written any more, and the lock of the spool is gone.
    assert books._spool is not None
    books._spool.close()

    async with opened(database, tmp_path / "spool"):
        assert await state(database) == (CENT - 10_000 - 14_000, 0, [])
    assert silent.request_id not in {entry.request_id for entry in await Books(database).entries("default")}
    assert list((tmp_path / "spool").iterdir()) == []
    books._spool = None
    await dying.__aexit__(None, None, None)


async def test_a_server_elsewhere_is_settled_when_its_beat_stands_still(database: Database) -> None:
    async with opened(database) as here:
        elsewhere = opened(database)
        books = await elsewhere.__aenter__()
        hold = await books.hold(DEFAULT, await price(database), 10, 100)
        books.mark(hold, 10, 1)
        await books._write_marks()
        await here.watch(0.0)
        await here._commit.run(books._beat)
        await here.watch(DEAD_SECONDS)
        assert (await state(database))[1] == hold.amount, "it has just given a sign of life"
        await here.watch(2 * DEAD_SECONDS)
        assert await state(database) == (CENT - 12_000, 0, [])
        # It was not dead after all: what it settles now was settled already.
        await books.settle(hold, 10, 100)
        assert await state(database) == (CENT - 12_000, 0, [])
        await elsewhere.__aexit__(None, None, None)


async def test_charges_wait_in_the_spool_while_the_database_is_away(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path / "spool") as books:
        hold = await books.hold(DEFAULT, await price(database), 10, 100)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(books._commit, "run", away)
            await books.settle(hold, 10, 5)
            with pytest.raises(DatabaseUnavailable):
                await books.hold(DEFAULT, await price(database), 10, 100)
        assert books._spool is not None
        [waiting] = [entry for entry in books._spool.entries() if entry["completion_tokens"]]
        assert Settlement(**waiting).cost == 20_000
        await books._retry()
        assert await state(database) == (CENT - 20_000, 0, [])
        assert books._spool.entries() == []


async def away(*_: object, **__: object) -> None:
    raise DatabaseUnavailable("away")


async def test_a_spool_left_behind_is_posted_before_marks_count(database: Database, tmp_path: Path) -> None:
    spools = tmp_path / "spool"
    dying = opened(database, spools)
    books = await dying.__aenter__()
    hold = await books.hold(DEFAULT, await price(database), 10, 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(books._commit, "run", away)
        await books.settle(hold, 10, 30)
    assert books._spool is not None
    path = spools / f"{books.server_id}.jsonl"
    with path.open("ab") as file:
        file.write(json.dumps({"cut": "by a crash"}).encode()[:9])
    books._spool.close()
    async with opened(database, spools):
        assert await state(database) == (CENT - 70_000, 0, [])
    books._spool = None
    books._late.clear()
    await dying.__aexit__(None, None, None)


async def test_a_hold_that_is_written_after_it_was_given_up_is_given_back(database: Database) -> None:
    written_late: list[Callable[[Connection], object]] = []

    async def hangs(operation: Callable[[Connection], object], **_: object) -> None:
        written_late.append(operation)
        raise DatabaseUnavailable("it does not answer")

    async with opened(database) as books:
        kept = await books.hold(DEFAULT, await price(database), 10, 100)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(books._commit, "run", hangs)
            with pytest.raises(DatabaseUnavailable):
                await books.hold(DEFAULT, await price(database), 10, 100)
            await asyncio.gather(*books._settling)
        await books._give_back()
        await database.transact(written_late[0])
        assert (await state(database))[1] == 2 * kept.amount
        await books._give_back()
        assert await state(database) == (CENT, kept.amount, [])


async def test_who_is_refused_for_the_database_is_away_costs_no_place_in_the_spool(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path / "spool") as books:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(books._commit, "run", away)
            with pytest.raises(DatabaseUnavailable):
                await books.hold(DEFAULT, await price(database), 10, 100)
            await asyncio.gather(*books._settling)
        assert books._spool is not None
        assert books._spool.entries() == []


async def test_a_living_server_keeps_its_spool(tmp_path: Path) -> None:
    mine = Spool.create(tmp_path, "mine")
    assert list(Spool.abandoned(tmp_path)) == []
    mine.close()
    assert [spool.server_id for spool in Spool.abandoned(tmp_path)] == ["mine"]


async def test_use_without_money_is_written_down(database: Database) -> None:
    async with opened(database) as books:
        await books.record(DEFAULT, "free", 4, 5)
    assert await state(database) == (CENT, 0, [])
    row = (await Books(database).entries("default"))[-1]
    assert (row.kind, row.amount, row.model, row.prompt_tokens, row.completion_tokens) == ("usage", 0, "free", 4, 5)


async def test_a_hold_that_nobody_waits_for_is_given_back(database: Database) -> None:
    async with opened(database) as books:
        leaving = asyncio.create_task(books.hold(DEFAULT, await price(database), 10, 100))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert await state(database) == (CENT, 0, [])
    async with database.reading() as connection:
        assert (await connection.execute(select(holds))).all() == []
        assert len((await connection.execute(select(ledger))).all()) == 1


async def broken(*_: object, **__: object) -> None:
    raise RuntimeError("nobody foresaw this")


async def test_a_settlement_that_fails_unforeseen_leaves_its_owner_and_no_hold(database: Database) -> None:
    async with opened(database) as books:
        hold = await books.hold(DEFAULT, await price(database), 10, 100)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(books._commit, "run", broken)
            await books.settle(hold, 10, 5)
        await books._give_back()
        assert await state(database) == (CENT, 0, [])


@pytest.mark.parametrize("spooled", [False, True])
async def test_a_failure_that_nobody_foresaw_ends_no_work_of_the_ledger(
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spooled: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(ledger_module, "MARK_SECONDS", 0.0)
    monkeypatch.setattr(ledger_module, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(ledger_module, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(ledger_module, "DEAD_SECONDS", 0.0)
    failed = dict.fromkeys(("_write_marks", "_retry", "_give_back"), 0)
    again = {name: asyncio.Event() for name in failed}

    def failing(name: str) -> Callable[..., Awaitable[None]]:
        async def fail(_: Ledger) -> None:
            failed[name] += 1
            if failed[name] > 1:
                again[name].set()
            raise RuntimeError(name)

        return fail

    async with opened(database, tmp_path / "spool" if spooled else None) as books:
        hold = await books.hold(DEFAULT, await price(database), 10, 100)
        with pytest.MonkeyPatch.context() as patch:
            for name in failed:
                patch.setattr(Ledger, name, failing(name))
            async with asyncio.timeout(20):
                while not all(event.is_set() for event in again.values()):
                    books._is_late.set()
                    books.mark(hold, 10, 1)
                    await asyncio.sleep(0)
        await books.settle(hold, 0, 0)


async def test_one_that_cannot_be_posted_takes_no_other_with_it(database: Database, tmp_path: Path) -> None:
    nobody = 99
    dying = opened(database, tmp_path / "spool")
    books = await dying.__aenter__()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(books._commit, "run", away)
        for account in (DEFAULT, nobody, DEFAULT):
            await books.record(account, "free", 4, 5)
        await asyncio.gather(*books._settling)
    assert books._spool is not None
    books._spool.close()
    books._spool = None
    async with opened(database, tmp_path / "spool"):
        rows = [entry for entry in await Books(database).entries("default") if entry.kind == "usage"]
        assert len(rows) == 2
    assert list((tmp_path / "spool").iterdir()) == []
    await dying.__aexit__(None, None, None)
    assert len(await Books(database).entries("default")) == 3, "posted once"


async def test_what_another_version_left_is_not_passed_over(database: Database, tmp_path: Path) -> None:
    left = Spool.create(tmp_path, "newer")
    left.add([{"request_id": "a", "from_the_future": 1}])
    left.close()
    with pytest.raises(InvalidConfiguration, match=r"another version.*newer\.jsonl"):
        async with opened(database, tmp_path):
            pass
    assert [spool.server_id for spool in Spool.abandoned(tmp_path)] == ["newer"]


async def test_at_the_end_everything_that_came_late_is_posted(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "AT_ONCE", 1)
    async with opened(database, tmp_path / "spool") as books:
        kept = [await books.hold(DEFAULT, await price(database), 0, 100) for _ in range(3)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(books._commit, "run", away)
            for hold in kept:
                await books.settle(hold, 0, 5)
    assert await state(database) == (CENT - 30_000, 0, [])
    assert list((tmp_path / "spool").iterdir()) == []


async def test_at_the_end_what_nobody_settles_is_settled_for_what_was_delivered(database: Database) -> None:
    async with opened(database) as books:
        hold = await books.hold(DEFAULT, await price(database), 10, 100)
        books.mark(hold, 10, 7)
    assert await state(database) == (CENT - 24_000, 0, [])
    with pytest.raises(RuntimeClosed):
        await books.hold(DEFAULT, await price(database), 10, 100)


async def test_holds_of_a_server_that_left_no_file_are_settled(tmp_path: Path) -> None:
    """As in a backup of a server that was running."""
    path = tmp_path / "ecocore.db"
    database = await Database.open(f"sqlite:///{path}")
    await Books(database).set_price("m", 10**9, 2 * 10**9)
    await Books(database).credit("default", CENT)
    async with opened(database, tmp_path / "spool") as books:
        hold = await books.hold(DEFAULT, await price(database), 10, 100)
        books.mark(hold, 10, 7)
        await books._write_marks()
        backup = await Database.open(f"sqlite:///{tmp_path / 'backup.db'}")
        await copy(database, backup)
        async with opened(database, tmp_path / "spool"):
            assert await state(database) == (CENT, hold.amount, []), "the first still lives"
        assert await state(backup) == (CENT, hold.amount, [])
        async with opened(backup, tmp_path / "other spool"):
            assert await state(backup) == (CENT - 24_000, 0, [])
        await backup.close()
    await database.close()


async def test_a_request_that_costs_more_than_a_database_can_count_is_refused(database: Database) -> None:
    async with opened(database) as books:
        with pytest.raises(InsufficientBalance) as refused:
            await books.hold(DEFAULT, replace(await price(database), output=10**15), 10, 128 * 2**31)
        assert refused.value.needed > 2**64
        assert refused.value.available == CENT
