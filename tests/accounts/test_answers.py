"""Claims of Idempotency-Keys: one request makes the answer, and no claim outlives who made it."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from sqlalchemy import Connection

from ecocore.accounts.answers import KEPT_SECONDS, Answers, IdempotencyConflict, IdempotencyKeyReused
from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.database import Database, DatabaseUnavailable
from ecocore.accounts.ledger import Ledger
from ecocore.accounts.schema import answers

DEFAULT = 1


def opened(database: Database, spools: Path | None = None) -> AbstractAsyncContextManager[Ledger]:
    return Ledger.opened(database, GroupCommit(database), spools)


async def away(*_: object, **__: object) -> None:
    raise DatabaseUnavailable("away")


async def test_the_first_makes_the_answer_and_the_others_get_it(database: Database) -> None:
    async with opened(database) as ledger:
        kept = Answers(ledger._commit, ledger)
        assert await kept.claim(DEFAULT, "order-1", "print", "claim 1") is None
        with pytest.raises(IdempotencyConflict):
            await kept.claim(DEFAULT, "order-1", "print", "claim 2")
        with pytest.raises(IdempotencyKeyReused):
            await kept.claim(DEFAULT, "order-1", "another", "claim 3")
        await ledger.record(DEFAULT, "m", 1, 2, ("claim 1", "text"))
        assert await kept.claim(DEFAULT, "order-1", "print", "claim 4") == b"text"
        await kept.release("claim 1")
        assert await kept.claim(DEFAULT, "order-1", "print", "claim 5") == b"text", "what is kept stays"
        assert ledger.owned == set()


async def test_an_answer_is_kept_for_a_day(database: Database) -> None:
    async with opened(database) as ledger:
        kept = Answers(ledger._commit, ledger)
        await kept.claim(DEFAULT, "order-1", "print", "claim 1")
        await ledger.record(DEFAULT, "m", 1, 2, ("claim 1", "text"))
        older = answers.update().values(created=answers.c.created - KEPT_SECONDS - 1)
        await database.transact(lambda connection: connection.execute(older).rowcount)
        assert await kept.claim(DEFAULT, "order-1", "another", "claim 2") is None


async def test_a_claim_that_could_not_be_released_is_freed(database: Database) -> None:
    async with opened(database) as ledger:
        kept = Answers(ledger._commit, ledger)
        await kept.claim(DEFAULT, "order-1", "print", "claim 1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger._commit, "run", away)
            await kept.release("claim 1")
        await ledger._give_back()
        assert await kept.claim(DEFAULT, "order-1", "print", "claim 2") is None


async def test_a_claim_that_is_written_after_it_was_given_up_is_freed(database: Database) -> None:
    written_late: list[Callable[[Connection], object]] = []

    async def hangs(operation: Callable[[Connection], object], **_: object) -> None:
        written_late.append(operation)
        raise DatabaseUnavailable("it does not answer")

    async with opened(database) as ledger:
        kept = Answers(ledger._commit, ledger)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger._commit, "run", hangs)
            with pytest.raises(DatabaseUnavailable):
                await kept.claim(DEFAULT, "order-1", "print", "claim 1")
        await database.transact(written_late[0])
        await ledger._give_back()
        assert await kept.claim(DEFAULT, "order-1", "print", "claim 2") is None


async def test_a_claim_whose_client_leaves_meanwhile_is_free_at_once(database: Database) -> None:
    async with opened(database) as ledger:
        kept = Answers(ledger._commit, ledger)
        leaving = asyncio.create_task(kept.claim(DEFAULT, "order-1", "print", "claim 1"))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await kept.claim(DEFAULT, "order-1", "print", "claim 2") is None


async def test_a_claim_in_the_making_is_left_alone_also_while_its_charge_waits(database: Database, tmp_path: Path) -> None:
    async with opened(database, tmp_path / "spool") as ledger:
        kept = Answers(ledger._commit, ledger)
        await kept.claim(DEFAULT, "order-1", "print", "claim 1")
        await ledger._give_back()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ledger._commit, "run", away)
            await ledger.record(DEFAULT, "m", 1, 2, ("claim 1", "text"))
        await ledger._give_back()
        await ledger._retry()
        assert await kept.claim(DEFAULT, "order-1", "print", "claim 2") == b"text"
        assert ledger.owned == set()
