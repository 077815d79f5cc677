"""API keys: made, recognised, looked up. A key is shown once and stored as its hash.

Takes the text of a key, gives its owner. The header that carried it is the server's matter.
"""

import hashlib
import hmac
import secrets
import time
import zlib
from dataclasses import dataclass
from typing import Final

from sqlalchemy import bindparam, exists, insert, select

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

_OWNER: Final = (
    select(keys.c.hash, keys.c.name, accounts.c.id, accounts.c.name)
    .join(accounts, accounts.c.id == keys.c.account_id)
    .where(keys.c.hash == bindparam("wanted"), keys.c.revoked.is_(None))
)


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose key it is. `key_id`: the same for each use of one key, another for each other."""

    account_id: int
    account: str
    key_name: str
    key_id: int


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


class KeyStore:
    """The keys in a database. What changes there holds at once: nothing is remembered here."""

    def __init__(self, database: Database) -> None:
        """`database` stays its owner's to close."""
        self._database = database

    async def create(self, name: str, account: str = "default") -> str:
        """Makes a key and gives its text, which cannot be had again.

        Raises InvalidConfiguration for a name that is empty or too long, or an unknown account; DatabaseUnavailable.
        """
        if not name.strip() or len(name) > MAX_NAME:
            raise InvalidConfiguration(f"name: must be a text of 1 to {MAX_NAME} characters")
        key = new_key()
        async with self._database.writing() as connection:
            account_id = await connection.scalar(select(accounts.c.id).where(accounts.c.name == account))
            if account_id is None:
                raise InvalidConfiguration(f"account: there is none named {account[:80]!r}")
            row = {
                "hash": _hash(key),
                "prefix": key[:_SHOWN],
                "name": name,
                "account_id": account_id,
                "created": int(time.time()),
            }
            await connection.execute(insert(keys).values(row))
        return key

    async def find(self, key: str) -> KeyOwner | None:
        """The owner of a key that is in force, else None. Raises DatabaseUnavailable."""
        if not is_well_formed(key):
            return None
        wanted = _hash(key)
        row = await self._database.look_up(_OWNER, {"wanted": wanted})
        if row is None:
            return None
        found, key_name, account_id, account = row
        if not hmac.compare_digest(found, wanted):
            return None
        return KeyOwner(account_id=account_id, account=account, key_name=key_name, key_id=int(wanted[:16], 16))

    async def is_empty(self) -> bool:
        """Whether no key was ever made; also tells that the database answers. Raises DatabaseUnavailable."""
        async with self._database.reading() as connection:
            return not await connection.scalar(select(exists(select(keys.c.hash))))


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
