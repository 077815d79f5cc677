"""A server, as far as money goes: it may end well, or die like a process that is killed."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from ecocore.accounts.commit import GroupCommit
from ecocore.accounts.database import Database, DatabaseUnavailable
from ecocore.accounts.ledger import Ledger


class Mortal:
    """Its ledger, until one of the two ends."""

    alive: ClassVar[set["Mortal"]] = set()

    def __init__(self, ledger: Ledger, commit: GroupCommit, opened: AbstractAsyncContextManager[Ledger]) -> None:
        """Use `start`."""
        self.ledger = ledger
        self._commit = commit
        self._opened = opened

    @classmethod
    async def start(cls, database: Database, spools: Path) -> Self:
        """A server that has settled for those that died before."""
        commit = GroupCommit(database)
        opened = Ledger.opened(database, commit, spools)
        started = cls(await opened.__aenter__(), commit, opened)
        cls.alive.add(started)
        return started

    @classmethod
    async def all_die(cls) -> None:
        """Where a test has failed, some are left."""
        while cls.alive:
            await cls.alive.copy().pop().dies()

    async def ends(self) -> None:
        """As at SIGTERM."""
        self.alive.discard(self)
        await self._opened.__aexit__(None, None, None)

    async def dies(self) -> None:
        """As at SIGKILL: what is on its way to the database may still get there, nothing else does. The spool stays, unlocked."""
        self.alive.discard(self)
        self._commit._waiting.clear()
        self._commit.run = _dead  # type: ignore[method-assign]
        assert self.ledger._spool is not None
        self.ledger._spool.close()
        self.ledger._spool = None
        for task in self.ledger._settling:
            task.cancel()
        self.ledger._late.clear()
        if (writing := self._commit._writing) is not None:
            await asyncio.wait({writing})
        await self._opened.__aexit__(None, None, None)


async def _dead(*_: Any, **__: Any) -> NoReturn:
    raise DatabaseUnavailable("this server is dead")
