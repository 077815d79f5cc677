"""Keys: their form, their secrecy, their life in the database."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from ecocore.accounts.database import Database
from ecocore.accounts.keys import KEY_LENGTH, KeyOwner, KeyStore, is_well_formed, new_key
from ecocore.accounts.schema import keys as keys_table
from ecocore.errors import InvalidConfiguration


@pytest.fixture
def keys(database: Database) -> KeyStore:
    return KeyStore(database)


def test_keys_have_one_form_and_never_repeat() -> None:
    made = {new_key() for _ in range(500)}
    assert len(made) == 500
    for key in made:
        assert key.startswith("eco_")
        assert len(key) == KEY_LENGTH == 53
        assert key[4:].isalnum()
        assert is_well_formed(key)


@given(st.integers(4, KEY_LENGTH - 1), st.sampled_from("0aZ"))
def test_a_mistyped_letter_is_noticed(place: int, letter: str) -> None:
    key = new_key()
    typed = key[:place] + letter + key[place + 1 :]
    assert is_well_formed(typed) is (typed == key)


@pytest.mark.parametrize(
    "text", ["", "eco_", "x" * 53, "eco_" + "a" * 49, "eco_" + "\u00e9" * 49, new_key() + "0", new_key()[:-1]]
)
def test_what_is_no_key_is_no_key(text: str) -> None:
    assert not is_well_formed(text)


async def test_a_key_finds_its_owner(keys: KeyStore) -> None:
    key = await keys.create("laptop")
    key_id = int(hashlib.sha256(key.encode()).hexdigest()[:16], 16)
    assert await keys.find(key) == KeyOwner(account_id=1, account="default", key_name="laptop", key_id=key_id)
    assert await keys.find(new_key()) is None


async def test_a_key_is_shown_once_and_its_text_is_in_no_table(keys: KeyStore, database: Database) -> None:
    key = await keys.create("laptop")
    async with database.reading() as connection:
        (row,) = await connection.execute(select(keys_table))
    assert row.prefix == key[:8]
    assert key[8:] not in repr(row)
    assert key[4:-6] not in repr(row)


async def test_a_key_is_in_no_file(tmp_path: Path) -> None:
    database = await Database.open(f"sqlite:///{tmp_path / 'data' / 'ecocore.db'}")
    key = await KeyStore(database).create("laptop")
    stored = b"".join(file.read_bytes() for file in (tmp_path / "data").iterdir())
    await database.close()
    assert key[:8].encode() in stored
    assert key[8:].encode() not in stored
    assert key[4:-6].encode() not in stored


async def test_what_another_process_changes_holds_at_once(keys: KeyStore, database_url: str) -> None:
    other = await Database.open(database_url)
    key = await KeyStore(other).create("made elsewhere")
    assert await keys.find(key) is not None
    async with other.writing() as connection:
        await connection.execute(update(keys_table).values(revoked=1))
    await other.close()
    assert await keys.find(key) is None


async def test_the_first_key_is_told_from_the_others(keys: KeyStore) -> None:
    assert await keys.is_empty()
    await keys.create("first")
    assert not await keys.is_empty()


@pytest.mark.parametrize("name", ["", "  ", "x" * 129])
async def test_a_key_has_a_name(keys: KeyStore, name: str) -> None:
    with pytest.raises(InvalidConfiguration, match="name"):
        await keys.create(name)


async def test_a_key_belongs_to_an_account_that_is_there(keys: KeyStore) -> None:
    with pytest.raises(InvalidConfiguration, match="nobody"):
        await keys.create("laptop", account="nobody")
    assert await keys.is_empty()


@given(st.text())
def test_any_text_may_be_asked_for(text: str) -> None:
    assert not is_well_formed(text)
