"""What could not be written to the database yet, in a file beside it: no charge is lost while the ledger is away.

Takes and gives settlements as JSON lines, each on disk before `add` returns. The file is locked while its server lives, so
whoever gets the lock knows that it does not; what is in it is `ledger`'s to post.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from ecocore.errors import InvalidConfiguration

_SUFFIX: Final = ".jsonl"


class Spool:
    """The file of one server. Its name is the server's id."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `create` or `abandoned`."""
        self.path: Final = path
        self._descriptor = descriptor
        self.server_id: Final = path.name.removesuffix(_SUFFIX)

    @classmethod
    def create(cls, folder: Path, server_id: str) -> Self:
        """A new file, empty and locked. Raises InvalidConfiguration where the folder cannot be written."""
        path = folder / f"{server_id}{_SUFFIX}"
        # Locked before it has its name: who finds it must not take it for one that was left.
        unnamed = path.with_suffix(".new")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            unnamed.rename(path)
            _sync_folder(folder)
        except OSError as error:
            raise InvalidConfiguration(f"home: {folder} cannot be written: {error.strerror}") from None
        return cls(path, descriptor)

    @staticmethod
    def exists(folder: Path, server_id: str) -> bool:
        """Whether a server has a file there, living or not."""
        return (folder / f"{server_id}{_SUFFIX}").exists()

    @classmethod
    def abandoned(cls, folder: Path) -> Iterator[Self]:
        """The files of servers that have ended without removing them, each locked while it is looked at."""
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            # One that goes meanwhile was somebody else's to look at.
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
                spool = cls(path, descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if path.exists():
                        yield spool
                finally:
                    spool.close()

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Appends entries; they are on disk when this returns. Raises OSError."""
        # On lines of their own, also after one that was cut because the disk was full.
        data = "".join("\n" + json.dumps(entry) + "\n" for entry in entries).encode()
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)

    def entries(self) -> list[dict[str, Any]]:
        """All of them. A line that was cut, by a crash or a full disk, was never acknowledged, and is left out."""
        entries: list[dict[str, Any]] = []
        for line in self.path.read_bytes().split(b"\n"):
            with suppress(json.JSONDecodeError, UnicodeDecodeError):
                entries += [json.loads(line)] if line else []
        return entries

    def clear(self) -> None:
        """All of them are in the database."""
        os.ftruncate(self._descriptor, 0)
        os.fsync(self._descriptor)

    def remove(self) -> None:
        """The server ended well, or what it left is done."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Gives up the lock, and leaves the file for the next who looks."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _sync_folder(folder: Path) -> None:
    """After a loss of power, what was written to a file is of no use without its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
