"""Keys: their form, their secrecy, their life in the database."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, update

from ecocore.accounts.database import Database
from ecocore.accounts.keys import KEY_LENGTH, KeyLimits, KeyOwner, KeyStore, id_of, is_well_formed, new_key
from ecocore.accounts.schema import keys as keys_table
from ecocore.errors import InvalidConfiguration


class Clock:
    """Seconds since 1970, as the test says."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(database: Database, clock: Clock) -> KeyStore:
    return KeyStore(database, clock)


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


async def test_the_owner_of_a_key_comes_with_its_limits(keys: KeyStore) -> None:
    owner = await keys.find(await keys.create("laptop", limits=KeyLimits(60, 1000, 4)))
    assert owner is not None
    assert (owner.requests_per_minute, owner.tokens_per_minute, owner.concurrency) == (60, 1000, 4)


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


@pytest.mark.parametrize("name", ["", "  ", "x" * 129, "a\0b", "a\nb", "\x1b[31m", "\ud800"])
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


async def test_a_key_is_refused_from_the_moment_it_expires(keys: KeyStore, clock: Clock) -> None:
    key = await keys.create("laptop", expires=int(clock.now) + 10)
    clock.now += 9.9
    assert await keys.find(key) is not None
    clock.now += 0.1
    assert await keys.find(key) is None
    assert [stored.state(clock.now) for stored in await keys.all()] == ["expired"]


async def test_a_key_cannot_expire_before_it_is_made(keys: KeyStore, clock: Clock) -> None:
    with pytest.raises(InvalidConfiguration, match="past"):
        await keys.create("laptop", expires=int(clock.now))
    assert await keys.is_empty()


@pytest.mark.parametrize("limits", [KeyLimits(0), KeyLimits(None, -1), KeyLimits(None, None, 2**31)])
async def test_a_limit_is_a_number_that_means_something(keys: KeyStore, limits: KeyLimits) -> None:
    with pytest.raises(InvalidConfiguration, match="must be from 1 to"):
        await keys.create("laptop", limits=limits)
    assert await keys.is_empty()


async def test_limits_change_at_once_and_those_not_named_stay(keys: KeyStore) -> None:
    key = await keys.create("laptop", limits=KeyLimits(60, 1000, None))
    limited = await keys.limit("laptop", {"tokens_per_minute": None, "concurrency": 4})
    assert limited.limits == KeyLimits(60, None, 4)
    owner = await keys.find(key)
    assert owner is not None
    assert (owner.requests_per_minute, owner.tokens_per_minute, owner.concurrency) == (60, None, 4)
    with pytest.raises(InvalidConfiguration, match="concurrency: must be from 1 to"):
        await keys.limit("laptop", {"requests_per_minute": 7, "concurrency": 0})
    assert (await keys.all())[0].limits == KeyLimits(60, None, 4)


async def test_a_key_that_has_ended_has_no_limits_to_change(keys: KeyStore) -> None:
    await keys.create("laptop")
    await keys.revoke("laptop")
    with pytest.raises(InvalidConfiguration, match="none that is in force"):
        await keys.limit("laptop", {"concurrency": 1})


async def test_a_revoked_key_is_refused_at_once_and_stays_in_the_list(keys: KeyStore, clock: Clock) -> None:
    key, other = await keys.create("laptop"), await keys.create("phone")
    revoked = await keys.revoke("laptop")
    assert (revoked.id, revoked.state(clock.now)) == (id_of(key), "revoked")
    assert await keys.find(key) is None
    assert await keys.find(other) is not None
    clock.now -= 3600
    assert await keys.find(key) is None
    assert {stored.name: stored.state(clock.now) for stored in await keys.all()} == {"laptop": "revoked", "phone": "active"}


async def test_a_key_is_named_by_its_name_its_id_or_itself(keys: KeyStore, clock: Clock) -> None:
    made = [await keys.create("laptop") for _ in range(3)]
    with pytest.raises(InvalidConfiguration) as several:
        await keys.revoke("laptop")
    assert all(id_of(key) in str(several.value) for key in made)
    await keys.revoke(id_of(made[0]))
    await keys.revoke(made[1])
    # Those that have ended are no longer meant by the name.
    await keys.revoke("laptop")
    assert [await keys.find(key) for key in made] == [None] * 3


@pytest.mark.parametrize("wanted", ["", "nobody", "0" * 12, "%", "laptop%", "LAPTOP", new_key()])
async def test_a_name_that_no_key_has_ends_none(keys: KeyStore, wanted: str) -> None:
    key = await keys.create("laptop")
    with pytest.raises(InvalidConfiguration, match="none that is in force"):
        await keys.revoke(wanted)
    assert await keys.find(key) is not None


async def test_a_key_that_has_ended_cannot_be_ended_again(keys: KeyStore, clock: Clock) -> None:
    await keys.create("laptop", expires=int(clock.now) + 1)
    clock.now += 1
    for end in (keys.revoke, keys.rotate):
        with pytest.raises(InvalidConfiguration, match="none that is in force"):
            await end("laptop")


async def test_a_rotated_key_hands_on_all_but_its_text(keys: KeyStore, clock: Clock) -> None:
    limits = KeyLimits(5, 600, 7)
    old = await keys.create("laptop", limits=limits, expires=int(clock.now) + 100)
    clock.now += 90
    new = await keys.rotate("laptop")
    assert (await keys.find(old), (await keys.find(new) is not None)) == (None, True)
    (stored,) = [stored for stored in await keys.all() if stored.id == id_of(new)]
    assert (stored.name, stored.account, stored.limits) == ("laptop", "default", limits)
    assert (stored.created, stored.expires) == (clock.now, clock.now + 100)


async def test_a_rotated_key_may_live_on_for_a_while_and_never_longer_than_it_would_have(keys: KeyStore, clock: Clock) -> None:
    old, short = await keys.create("laptop"), await keys.create("phone", expires=int(clock.now) + 60)
    new = await keys.rotate("laptop", keep_seconds=3600)
    await keys.rotate("phone", keep_seconds=3600, expires=int(clock.now) + 7200)
    clock.now += 59
    assert [await keys.find(key) is not None for key in (old, new, short)] == [True, True, True]
    clock.now += 1
    assert [await keys.find(key) is not None for key in (old, new, short)] == [True, True, False]
    clock.now += 3540
    assert [await keys.find(key) is not None for key in (old, new)] == [False, True]


@pytest.mark.parametrize("keep_seconds", [0, 60])
async def test_of_many_who_rotate_one_key_at_once_one_does(keys: KeyStore, keep_seconds: int) -> None:
    key = await keys.create("laptop")
    rotating = (keys.rotate(id_of(key), keep_seconds=keep_seconds) for _ in range(4))
    outcomes = await asyncio.gather(*rotating, return_exceptions=True)
    made = [outcome for outcome in outcomes if isinstance(outcome, str)]
    # A key that lives on for a while may be rotated again, one after the other.
    assert len(made) == 1 if keep_seconds == 0 else len(made) >= 1
    assert all(isinstance(outcome, (str, InvalidConfiguration)) for outcome in outcomes)
    assert len(await keys.all()) == 1 + len(made)
    assert (await keys.find(key) is not None) is (keep_seconds > 0)


async def test_an_id_reveals_nothing_of_its_key(keys: KeyStore) -> None:
    key = await keys.create("laptop")
    (stored,) = await keys.all()
    assert stored.id == id_of(key) == hashlib.sha256(key.encode()).hexdigest()[:12]
    assert key not in repr(stored)
    assert (stored.prefix, len(stored.prefix)) == (key[:8], 8)
