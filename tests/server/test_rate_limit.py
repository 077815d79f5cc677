"""What a key's limits look like over HTTP: refusals, when to come again, and headers on every answer."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from openai import RateLimitError
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Router
from starlette.types import Receive, Scope, Send
from tests.servers import Redis

from ecocore.accounts.keys import KeyLimits, KeyStore
from ecocore.accounts.limits import KeyCounts
from ecocore.errors import ModelNotFound
from ecocore.server.auth import Policy, PolicyRoute, enforce
from ecocore.server.guard import Guard, Limits
from ecocore.server.metrics import Metrics
from ecocore.server.rate_limit import RateLimiter, allowance, duration

HOST = (b"host", b"localhost")


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Model:
    """Uses an allowance as every endpoint that runs a model does: ten tokens in, `answer_tokens` out."""

    def __init__(self, answer_tokens: int = 5) -> None:
        self.answer_tokens = answer_tokens
        self.prompt_tokens = 10
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.begun = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        allowed = allowance(scope)
        async with allowed.request():
            await allowed.admit_tokens(self.prompt_tokens)
            self.begun.set()
            await self.may_end.wait()
            allowed.spend(self.answer_tokens)
            await self.answer(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse({})(scope, receive, send)


class Streaming(Model):
    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def pieces() -> Any:
            yield b"a"
            yield b"b"

        await StreamingResponse(pieces())(scope, receive, send)


class Server:
    """A guard and a key before a model, with a clock."""

    def __init__(self, keys: KeyStore, model: Model, exchange: Callable[..., Awaitable[Any]]) -> None:
        self.clock = Clock()
        self.limiter = RateLimiter(KeyCounts(clock=self.clock))
        self.model = model
        routes = [
            PolicyRoute("/", model, methods=["POST"], policy=Policy.KEY),
            PolicyRoute("/none", self._fail, methods=["POST"], policy=Policy.KEY),
            PolicyRoute("/list", self._list, methods=["GET"], policy=Policy.KEY),
        ]
        self._app = Guard(Router(enforce(routes, keys, self.limiter)), Limits())
        self._exchange = exchange

    async def ask(self, key: str, path: str = "/", method: str = "POST") -> Any:
        return await self._exchange(
            self._app, path=path, method=method, headers=[HOST, (b"authorization", b"Bearer " + key.encode())]
        )

    async def _fail(self, _request: Request) -> JSONResponse:
        raise ModelNotFound("model", "there is none")

    async def _list(self, _request: Request) -> JSONResponse:
        return JSONResponse({})


@pytest.fixture
def server(keys: KeyStore, exchange: Any) -> Server:
    return Server(keys, Model(), exchange)


async def key_with(keys: KeyStore, **limits: int) -> str:
    return await keys.create("limited", limits=KeyLimits(**limits))


def told(answered: Any) -> dict[str, str]:
    """The headers that are about limits."""
    return {name: value for name, value in answered.headers.items() if name.startswith(("x-ratelimit", "retry", "x-should"))}


async def test_a_key_without_limits_hears_of_none(keys: KeyStore, server: Server) -> None:
    key = await keys.create("free")
    for _ in range(20):
        answered = await server.ask(key)
        assert (answered.status, told(answered)) == (200, {})


async def test_requests_of_a_minute_are_counted_down_and_then_refused(keys: KeyStore, server: Server) -> None:
    key = await key_with(keys, requests_per_minute=2)
    assert told(await server.ask(key)) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "1m0s",
    }
    server.clock.now += 20.5
    assert told(await server.ask(key))["x-ratelimit-remaining-requests"] == "0"
    server.clock.now += 10
    refused = await server.ask(key)
    assert refused.status == 429
    assert refused.error == {
        "message": "this key may send 2 requests per minute, and they are used up; retry in 29.5s, or ask the operator for a "
        "higher limit",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert told(refused) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "50s",
        "retry-after": "30",
        "retry-after-ms": "29500",
    }
    server.clock.now += 29.5
    assert (await server.ask(key)).status == 200


async def test_tokens_of_prompts_must_fit_and_those_of_answers_are_counted_after(keys: KeyStore, server: Server) -> None:
    key = await key_with(keys, tokens_per_minute=30)
    first = await server.ask(key)
    assert told(first) == {
        "x-ratelimit-limit-tokens": "30",
        "x-ratelimit-remaining-tokens": "20",
        "x-ratelimit-reset-tokens": "1m0s",
    }
    server.clock.now += 1
    server.model.answer_tokens = 100
    # Ten and five were used: the next prompt fits, and its answer goes beyond the limit.
    assert told(await server.ask(key))["x-ratelimit-remaining-tokens"] == "5"
    refused = await server.ask(key)
    assert refused.status == 429
    assert (refused.error["type"], refused.error["code"]) == ("tokens", "rate_limit_exceeded")
    assert refused.error["message"] == (
        "this key may use 30 tokens per minute, 0 are left, and the prompt has 10; retry in 1m0s, "
        "send a shorter prompt, or ask the operator for a higher limit"
    )
    assert (told(refused)["retry-after"], told(refused)["x-ratelimit-remaining-tokens"]) == ("60", "0")
    server.clock.now += 60
    assert (await server.ask(key)).status == 200


async def test_a_prompt_that_never_fits_is_told_so_and_clients_do_not_retry(keys: KeyStore, server: Server) -> None:
    key = await key_with(keys, tokens_per_minute=9)
    refused = await server.ask(key)
    assert refused.status == 429
    assert refused.error["message"] == (
        "this key may use 9 tokens per minute, and the prompt alone has 10, so waiting does not help; "
        "send a shorter prompt, or ask the operator for a higher limit"
    )
    assert told(refused) == {
        "x-ratelimit-limit-tokens": "9",
        "x-ratelimit-remaining-tokens": "9",
        "x-ratelimit-reset-tokens": "0s",
        "retry-after": "60",
        "retry-after-ms": "60000",
        "x-should-retry": "false",
    }


async def test_no_more_requests_run_at_once_than_the_key_may(keys: KeyStore, server: Server) -> None:
    key = await key_with(keys, concurrency=1, requests_per_minute=10)
    server.model.may_end.clear()
    running = asyncio.create_task(server.ask(key))
    await server.model.begun.wait()
    refused = await server.ask(key)
    assert (refused.status, refused.error["type"], told(refused)["retry-after"]) == (429, "requests", "1")
    assert refused.error["message"].startswith("this key may have 1 requests running at once, and has them")
    # What finds no place does not count as a request of the minute.
    assert told(refused)["x-ratelimit-remaining-requests"] == "9"
    server.model.may_end.set()
    assert (await running).status == 200
    assert (await server.ask(key)).status == 200


@pytest.mark.parametrize("limits", [{"requests_per_minute": 1}, {"tokens_per_minute": 10}])
async def test_a_refused_request_gives_its_place_back(keys: KeyStore, server: Server, limits: dict[str, int]) -> None:
    key = await key_with(keys, concurrency=1, **limits)
    assert (await server.ask(key)).status == 200
    for _ in range(3):
        assert (await server.ask(key)).status == 429
    assert server.limiter.refused["concurrency"] == 0
    server.clock.now += 61
    assert (await server.ask(key)).status == 200


async def test_a_request_that_is_given_up_gives_its_place_back(keys: KeyStore, server: Server) -> None:
    key = await key_with(keys, concurrency=1)
    server.model.may_end.clear()
    running = asyncio.create_task(server.ask(key))
    await server.model.begun.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    server.model.may_end.set()
    assert (await server.ask(key)).status == 200


async def test_every_answer_tells_the_limits_that_the_key_has_errors_too(keys: KeyStore, server: Server) -> None:
    key = await key_with(keys, requests_per_minute=5, tokens_per_minute=100)
    await server.ask(key)
    for path, method, status in (("/none", "POST", 404), ("/list", "GET", 200)):
        answered = await server.ask(key, path, method)
        assert answered.status == status
        assert told(answered) == {
            "x-ratelimit-limit-requests": "5",
            "x-ratelimit-remaining-requests": "4",
            "x-ratelimit-reset-requests": "1m0s",
            "x-ratelimit-limit-tokens": "100",
            "x-ratelimit-remaining-tokens": "85",
            "x-ratelimit-reset-tokens": "1m0s",
        }


async def test_streams_tell_the_limits_too(keys: KeyStore, exchange: Any) -> None:
    server = Server(keys, Streaming(), exchange)
    answered = await server.ask(await key_with(keys, requests_per_minute=5))
    assert answered.body == b"ab"
    assert told(answered)["x-ratelimit-remaining-requests"] == "4"


async def test_who_has_no_key_hears_of_no_limits(keys: KeyStore, server: Server) -> None:
    await key_with(keys, requests_per_minute=5)
    answered = await server.ask("eco_wrong")
    assert (answered.status, told(answered)) == (401, {})


async def test_what_was_refused_is_counted_by_limit(keys: KeyStore, server: Server) -> None:
    key = await key_with(keys, requests_per_minute=1)
    other = await key_with(keys, tokens_per_minute=1)
    for _ in range(4):
        await server.ask(key)
    await server.ask(other)
    response = await Metrics((), server.limiter).answer(Request({"type": "http"}))
    families = {family.name: family for family in text_string_to_metric_families(bytes(response.body).decode())}
    refusals = families["ecocore_rate_limit_refusals"].samples
    assert {sample.labels["limit"]: sample.value for sample in refusals} == {"requests": 3, "tokens": 1, "concurrency": 0}
    assert "ecocore_rate_limit_redis_lost" not in families


def limit_every_key(live: Any, **limits: int) -> None:
    with sqlite3.connect(live.database_url.removeprefix("sqlite:///")) as database:
        for name, limit in limits.items():
            database.execute(f"UPDATE keys SET {name} = ?", (limit,))


def test_chats_plain_and_streamed_use_the_limits_of_their_key(serving_with: Any) -> None:
    with serving_with() as live:
        limit_every_key(live, requests_per_minute=3, tokens_per_minute=10_000)
        first = live.chat(max_tokens=7)
        prompt = first.json()["usage"]["prompt_tokens"]
        assert first.headers["x-ratelimit-remaining-tokens"] == str(10_000 - prompt)
        second = live.chat(max_tokens=5, stream=True)
        assert second.headers["x-ratelimit-remaining-tokens"] == str(10_000 - 2 * prompt - 7)
        assert live.chat(model="none").status_code == 404
        too_long = live.chat(messages=[{"role": "user", "content": "x" * 9000}])
        assert (too_long.status_code, too_long.headers["x-ratelimit-remaining-requests"]) == (400, "0")
        with live.client() as client, pytest.raises(RateLimitError) as refused:
            client.chat.completions.create(model="some-maker/some-model", messages=[{"role": "user", "content": "hello"}])
        assert (refused.value.type, refused.value.code) == ("requests", "rate_limit_exceeded")
        headers = refused.value.response.headers
        assert 50 < int(headers["retry-after"]) <= 60
        assert headers["x-ratelimit-remaining-tokens"] == str(10_000 - 2 * prompt - 12)


def test_what_a_client_that_left_was_told_counts(serving_with: Any) -> None:
    with serving_with(tokens_per_second=200) as live, live.http() as http:
        limit_every_key(live, tokens_per_minute=10_000, concurrency=1)
        body = {
            "model": "some-maker/some-model",
            "messages": [{"role": "user", "content": "hello"}],
            "temperature": 0,
            "stream": True,
        }
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            left = int(answer.headers["x-ratelimit-remaining-tokens"])
            assert live.chat().status_code == 429
            lines = answer.iter_lines()
            for _ in range(40):
                next(lines)
        assert live.becomes_idle()
        assert live.eventually(lambda: live.chat(max_tokens=1).status_code == 200, 5)
        assert int(http.get("/v1/models").headers["x-ratelimit-remaining-tokens"]) < left - 10


def redis_lost(url: str) -> float:
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    (sample,) = next(family for family in families if family.name == "ecocore_rate_limit_redis_lost").samples
    return sample.value


@pytest.mark.redis
def test_a_server_goes_on_without_its_redis_and_tells_so(serving_with: Any, lone_redis: Redis) -> None:
    with serving_with(redis_url=lone_redis.url) as live, live.http() as http:
        limit_every_key(live, requests_per_minute=9)
        assert live.eventually(lambda: redis_lost(live.url) == 0, 10)
        assert http.get("/v1/models").headers["x-ratelimit-remaining-requests"] == "9"
        lone_redis.kill()
        answered = http.get("/v1/models")
        assert (answered.status_code, answered.headers["x-ratelimit-remaining-requests"]) == (200, "9")
        assert redis_lost(live.url) == 1
        lone_redis.start()
        assert live.eventually(lambda: redis_lost(live.url) == 0, 20)


@pytest.mark.parametrize(
    ("seconds", "spelled"),
    [
        (0, "0s"),
        (0.0001, "1ms"),
        (0.02, "20ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (7.66, "7.66s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (100.25, "1m40.25s"),
        (360, "6m0s"),
        (3600, "1h0m0s"),
    ],
)
def test_durations_are_spelled_as_openai_spells_them(seconds: float, spelled: str) -> None:
    assert duration(seconds) == spelled
