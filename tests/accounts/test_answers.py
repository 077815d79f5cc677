"""Answers under an Idempotency-Key: one makes it, others wait or get it, and a fault leaves the key usable."""

import itertools
from pathlib import Path

import pytest
from tests.accounts.faults import Fault, Faults

from ecocore.accounts.answers import Answers, IdempotencyConflict, IdempotencyKeyReused
from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.database import Database, DatabaseUnavailable
from ecocore.accounts.ledger import Ledger

DEFAULT = 1


async def test_one_makes_the_answer_and_the_next_get_it(database: Database, tmp_path: Path) -> None:
    commit = GroupCommit(database)
    async with Ledger.opened(database, commit, tmp_path) as ledger:
        answers = Answers(commit, ledger.server_id)
        assert await answers.claim(DEFAULT, "key", "print", "first") is None
        with pytest.raises(IdempotencyConflict):
            await answers.claim(DEFAULT, "key", "print", "second")
        with pytest.raises(IdempotencyKeyReused):
            await answers.claim(DEFAULT, "key", "other print", "third")
        await ledger.record(DEFAULT, "m", 1, 1, ("first", "the answer"))
        await answers.release("first")
        assert await answers.claim(DEFAULT, "key", "print", "fourth") == b"the answer"


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.UNHEARD])
async def test_whichever_statement_fails_the_key_can_be_used_again(fault: Fault, database: Database) -> None:
    answers = Answers(GroupCommit(database), "server")
    faults = Faults(database)
    for number in itertools.count():
        faults.fail(number, fault)
        try:
            assert await answers.claim(DEFAULT, f"key {number}", "print", f"{number} a") is None
        except DatabaseUnavailable:
            # As the server does; the database is still away.
            faults.away = True
            with pytest.raises(DatabaseUnavailable):
                await answers.release(f"{number} a")
            faults.away = False
        else:
            break
        assert await answers.claim(DEFAULT, f"key {number}", "print", f"{number} b") is None
    assert number >= 3
    assert answers._released == set()
