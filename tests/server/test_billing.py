"""Money over HTTP: who may ask, what is taken, what is given back, and the same answer under the same key."""

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from tests.live_server import MODEL, Live, answering, database_in, serving
from tests.regions.isolated import isolated, kill

from ecocore.accounts.books import Account, Books, Entry
from ecocore.accounts.database import Database, _Writer
from ecocore.accounts.ledger import Ledger
from ecocore.accounts.money import cost, parse_usd
from ecocore.server import delivery
from ecocore.server.wire import Answer

Result = TypeVar("Result")

INPUT = parse_usd("0.05")
OUTPUT = parse_usd("0.10")
DOLLAR = 10**9


class Bank:
    """A server that bills, with its books beside it."""

    def __init__(self, live: Live) -> None:
        self.live = live

    def ask(self, act: Callable[[Books], Coroutine[Any, Any, Result]]) -> Result:
        async def asked() -> Result:
            database = await Database.open(self.live.database_url)
            try:
                return await act(Books(database))
            finally:
                await database.close()

        return asyncio.run(asked())

    def account(self) -> Account:
        """Its sums are checked."""
        assert self.ask(Books.check) == []
        return self.ask(Books.accounts)[0]

    def entries(self) -> list[Entry]:
        return self.ask(lambda books: books.entries("default"))

    def fund(self, nanos: int = DOLLAR) -> None:
        self.ask(lambda books: books.set_price(MODEL, INPUT, OUTPUT))
        self.ask(lambda books: books.credit("default", nanos))


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with serving(tmp_path, prepaid=True, spools=tmp_path / "spool", grace=0.2) as live:
        yield Bank(live)


@pytest.fixture
def slow_bank(tmp_path: Path) -> Iterator[Bank]:
    with serving(tmp_path, tokens_per_second=50, prepaid=True, spools=tmp_path / "spool", grace=0.2) as live:
        yield Bank(live)


def price_of(usage: dict[str, Any]) -> int:
    return cost(usage["prompt_tokens"], INPUT) + cost(usage["completion_tokens"], OUTPUT)


def error_of(response: Any) -> tuple[int, str | None, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


def test_a_model_without_a_price_is_not_free(bank: Bank) -> None:
    bank.ask(lambda books: books.credit("default", DOLLAR))
    status, code, message = error_of(bank.live.chat())
    assert (status, code) == (402, "model_not_priced")
    assert MODEL in message


def test_a_price_that_is_taken_away_holds_for_the_next_request(bank: Bank) -> None:
    bank.fund()
    assert bank.live.chat().status_code == 200
    bank.ask(lambda books: books.remove_price(MODEL))
    assert error_of(bank.live.chat())[:2] == (402, "model_not_priced")
    with bank.live.http() as http:
        assert http.get("/v1/models").json()["data"][0]["price"] is None


def test_an_account_with_nothing_left_is_refused_before_any_work(bank: Bank) -> None:
    bank.ask(lambda books: books.set_price(MODEL, INPUT, OUTPUT))
    # The prompt does not fit the context either: money is judged before it.
    assert bank.live.chat(messages=[{"role": "user", "content": "x" * 20_000}]).status_code == 402
    status, code, message = error_of(bank.live.chat())
    assert (status, code) == (402, "insufficient_balance")
    assert message == "the account 'default' has no balance left; add credit"
    assert bank.live.runtime.stats()["prompt_tokens"] == 0


def test_an_account_all_of_which_is_held_is_told_to_wait(slow_bank: Bank) -> None:
    slow_bank.fund()
    with slow_bank.live.raw(slow_bank.live.raw_chat()):
        assert slow_bank.live.becomes_busy()
        held = slow_bank.account()
        slow_bank.ask(lambda books: books.credit("default", -held.available))
        message = error_of(slow_bank.live.chat())[2]
    assert message == "the account 'default' has no balance left; add credit, or wait for its running answers to end"


def test_a_refusal_says_which_max_tokens_would_fit_and_it_does(bank: Bank) -> None:
    bank.fund(parse_usd("0.0000100"))
    response = bank.live.chat(n=2)
    status, code, message = error_of(response)
    assert (status, code) == (402, "insufficient_balance")
    fits = int(message.split("max_tokens ")[1].split(",")[0])
    assert error_of(bank.live.chat(n=2, max_tokens=fits + 1))[:2] == (402, "insufficient_balance")
    answer = bank.live.chat(n=2, max_tokens=fits)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 2 * fits


def test_a_refusal_speaks_the_words_of_its_endpoint(bank: Bank) -> None:
    bank.fund(parse_usd("0.0000100"))
    with bank.live.http() as http:
        refused = http.post("/v1/responses", json={"model": MODEL, "input": "hello", "temperature": 0})
        status, code, message = error_of(refused)
        assert (status, code) == (402, "insufficient_balance")
        fits = int(message.split("max_output_tokens ")[1].split(",")[0])
        fields = {"model": MODEL, "input": "hello", "temperature": 0, "max_output_tokens": fits}
        assert http.post("/v1/responses", json=fields).status_code == 200


def test_a_refusal_of_many_choices_says_that_fewer_would_help(bank: Bank) -> None:
    bank.fund(cost(23, INPUT) + cost(4, OUTPUT))
    message = error_of(bank.live.chat(n=5, max_tokens=1))[2]
    assert message.endswith("; add credit, ask for fewer choices, or shorten the prompt")
    assert bank.live.chat(n=4, max_tokens=1).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_costs_what_its_usage_says(bank: Bank, stream: bool) -> None:  # noqa: FBT001
    bank.fund()
    response = bank.live.chat(
        max_tokens=20, n=2, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {})
    )
    if stream:
        events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        usage = json.loads(events[-2])["usage"]
    else:
        usage = response.json()["usage"]
    account = bank.account()
    assert (account.balance, account.reserved) == (DOLLAR - price_of(usage), 0)
    entry = bank.entries()[-1]
    assert (entry.prompt_tokens, entry.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    with bank.live.http() as http:
        assert http.get("/v1/balance").json() == {
            "balance": f"{account.balance / DOLLAR:.9f}".rstrip("0"),
            "reserved": "0.00",
            "available": f"{account.balance / DOLLAR:.9f}".rstrip("0"),
            "currency": "USD",
        }
        (day,) = http.get("/v1/usage").json()["data"]
        assert (day["model"], day["requests"], day["completion_tokens"]) == (MODEL, 1, usage["completion_tokens"])
        assert parse_usd(day["cost"]) == price_of(usage)
        assert http.get("/v1/models").json()["data"][0]["price"] == {"input": "0.05", "output": "0.10", "currency": "USD"}


@pytest.mark.parametrize("prepaid", [False, True])
def test_a_charge_stands_under_the_id_of_its_answer(tmp_path: Path, prepaid: bool) -> None:  # noqa: FBT001
    with serving(tmp_path, prepaid=prepaid, spools=tmp_path / "spool") as live, live.http() as http:
        bank = Bank(live)
        bank.fund()
        ids = [http.post("/v1/chat/completions", json=body(max_tokens=2)).json()["id"]]
        ids.append(http.post("/v1/responses", json={"model": MODEL, "input": "x", "max_output_tokens": 2}).json()["id"])

        def posted() -> list[str]:
            return [entry.request_id for entry in bank.entries() if entry.kind == "usage"]

        assert live.eventually(lambda: posted() == ids, 5)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses"])
def test_every_endpoint_that_runs_a_model_is_billed(bank: Bank, path: str) -> None:
    bank.fund()
    fields = {"prompt": ["a", "bc"], "max_tokens": 5} if path == "/v1/completions" else {"input": "hello", "max_output_tokens": 5}
    with bank.live.http() as http:
        usage = http.post(path, json={"model": MODEL, "temperature": 0, **fields}).json()["usage"]
    told = {
        "prompt_tokens": usage.get("prompt_tokens", usage.get("input_tokens")),
        "completion_tokens": usage.get("completion_tokens", usage.get("output_tokens")),
    }
    assert bank.account().balance == DOLLAR - price_of(told)


def test_who_leaves_pays_for_what_was_delivered(slow_bank: Bank) -> None:
    slow_bank.fund()
    with slow_bank.live.http() as http, http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        pieces = answer.iter_lines()
        seen = 0
        while seen < 5:
            seen += '"content":"' in next(pieces)
        assert slow_bank.account().reserved > 0
    assert slow_bank.live.becomes_idle()
    assert slow_bank.live.eventually(lambda: slow_bank.account().reserved == 0, 5)
    entry = slow_bank.entries()[-1]
    assert entry.kind == "usage"
    assert entry.completion_tokens is not None
    assert 4 <= entry.completion_tokens < 60, "a whole answer has thousands"
    assert -entry.amount == cost(entry.prompt_tokens or 0, INPUT) + cost(entry.completion_tokens, OUTPUT)


def test_a_piece_that_was_handed_over_is_paid_although_the_client_left_before_it_was_through(
    slow_bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_bank.fund()
    send = Answer.send
    pieces = 0

    async def stalls(self: Answer, to: Any, data: bytes) -> None:
        nonlocal pieces
        await send(self, to, data)
        pieces += 1
        if pieces == 3:
            # The last of its bytes still waits for the client to read, who has most of them.
            await asyncio.Event().wait()

    monkeypatch.setattr(Answer, "send", stalls)
    with slow_bank.live.http() as http, http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        lines = answer.iter_lines()
        # The role comes with an empty content.
        seen = -1
        while seen < 3:
            seen += '"content":"' in next(lines)
    assert slow_bank.live.becomes_idle()
    assert slow_bank.live.eventually(lambda: slow_bank.account().reserved == 0, 5)
    assert (slow_bank.entries()[-1].completion_tokens or 0) >= 3


def test_an_engine_that_dies_is_paid_for_what_it_delivered(tmp_path: Path) -> None:
    with isolated(tokens_per_second=50) as region, answering(tmp_path, [region], prepaid=True, grace=0.2) as (welcome, _):
        bank = Bank(Live(cast("Any", None), welcome.url, 0, str(welcome.first_key), database_in(tmp_path), lambda: None))
        bank.fund()
        seen = 0
        with bank.live.http() as http, http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
            lines = answer.iter_lines()
            while seen < 5:
                seen += '"content":"' in next(lines)
            kill(region, signal.SIGKILL)
            rest = [line for line in lines if line]
        seen += sum('"content":"' in line for line in rest)
        assert '"engine_lost"' in rest[-1]
        account, entry = bank.account(), bank.entries()[-1]
        assert account.reserved == 0
        assert entry.completion_tokens == seen - 1, "the first piece is the role alone"
        assert -entry.amount == DOLLAR - account.balance == cost(entry.prompt_tokens or 0, INPUT) + cost(seen - 1, OUTPUT)


def test_a_server_that_is_told_to_end_leaves_no_hold(tmp_path: Path) -> None:
    with serving(tmp_path, tokens_per_second=50, prepaid=True, spools=tmp_path / "spool", grace=0.2) as live:
        bank = Bank(live)
        bank.fund()
        last: list[bytes] = []

        def follow() -> None:
            with live.http() as http, http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
                last.append(b"".join(answer.iter_raw())[-300:])

        threads = [threading.Thread(target=follow) for _ in range(20)]
        for thread in threads:
            thread.start()
        assert live.becomes_busy(20)
        live.stop()
        for thread in threads:
            thread.join()
        assert all(b'"shutting_down"' in end for end in last)
        assert live.eventually(lambda: bank.account().reserved == 0, 10)
        usage = [entry for entry in bank.entries() if entry.kind == "usage"]
        assert len(usage) == 20
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_plain_answer_that_nobody_waits_for_costs_nothing(slow_bank: Bank) -> None:
    slow_bank.fund()
    connection = slow_bank.live.raw(slow_bank.live.raw_chat())
    assert slow_bank.live.becomes_busy()
    connection.close()
    assert slow_bank.live.becomes_idle()
    assert slow_bank.live.eventually(lambda: slow_bank.account().reserved == 0, 5)
    assert slow_bank.account().balance == DOLLAR


def test_a_refused_request_holds_nothing(bank: Bank) -> None:
    bank.fund()
    assert bank.live.chat(messages=[{"role": "user", "content": "x" * 20_000}]).status_code == 400
    assert bank.live.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}).status_code == 400
    account = bank.account()
    assert (account.balance, account.reserved) == (DOLLAR, 0)


def test_many_at_once_never_get_more_than_the_balance_pays(bank: Bank) -> None:
    answer = bank.live
    bank.fund(DOLLAR)
    usage = answer.chat(max_tokens=10).json()["usage"]
    each = price_of(usage)
    rest = bank.account().balance
    bank.ask(lambda books: books.credit("default", -rest + 10 * each))
    outcomes: list[int] = []
    threads = [threading.Thread(target=lambda: outcomes.append(answer.chat(max_tokens=10).status_code)) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(200) == 10
    assert outcomes.count(402) == 40
    assert bank.account().balance == 0


def body(**fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}


def test_the_same_key_gives_the_same_answer_and_costs_once(bank: Bank) -> None:
    bank.fund()
    with bank.live.http() as http:
        headers = {"idempotency-key": "order-1"}
        first = http.post("/v1/chat/completions", json=body(max_tokens=5), headers=headers)
        balance = bank.account().balance
        assert "idempotent-replayed" not in first.headers
        # The same members in another order are the same request.
        again = http.post("/v1/chat/completions", json=dict(reversed(body(max_tokens=5).items())), headers=headers)
        assert (again.status_code, again.content) == (200, first.content)
        assert again.headers["idempotent-replayed"] == "true"
        assert bank.account().balance == balance
        other = http.post("/v1/chat/completions", json=body(max_tokens=6), headers=headers)
        assert error_of(other)[:2] == (400, "idempotency_key_reused")
        assert error_of(http.post("/v1/chat/completions", json=body(), headers={"idempotency-key": "a b"}))[0] == 400


def test_a_failed_request_may_be_sent_again_under_its_key(bank: Bank) -> None:
    bank.fund(1)
    with bank.live.http() as http:
        headers = {"idempotency-key": "order-1"}
        assert http.post("/v1/chat/completions", json=body(max_tokens=5), headers=headers).status_code == 402
        bank.ask(lambda books: books.credit("default", DOLLAR))
        assert http.post("/v1/chat/completions", json=body(max_tokens=5), headers=headers).status_code == 200


def test_a_key_whose_first_request_runs_is_in_conflict(slow_bank: Bank) -> None:
    slow_bank.fund()
    raw = slow_bank.live.raw_chat().replace(b"Host:", b"Idempotency-Key: order-1\r\nHost:")
    connection = slow_bank.live.raw(raw)
    assert slow_bank.live.becomes_busy()
    with slow_bank.live.http() as http:
        refused = http.post("/v1/chat/completions", json=body(), headers={"idempotency-key": "order-1"})
        assert error_of(refused)[:2] == (409, "idempotency_conflict")
        assert refused.headers["retry-after"] == "1"
        connection.close()
        assert slow_bank.live.becomes_idle()

        def is_free() -> bool:
            answer = http.post("/v1/chat/completions", json=body(max_tokens=2), headers={"idempotency-key": "order-1"})
            return answer.status_code == 200

        assert slow_bank.live.eventually(is_free, 5)


def test_an_answer_that_was_paid_is_kept_for_the_client_that_left(slow_bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_bank.fund()
    gate, settling, left = threading.Event(), threading.Event(), threading.Event()
    gate.set()
    transact, settle, leaves = _Writer._transact, Ledger.settle, delivery._client_leaves

    def gated(self: _Writer, work: Any) -> Any:
        gate.wait(20)
        return transact(self, work)

    def seen(self: Ledger, *arguments: Any) -> Any:
        settling.set()
        return settle(self, *arguments)

    async def leaving(receive: Any) -> None:
        await leaves(receive)
        left.set()

    monkeypatch.setattr(_Writer, "_transact", gated)
    monkeypatch.setattr(Ledger, "settle", seen)
    monkeypatch.setattr(delivery, "_client_leaves", leaving)
    headers = {"idempotency-key": "order-1"}
    raw = slow_bank.live.raw_chat(max_tokens=10).replace(b"Host:", b"Idempotency-Key: order-1\r\nHost:")
    with slow_bank.live.raw(raw) as connection:
        assert slow_bank.live.becomes_busy()
        # From here on, a hold of somebody else keeps the disk busy.
        gate.clear()
        with slow_bank.live.raw(slow_bank.live.raw_chat(max_tokens=1)), slow_bank.live.http() as http:
            assert settling.wait(5)
            connection.close()
            assert left.wait(5)
            # What the server does for a client that left is on its way when it has answered another.
            assert http.get("/health").status_code == 200
            gate.set()
            assert slow_bank.live.becomes_idle()
    with slow_bank.live.http() as http:
        again = http.post("/v1/chat/completions", json=body(max_tokens=10), headers=headers)
        assert again.headers.get("idempotent-replayed") == "true"
        assert slow_bank.live.eventually(lambda: slow_bank.account().reserved == 0, 5)
        tokens = again.json()["usage"]["completion_tokens"]
        assert [entry.completion_tokens for entry in slow_bank.entries()].count(tokens) == 1


def test_without_billing_use_is_counted_and_nothing_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as live, live.http() as http:
        usage = live.chat(max_tokens=7).json()["usage"]

        def told() -> list[Any]:
            data: list[Any] = http.get("/v1/usage").json()["data"]
            return data

        assert live.eventually(lambda: len(told()) == 1, 5)
        (day,) = told()
        assert (day["completion_tokens"], day["cost"]) == (usage["completion_tokens"], "0.00")
        assert http.get("/v1/balance").json()["balance"] == "0.00"
        assert http.get("/v1/usage?days=0").status_code == 400
