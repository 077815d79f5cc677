"""API keys: made, recognised, looked up, ended. A key is shown once and stored as its hash.

Takes the text of a key, gives its owner. The header that carried it is the server's matter.
"""

import hashlib
import hmac
import re
import secrets
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, bindparam, exists, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ecocore.accounts.database import Database
from ecocore.accounts.schema import accounts, keys
from ecocore.errors import InvalidConfiguration

PREFIX: Final = "eco_"
MAX_NAME: Final = 128
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SECRET_BYTES: Final = 32
# 62^43 is the first power above 2^256, 62^6 the first above 2^32.
_SECRET_DIGITS: Final = 43
_CHECK_DIGITS: Final = 6
KEY_LENGTH: Final = len(PREFIX) + _SECRET_DIGITS + _CHECK_DIGITS
_SHOWN: Final = 8
_ID_DIGITS: Final = 12
MAX_LIMIT: Final = 2**31 - 1

_OWNER: Final = (
    select(
        keys.c.hash,
        keys.c.name,
        accounts.c.id,
        accounts.c.name,
        keys.c.expires,
        keys.c.requests_per_minute,
        keys.c.tokens_per_minute,
        keys.c.concurrency,
    )
    .join(accounts, accounts.c.id == keys.c.account_id)
    .where(keys.c.hash == bindparam("wanted"), keys.c.revoked.is_(None))
)


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose key it is. `key_id`: the same for each use of one key, another for each other. A limit that is None is none."""

    account_id: int
    account: str
    key_name: str
    key_id: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What a key may use; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What is known of a key. `id` names it and reveals nothing, `prefix` is how it begins; times are seconds since 1970.

    `expires`: from then on it is refused; None is never. `revoked`: when it was, or None.
    """

    id: str
    prefix: str
    name: str
    account: str
    created: int
    expires: int | None
    revoked: int | None
    limits: KeyLimits

    def state(self, now: float) -> str:
        """In one word: active, expired or revoked."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if _is_past(self.expires, now) else "active"


_STORED: Final = (
    select(keys, accounts.c.name.label("account"))
    .join(accounts, accounts.c.id == keys.c.account_id)
    .order_by(keys.c.created, keys.c.hash)
)


def new_key() -> str:
    """A fresh key: `eco_`, 256 random bits in base 62, and a checksum that catches typing mistakes."""
    secret = _base62(int.from_bytes(secrets.token_bytes(_SECRET_BYTES)), _SECRET_DIGITS)
    return PREFIX + secret + _checksum(secret)


def is_well_formed(key: str) -> bool:
    """Whether the text can be a key at all: its form and its checksum. Asks no database."""
    if len(key) != KEY_LENGTH or not key.startswith(PREFIX) or not key.isascii():
        return False
    secret, check = key[len(PREFIX) : -_CHECK_DIGITS], key[-_CHECK_DIGITS:]
    return secret.isalnum() and hmac.compare_digest(check, _checksum(secret))


def id_of(key: str) -> str:
    """The short name of a key, for those who hold only the key."""
    return _hash(key)[:_ID_DIGITS]


class KeyStore:
    """The keys in a database. What changes there holds at once: nothing is remembered here."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """`database` stays its owner's to close. `clock`: seconds since 1970, which keys expire by."""
        self._database = database
        self._clock = clock

    async def create(
        self, name: str, account: str = "default", *, limits: KeyLimits | None = None, expires: int | None = None
    ) -> str:
        """Makes a key and gives its text, which cannot be had again.

        Raises InvalidConfiguration for a name that is empty, too long or unprintable, an unknown account, a limit below 1
        or an end that is past; DatabaseUnavailable.
        """
        if not name.strip() or len(name) > MAX_NAME or not name.isprintable():
            raise InvalidConfiguration(f"name: must be a text of 1 to {MAX_NAME} characters, all of them printable")
        limits = limits or KeyLimits()
        _judge(limits)
        if _is_past(expires, self._clock()):
            raise InvalidConfiguration("expires: this moment is past")
        async with self._database.writing() as connection:
            account_id = await connection.scalar(select(accounts.c.id).where(accounts.c.name == account))
            if account_id is None:
                raise InvalidConfiguration(f"account: there is none named {account[:80]!r}; ecocore accounts create makes one")
            return await self._insert(connection, name, account_id, limits, expires)

    async def all(self) -> list[StoredKey]:
        """All of them, ended ones too, the oldest first. Raises DatabaseUnavailable."""
        async with self._database.reading() as connection:
            return [_stored(row) for row in await connection.execute(_STORED)]

    async def revoke(self, wanted: str) -> StoredKey:
        """Ends a key at once, and gives it as it is then. `wanted`: its name, its id or the key itself.

        Raises InvalidConfiguration if it names none or several; DatabaseUnavailable.
        """
        async with self._database.writing() as connection:
            row = await self._one(connection, wanted)
            revoked = int(self._clock())
            await _change(connection, row, revoked=revoked)
            return replace(_stored(row), revoked=revoked)

    async def limit(self, wanted: str, changes: Mapping[str, int | None]) -> StoredKey:
        """Changes limits of a key, and gives it as it is then. `changes`: fields of KeyLimits; the others stay.

        Raises as `revoke` and `create` do.
        """
        async with self._database.writing() as connection:
            row = await self._one(connection, wanted)
            limits = replace(_stored(row).limits, **changes)
            _judge(limits)
            await _change(connection, row, **changes)
            return replace(_stored(row), limits=limits)

    async def rotate(self, wanted: str, *, keep_seconds: int = 0, expires: int | None = None) -> str:
        """Makes a key with the name, account and limits of another, which ends at once or in `keep_seconds`.

        Unless `expires` is given, the new one lives as long as the other was made to. Raises as `revoke` and `create` do.
        """
        now = int(self._clock())
        if keep_seconds < 0 or _is_past(expires, now):
            raise InvalidConfiguration("expires: this moment is past")
        async with self._database.writing() as connection:
            row = await self._one(connection, wanted)
            old = _stored(row)
            if expires is None and old.expires is not None:
                expires = now + old.expires - old.created
            if keep_seconds:
                end = now + keep_seconds
                await _change(connection, row, expires=end if old.expires is None else min(end, old.expires))
            else:
                await _change(connection, row, revoked=now)
            return await self._insert(connection, old.name, row.account_id, old.limits, expires)

    async def find(self, key: str) -> KeyOwner | None:
        """The owner of a key that is in force, else None. Raises DatabaseUnavailable."""
        if not is_well_formed(key):
            return None
        wanted = _hash(key)
        row = await self._database.look_up(_OWNER, {"wanted": wanted})
        if row is None:
            return None
        found, key_name, account_id, account, expires, *limits = row
        if not hmac.compare_digest(found, wanted) or _is_past(expires, self._clock()):
            return None
        return KeyOwner(account_id, account, key_name, int(wanted[:16], 16), *limits)

    async def is_empty(self) -> bool:
        """Whether no key was ever made; also tells that the database answers. Raises DatabaseUnavailable."""
        async with self._database.reading() as connection:
            return not await connection.scalar(select(exists(select(keys.c.hash))))

    async def _insert(
        self, connection: AsyncConnection, name: str, account_id: int, limits: KeyLimits, expires: int | None
    ) -> str:
        key = new_key()
        row = {
            "hash": _hash(key),
            "prefix": key[:_SHOWN],
            "name": name,
            "account_id": account_id,
            "created": int(self._clock()),
            "expires": expires,
            **asdict(limits),
        }
        await connection.execute(insert(keys).values(row))
        return key

    async def _one(self, connection: AsyncConnection, wanted: str) -> Row[Any]:
        """The one key in force that is meant."""
        now = self._clock()
        found = (await connection.execute(_STORED.where(_names(wanted)))).all()
        rows = [row for row in found if _stored(row).state(now) == "active"]
        if not rows:
            raise InvalidConfiguration(f"key: none that is in force has the name or id {wanted[:80]!r}; see ecocore keys list")
        if len(rows) > 1:
            ids = ", ".join(_stored(row).id for row in rows)
            raise InvalidConfiguration(f"key: {len(rows)} that are in force have the name {wanted[:80]!r}; say which: {ids}")
        return rows[0]


def _names(wanted: str) -> ColumnElement[bool]:
    # Whoever finds a key in a place where it should not be has nothing else to name it by.
    if is_well_formed(wanted):
        return keys.c.hash == _hash(wanted)
    if re.fullmatch(rf"[0-9a-f]{{{_ID_DIGITS}}}", wanted):
        return or_(keys.c.name == wanted, keys.c.hash.startswith(wanted))
    return keys.c.name == wanted


async def _change(connection: AsyncConnection, row: Row[Any], **values: int | None) -> None:
    """Changes a row that is still as it was read: of two who end a key at once, one does."""
    as_read = keys.c.revoked.is_(None), keys.c.expires.is_not_distinct_from(row.expires)
    changed = await connection.execute(update(keys).where(keys.c.hash == row.hash, *as_read).values(**values))
    if changed.rowcount != 1:
        raise InvalidConfiguration("key: somebody else ended it at this moment; see ecocore keys list")


def _stored(row: Row[Any]) -> StoredKey:
    return StoredKey(
        id=row.hash[:_ID_DIGITS],
        prefix=row.prefix,
        name=row.name,
        account=row.account,
        created=row.created,
        expires=row.expires,
        revoked=row.revoked,
        limits=KeyLimits(row.requests_per_minute, row.tokens_per_minute, row.concurrency),
    )


def _is_past(moment: int | None, now: float) -> bool:
    return moment is not None and moment <= now


def _judge(limits: KeyLimits) -> None:
    for name, limit in asdict(limits).items():
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            raise InvalidConfiguration(f"{name}: must be from 1 to {MAX_LIMIT}")


def _hash(key: str) -> str:
    # 256 random bits need no salt and no slow hash: there is nothing to guess.
    return hashlib.sha256(key.encode()).hexdigest()


def _checksum(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode()), _CHECK_DIGITS)


def _base62(number: int, width: int) -> str:
    digits: list[str] = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
