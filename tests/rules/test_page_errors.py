"""The error table of the published API page, row by row: each status is provoked on a live server and answers as it says."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.live_server import MODEL, Live, serving
from tests.rules.conftest import Api, envelope

from ecocore.accounts.books import Books
from ecocore.accounts.database import Database
from ecocore.accounts.keys import KeyLimits, KeyStore
from ecocore.accounts.money import parse_usd

PRICED = MODEL


class Bank(Api):
    """Bills, and its key may ask once a minute once `limited`."""

    def books(self, act: Any) -> Any:
        async def asked() -> Any:
            database = await Database.open(self.live.database_url)
            try:
                return await act(Books(database), KeyStore(database))
            finally:
                await database.close()

        return asyncio.run(asked())


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with serving(tmp_path, prepaid=True, spools=tmp_path / "spool") as live:
        bank = Bank(live)
        with bank.client:
            yield bank


async def priced(books: Books, _keys: KeyStore) -> None:
    await books.set_price(PRICED, parse_usd("0.05"), parse_usd("0.10"))


async def funded(books: Books, _keys: KeyStore) -> None:
    await books.credit("default", parse_usd("1"))


def raw(live: Live, headers: dict[str, str]) -> Any:
    with live.http() as http:
        del http.headers["authorization"]
        return http.post("/v1/chat/completions", json={"model": MODEL, "messages": []}, headers=headers)


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer eco_wrong"}, {"authorization": "Basic eco_x"}])
def test_401_a_bad_or_missing_key(bank: Bank, headers: dict[str, str]) -> None:
    """The key is judged first: the body, which has no message, is not looked at."""
    response = raw(bank.live, headers)
    assert response.status_code == 401
    assert envelope(response)["code"] == ("invalid_api_key" if headers else None)
    assert response.headers["www-authenticate"] == "Bearer"


def test_402_the_model_has_no_pricing_yet(bank: Bank) -> None:
    bank.books(funded)
    error = bank.refusal(402)
    assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "model_not_priced", None)


def test_402_the_balance_cannot_cover_the_request(bank: Bank) -> None:
    bank.books(priced)
    for fields in ({}, {"stream": True}):
        error = bank.refusal(402, **fields)
        assert (error["type"], error["code"], error["param"]) == ("insufficient_quota", "insufficient_balance", None)
    assert bank.live.runtime.stats()["prompt_tokens"] == 0


def test_404_an_unknown_model(bank: Bank) -> None:
    """Told before money: the spelling of a name costs nothing to learn."""
    with pytest.raises(openai.NotFoundError) as raised:
        bank.client.chat.completions.create(model="nobody", messages=[{"role": "user", "content": "hello"}])
    assert envelope(raised.value.response)["code"] == "model_not_found"


def test_429_rate_limited_back_off_and_retry(bank: Bank) -> None:
    async def limited(_books: Books, keys: KeyStore) -> str:
        return await keys.create("limited", limits=KeyLimits(requests_per_minute=1))

    bank.books(priced)
    bank.books(funded)
    client = openai.OpenAI(base_url=f"{bank.live.url}/v1", api_key=bank.books(limited), max_retries=0)
    with client:
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=1)
        with pytest.raises(openai.RateLimitError) as raised:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}], max_tokens=1)
    response = raised.value.response
    error = envelope(response)
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert 1 <= int(response.headers["retry-after"]) <= 61
    assert response.headers["x-ratelimit-remaining-requests"] == "0"


def test_503_all_regions_unavailable_retry_after_a_few_seconds(tmp_path: Path) -> None:
    with serving(tmp_path) as live:
        live.runtime.close()
        response = live.chat()
    assert response.status_code == 503
    error = envelope(response)
    assert error["type"] == "server_error"
    assert error["code"] in {"all_regions_unavailable", "shutting_down"}
    assert 1 <= int(response.headers["retry-after"]) <= 10
