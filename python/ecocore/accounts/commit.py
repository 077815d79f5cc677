"""Many small writes in few transactions: operations that come while one is being committed share the next.

Takes functions of a connection, gives their results once they are on disk. What they write is `ledger`'s matter.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from ecocore.accounts.database import Database, DatabaseUnavailable
from ecocore.errors import EcocoreError

Result = TypeVar("Result")

MAX_TOGETHER: Final = 256
# A database that takes so long to fail does not answer at all; one that fails at once may have lost a connection only.
HUNG_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Waiting:
    operation: Callable[[Connection], Any]
    order: int
    done: "asyncio.Future[Any]"


class GroupCommit:
    """One writer for a process. A commit waits for the disk, and one wait serves all who came meanwhile."""

    def __init__(self, database: Database) -> None:
        """`database` stays its owner's to close."""
        self._database = database
        self._waiting: deque[_Waiting] = deque()
        self._writing: asyncio.Task[None] | None = None

    async def run(self, operation: Callable[[Connection], Result], *, order: int = 0) -> Result:
        """What `operation` gives, once its writes are durable.

        `order`: the account whose row it changes. Rows are taken in this order, so that two servers never wait for each other.

        It may be called again after a failure, so it does nothing but SQL. It may raise an EcocoreError before its first
        write; then it alone fails. Raises DatabaseUnavailable: the writes did not happen, unless the very answer to the
        commit was lost. Who is cancelled leaves the operation behind: it is still done.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(operation, order, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        return await done

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_TOGETHER))]
                batch.sort(key=lambda waiting: waiting.order)
                if hung := await self._commit(batch):
                    # Who came meanwhile has waited for it too, and need not do so a second time.
                    self._tell(self._waiting, [hung] * len(self._waiting))
                    self._waiting.clear()
        finally:
            self._writing = None
            for waiting in self._waiting:
                waiting.done.cancel()

    async def _commit(self, batch: Sequence[_Waiting]) -> DatabaseUnavailable | None:
        """Runs them in one transaction and tells each how it went: whatever is raised, nobody waits on.

        Gives what was raised if the database took long to fail.
        """
        began = time.monotonic()
        hung: DatabaseUnavailable | None = None
        outcomes: Sequence[Any]
        try:
            outcomes = await self._database.transact(lambda connection: [_outcome(one, connection) for one in batch])
        except DatabaseUnavailable as error:
            hung = error if time.monotonic() - began >= HUNG_SECONDS else None
            outcomes = [error] * len(batch)
        except Exception as error:  # noqa: BLE001
            if len(batch) > 1:
                # One of them is at fault, and took the others with it. Alone, it fails alone.
                for number, waiting in enumerate(batch, 1):
                    if hung := await self._commit([waiting]):
                        self._tell(batch[number:], [hung] * len(batch[number:]))
                        break
                return hung
            outcomes = [error]
        self._tell(batch, outcomes)
        return hung

    @staticmethod
    def _tell(batch: Iterable[_Waiting], outcomes: Sequence[Any]) -> None:
        for waiting, outcome in zip(batch, outcomes, strict=True):
            if waiting.done.done():
                continue
            if isinstance(outcome, Exception):
                waiting.done.set_exception(outcome)
            else:
                waiting.done.set_result(outcome)


def _outcome(waiting: _Waiting, connection: Connection) -> Any:
    try:
        return waiting.operation(connection)
    except EcocoreError as refused:
        return refused
