"""First answers under an Idempotency-Key: the same request again gets the same answer, for a day.

Takes an account, a key and a fingerprint of the request; gives the answer that was kept, or the right to make it. It is kept
in the transaction that settles it (`ledger`), so no crash lies between paying and keeping; and who frees the claims of
servers that ended is the ledger too.
"""

import time
from contextlib import suppress
from functools import partial
from typing import Final

from sqlalchemy import Connection, bindparam, delete, select, text

from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.database import BrokenConstraint, DatabaseUnavailable
from ecocore.accounts.ledger import FREE, Ledger
from ecocore.accounts.schema import answers
from ecocore.errors import EcocoreError

KEPT_SECONDS: Final = 24 * 60 * 60
MAX_IDEMPOTENCY_KEY: Final = 255


class IdempotencyConflict(EcocoreError):
    """The first request under this Idempotency-Key is still running."""


class IdempotencyKeyReused(EcocoreError):
    """The Idempotency-Key was sent before, with another request."""


_CLAIM: Final = text(
    "INSERT INTO answers (account_id, idempotency_key, fingerprint, claim_id, server_id, created) "
    "VALUES (:account, :key, :fingerprint, :claim, :server, :created) "
    "ON CONFLICT (account_id, idempotency_key) DO NOTHING"
)
_FIRST: Final = select(answers.c.fingerprint, answers.c.body).where(
    answers.c.account_id == bindparam("account"), answers.c.idempotency_key == bindparam("key")
)
_OUTDATED: Final = delete(answers).where(answers.c.created < bindparam("before"), answers.c.body.is_not(None))


class Answers:
    """The kept answers in a database."""

    def __init__(self, commit: GroupCommit, ledger: Ledger) -> None:
        """`ledger`: keeps the answers, and frees claims that are in nobody's hand."""
        self._commit = commit
        self._ledger = ledger

    async def claim(self, account_id: int, key: str, fingerprint: str, claim_id: str) -> bytes | None:
        """The kept answer, or None: then the caller makes it, and ends with `Ledger` keeping it, or with `release`.

        Raises IdempotencyConflict, IdempotencyKeyReused, DatabaseUnavailable. Who is cancelled claims nothing in the end.
        """
        row: dict[str, str | int] = {
            "account": account_id,
            "key": key,
            "fingerprint": fingerprint,
            "claim": claim_id,
            "server": self._ledger.server_id,
            "created": int(time.time()),
        }
        self._ledger.owned.add(claim_id)
        try:
            kept = await self._commit.run(partial(_claim, row))
        except (IdempotencyConflict, IdempotencyKeyReused):
            self._ledger.owned.discard(claim_id)
            raise
        except BaseException:
            # Whether it was written is not known.
            await self.release(claim_id)
            raise
        if kept is not None:
            self._ledger.owned.discard(claim_id)
        return kept

    async def release(self, claim_id: str) -> None:
        """No answer came of it: the key may be used again. One that was kept stays.

        Raises nothing but a cancellation, which changes nothing. Where the database is away, the ledger frees it later.
        """
        self._ledger.owned.discard(claim_id)
        with suppress(DatabaseUnavailable, BrokenConstraint):
            await self._commit.run(lambda connection: connection.execute(FREE, {"claim": claim_id}).rowcount)


def _claim(row: dict[str, str | int], connection: Connection) -> bytes | None:
    connection.execute(_OUTDATED, {"before": int(row["created"]) - KEPT_SECONDS})
    first = None
    while first is None:
        if connection.execute(_CLAIM, row).rowcount:
            return None
        # On PostgreSQL it may have been released between the two.
        first = connection.execute(_FIRST, {"account": row["account"], "key": row["key"]}).one_or_none()
    if first.fingerprint != row["fingerprint"]:
        raise IdempotencyKeyReused("this Idempotency-Key was sent with another request; use a new key for a new request")
    if first.body is None:
        raise IdempotencyConflict("the first request with this Idempotency-Key is still running; retry in a moment")
    return bytes(first.body)
