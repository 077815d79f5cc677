"""More requests at once than a balance pays for, over HTTP, on both databases."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from tests.live_server import MODEL, chat_body, serving

from ecocore.accounts.books import Books
from ecocore.accounts.database import Database
from ecocore.accounts.money import cost, parse_usd

Result = TypeVar("Result")

INPUT, OUTPUT = parse_usd("0.05"), parse_usd("0.10")
TOKENS = 10


async def in_books(url: str, act: Callable[[Books], Coroutine[Any, Any, Result]]) -> Result:
    database = await Database.open(url)
    try:
        assert await Books(database).check() == []
        return await act(Books(database))
    finally:
        await database.close()


async def ask(http: httpx.AsyncClient) -> str:
    response = await http.post("/v1/chat/completions", json=chat_body(max_tokens=TOKENS))
    return "served" if response.status_code == 200 else response.json()["error"]["code"]


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def test_500_at_once_get_no_more_than_a_balance_pays_for(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ecocore.db'}" if kind == "sqlite" else str(request.getfixturevalue("postgres_url"))
    with serving(tmp_path, database_url=url, prepaid=True, spools=tmp_path / "spools") as live:
        async with httpx.AsyncClient(
            base_url=live.url,
            headers={"authorization": f"Bearer {live.key}"},
            limits=httpx.Limits(max_connections=None),
            timeout=60,
        ) as http:
            await in_books(url, lambda books: books.set_price(MODEL, INPUT, OUTPUT))
            await in_books(url, lambda books: books.credit("default", parse_usd("1")))
            prompt = (await http.post("/v1/chat/completions", json=chat_body(max_tokens=1))).json()["usage"]["prompt_tokens"]
            each = cost(prompt, INPUT) + cost(TOKENS, OUTPUT)
            [account] = await in_books(url, Books.accounts)
            await in_books(url, lambda books: books.credit("default", 100 * each - account.balance))

            outcomes = Counter(await asyncio.gather(*(ask(http) for _ in range(500))))
            # As many of one key as may wait are taken, if there is money for them; it is not lost with the others.
            assert outcomes.keys() <= {"served", "insufficient_balance", "rate_limit_exceeded"}
            assert 50 <= outcomes["served"] <= 100
            [account] = await in_books(url, Books.accounts)
            assert (account.balance, account.reserved) == ((100 - outcomes["served"]) * each, 0)
            rest = [await ask(http) for _ in range(100 - outcomes["served"] + 1)]
            assert rest == ["served"] * (len(rest) - 1) + ["insufficient_balance"]
    [account] = await in_books(url, Books.accounts)
    assert (account.balance, account.reserved) == (0, 0)
    assert len(await in_books(url, lambda books: books.entries("default", 1000))) == 2 + 1 + 100
