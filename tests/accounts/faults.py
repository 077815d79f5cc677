"""Statements of a database that fail when asked to: one by one, or all of them for a while."""

import sqlite3
from enum import Enum
from typing import Any

import sqlalchemy
from sqlalchemy import event

from ecocore.accounts.database import Database


class Fault(Enum):
    """What becomes of a statement."""

    REFUSED = "it fails, and the connection stays"
    CUT = "its connection breaks before it gets there"
    UNHEARD = "a commit is done, and its answer is lost; other statements are refused"


class Faults:
    """Counts the statements and commits of an open database, and lets some of them fail."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        self.fail_at: int | None = None
        self.fault = Fault.REFUSED
        self.away = False
        """Whether all of them fail."""
        engines = [database._engine.sync_engine]
        if database._writer is not None:
            engines.append(database._writer._engine)
        for engine in engines:
            event.listen(engine, "before_cursor_execute", self._statement)
            event.listen(engine, "commit", self._committing)
        if database._direct is not None:
            database._direct = _Direct(database._direct, self)  # type: ignore[assignment]

    def fail(self, at: int, fault: Fault) -> None:
        """The statement of this number fails, counted from now on."""
        self.count, self.fail_at, self.fault = 0, at, fault

    @property
    def happened(self) -> bool:
        """Whether there was such a statement."""
        return self.fail_at is not None and self.count > self.fail_at

    def fails_now(self) -> bool:
        """Whether the statement that comes now fails."""
        self.count += 1
        return self.away or self.count - 1 == self.fail_at

    def _statement(self, connection: sqlalchemy.Connection, *_: Any) -> None:
        if self.fails_now():
            self._fail(connection)

    def _committing(self, connection: sqlalchemy.Connection) -> None:
        if self.fails_now():
            if self.fault is Fault.UNHEARD and not self.away:
                connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
            self._fail(connection)

    def _fail(self, connection: sqlalchemy.Connection) -> None:
        if self.fault is not Fault.REFUSED and connection.dialect.name == "postgresql":
            connection.connection.driver_connection.terminate()  # type: ignore[union-attr]
        raise sqlalchemy.exc.OperationalError("a statement", {}, OSError("injected"))


class _Direct:
    """The connection of `Database.look_up`."""

    def __init__(self, connection: Any, faults: Faults) -> None:
        self._connection = connection
        self._faults = faults

    def execute(self, *arguments: Any) -> Any:
        if self._faults.fails_now():
            raise sqlite3.OperationalError("injected")
        return self._connection.execute(*arguments)

    def close(self) -> None:
        self._connection.close()
