"""The region that is an URL: like the one in this process where the server there is an ecocore, and unharmed by any other."""

import asyncio
import json
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.bench.fake_server import DONE, STREAM_HEAD, Asked, chunk, event, until, usage
from tests.live_server import Live, answering, chat_body, live, serving
from tests.regions.elsewhere import CLOSE, KEY, WHOLE, Clock, elsewhere, posts, stream, told
from tests.regions.heard import MODEL, Heard, request
from tests.regions.peer_process import PACED, PeerProcess, peer_process

from ecocore._core import EventRow
from ecocore.errors import (
    ContextLengthExceeded,
    EcocoreError,
    InvalidConfiguration,
    InvalidParameter,
    InvalidRequest,
    RegionUnavailable,
    RuntimeClosed,
    UnsupportedParameter,
)
from ecocore.regions.breaker import REST_SECONDS, Breaker
from ecocore.regions.local import LocalRegion
from ecocore.regions.region import Owner, Region
from ecocore.regions.remote import ASSUMED_CONTEXT, RemoteRegion
from ecocore.runtime import Runtime

__all__ = ["live"]

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "null"}}}}}


@asynccontextmanager
async def at(server: Live, **settings: Any) -> AsyncIterator[RemoteRegion]:
    """A region at an ecocore."""
    region = RemoteRegion("west", f"{server.url}/v1", MODEL, api_key=server.key, watch=CLOSE, **settings)
    async with region.connected():
        yield region


@pytest.fixture
async def remote(live: Live) -> AsyncIterator[RemoteRegion]:
    async with at(live) as region:
        yield region
        await until(lambda: not region._ending)
        assert region.stats()["open"] == 0


@pytest.fixture
def local() -> Iterator[LocalRegion]:
    with Runtime.mock(MODEL) as runtime:
        region = LocalRegion(runtime)
        yield region
        region.close()


async def run(region: Region, owner: Owner | None = None, **fields: Any) -> list[EventRow]:
    """A request from its judgement to its end."""
    asked = request(**fields)
    heard = Heard(region)
    await (await region.prepare(asked)).start(owner or Owner())
    return await heard.until("finished", asked.n)


def shown(rows: Sequence[EventRow], choice: int) -> list[tuple[Any, ...]]:
    """Everything of a choice's events but what a stream of the API does not tell: ids of tokens, and whose the usage is."""
    facts = ("kind", "text", "index", "name", "reason", "code", "message")

    # The reader of JSON may miss the last bit of a number.
    def entries(row: EventRow) -> list[Any]:
        return [(one[1], f"{one[2]:.12g}", [(top[1], f"{top[2]:.12g}") for top in one[3]]) for one in row.logprobs]

    return [(*(getattr(row, fact) for fact in facts), entries(row)) for row in rows if row.choice == choice]


def used(rows: Sequence[EventRow]) -> tuple[int, int]:
    usages = [row.usage for row in rows if row.kind == "finished"]
    return usages[0][0], sum(usage[2] for usage in usages)


# --- like the region in this process --------------------------------------------------------------------


async def test_an_ecocore_tells_what_its_model_is(remote: RemoteRegion, local: LocalRegion) -> None:
    for name in ("model_id", "context_length", "accepts_images", "abilities", "is_alive"):
        assert getattr(remote, name) == getattr(local, name)
    assert remote.stats().keys() <= local.stats().keys()
    assert remote.fingerprint.startswith("fp_")


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 20},
        {"max_tokens": 5, "n": 3, "logprobs": True, "top_logprobs": 4, "temperature": 1, "seed": 7},
        {"max_tokens": 200, "tools": [TOOL], "tool_choice": "required", "temperature": 1, "seed": 7},
        {"max_tokens": 50, "response_format": {"type": "json_object"}, "temperature": 1, "seed": 7},
        {"max_tokens": 20, "stop": ["e"], "logit_bias": {"97": 5}},
    ],
    ids=["plain", "choices", "tools", "json", "stop"],
)
async def test_the_events_are_those_of_a_local_one(remote: RemoteRegion, local: LocalRegion, fields: dict[str, Any]) -> None:
    there, here = [await run(region, Owner(json.dumps(fields).encode()), **fields) for region in (remote, local)]
    for choice in range(fields.get("n", 1)):
        assert shown(there, choice) == shown(here, choice)
    assert used(there) == used(here)


@pytest.mark.parametrize("prompt", ["abc\u20ac", [65, 66, 67]], ids=["text", "ids"])
async def test_plain_prompts_too(remote: RemoteRegion, local: LocalRegion, prompt: str | list[int]) -> None:
    asked = request(max_tokens=4, logprobs=True, top_logprobs=2)
    rows = []
    for region in (remote, local):
        heard = Heard(region)
        await (await region.prepare_plain(asked, prompt, scores=False)).start(Owner(b"plain"))
        rows.append(await heard.until("finished"))
    assert [row.text for row in rows[0]] == [row.text for row in rows[1]]
    for there, here in zip(*rows, strict=True):
        assert [one[1] for one in there.logprobs] == [one[1] for one in here.logprobs]
        assert [one[2] for one in there.logprobs] == pytest.approx([one[2] for one in here.logprobs], rel=1e-12)
    assert used(rows[0]) == used(rows[1])
    with pytest.raises(UnsupportedParameter, match="echo"):
        await remote.prepare_plain(asked, prompt, scores=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"999999": 1}},
        {"messages": [{"role": "user", "content": "x" * 20_000}]},
        {"stop_token_ids": [999_999]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]},
    ],
    ids=["bias", "context", "stop", "schema", "picture"],
)
async def test_what_is_refused_is_refused_in_the_same_words(
    remote: RemoteRegion, local: LocalRegion, fields: dict[str, Any]
) -> None:
    refused = []
    for region in (remote, local):
        with pytest.raises(InvalidRequest) as error:
            await (await region.prepare(request(**fields))).start(Owner())
        refused.append((str(error.value), error.value.param, error.value.place, error.value.code))
    assert refused[0] == refused[1]
    assert remote.is_alive


async def test_texts_and_ids(remote: RemoteRegion, local: LocalRegion) -> None:
    for special in (True, False):
        for text in ("h\u20ac", ""):
            ids = await remote.tokenize(text, add_special_tokens=special)
            assert ids == await local.tokenize(text, add_special_tokens=special)
    assert await remote.detokenize([72, 73]) == "HI"
    with pytest.raises(InvalidParameter) as refused:
        await remote.detokenize([999_999])
    assert refused.value.param == "ids"


async def test_an_owner_shares_its_cache_with_nobody(remote: RemoteRegion) -> None:
    messages = [{"role": "user", "content": "a long beginning that two requests share " * 10}]
    cached = [(await run(remote, Owner(salt), messages=messages, max_tokens=1))[-1].usage[1] for salt in (b"1", b"1", b"2")]
    assert [count > 0 for count in cached] == [False, True, False]


async def test_a_request_is_bounded_before_anything_is_sent(remote: RemoteRegion) -> None:
    admission = await remote.prepare(request(max_tokens=3, n=2))
    assert (admission.max_completion_tokens, admission.choices) == (6, 2)
    rows = await run(remote, max_tokens=3, n=2)
    assert admission.least_prompt_tokens is not None
    assert admission.least_prompt_tokens <= used(rows)[0] <= admission.prompt_tokens
    unbounded = await remote.prepare(request())
    assert unbounded.max_completion_tokens == remote.context_length


# --- leaving --------------------------------------------------------------------------------------------


async def test_a_request_that_is_cancelled_frees_the_engine_there(tmp_path: Path) -> None:
    with serving(tmp_path, tokens_per_second=20, grace=0.2) as server:
        async with at(server) as region:
            heard = Heard(region)
            admission = await region.prepare(request())
            await admission.start(Owner())
            await heard.until("text")
            region.cancel(admission.request_id)
            assert await asyncio.to_thread(server.becomes_idle)
            assert {row.kind for row in heard.rows} == {"text"}
            await (await region.prepare(request())).start(Owner())
            await until(lambda: region.stats()["running"] == 1)
        # So does a region that is left.
        assert await asyncio.to_thread(server.becomes_idle)
        with pytest.raises(RegionUnavailable):
            await region.prepare(request())


async def test_a_request_that_is_cancelled_while_it_starts_tells_nothing() -> None:
    async with elsewhere(never) as (region, server):
        heard = Heard(region)
        admission = await region.prepare(request())
        starting = asyncio.create_task(begin(region, admission))
        await until(lambda: len(posts(server)) == 1)
        region.cancel(admission.request_id)
        region.cancel(999)
        await starting
        assert heard.rows == []
        assert region.stats()["open"] == 0


async def test_so_does_one_whose_caller_left() -> None:
    async with elsewhere(never) as (region, server):
        starting = asyncio.create_task(begin(region, await region.prepare(request())))
        await until(lambda: len(posts(server)) == 1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert region.stats()["open"] == 0


async def begin(_region: RemoteRegion, admission: Any) -> None:
    await admission.start(Owner())


async def never(_asked: Asked, _writer: Any) -> None:
    """Takes the request and says nothing."""
    await asyncio.Event().wait()


async def test_what_is_not_connected_says_so() -> None:
    region = RemoteRegion("west", "http://127.0.0.1:9", MODEL)
    assert not region.is_alive
    with pytest.raises(RegionUnavailable):
        await region.prepare(request())
    with pytest.raises(RuntimeClosed):
        await region.tokenize("x", add_special_tokens=False)


# --- other servers --------------------------------------------------------------------------------------


async def test_a_plain_server_is_told_the_api_alone_and_its_connection_is_used_again() -> None:
    async with elsewhere(WHOLE, model_there=None) as (region, server):
        for _ in range(3):
            rows = await run(region, Owner(b"account 1"), priority=3, store=True, max_tokens=7)
            assert [row.text for row in rows[:-1]] == ["a", "b"]
            assert (rows[-1].reason, rows[-1].usage) == ("stop", (5, 0, 3, 0))
            await until(lambda: not region._ending)
        sent = posts(server)
        assert [asked.path for asked in sent] == ["/v1/chat/completions"] * 3
        assert sent[0].body.keys() == {"model", "messages", "temperature", "top_p", "max_tokens", "stream", "stream_options"}
        assert sent[0].headers["authorization"] == f"Bearer {KEY}"
        assert sent[0].headers["accept-encoding"] == "identity"
        assert not {"cookie", "x-ecocore-salt"} & sent[0].headers.keys()
        assert server.connections <= 2, "one for the requests, and one for the watch"
        assert region.stats()["prompt_tokens"] == 15


async def test_the_model_may_have_another_name_there() -> None:
    listed = {"data": [{"id": "theirs", "max_model_len": 77}]}
    refusing = told(400, {"error": {"message": "theirs is too small", "param": None}})
    async with elsewhere(refusing, listed=listed, model_there="theirs") as (region, server):
        assert region.context_length == 77
        with pytest.raises(InvalidRequest, match=f"{MODEL} is too small"):
            await run(region)
        assert posts(server)[0].body["model"] == "theirs"
    async with elsewhere(WHOLE, listed={"data": []}) as (region, _):
        assert region.context_length == ASSUMED_CONTEXT
        await run(region)
    async with elsewhere(WHOLE, listed=listed, model_there="theirs", context_length=9) as (region, _):
        assert region.context_length == 9


@pytest.mark.parametrize("cut", range(0, 80, 7))
async def test_a_stream_may_come_in_any_pieces(cut: int) -> None:
    whole = b"".join([event("a"), b": ping\n\n", event("b", finish_reason="length"), DONE])
    async with elsewhere(stream(whole[:cut] or b"\n", whole[cut:])) as (region, _):
        rows = await run(region)
        assert [row.text for row in rows] == ["a", "b", ""]
        assert rows[-1].reason == "length"


async def test_a_server_that_tells_no_tokens_says_so_to_those_who_ask() -> None:
    async with elsewhere(told(404, {"detail": "Not Found"})) as (region, server):
        with pytest.raises(UnsupportedParameter):
            await region.tokenize("x", add_special_tokens=True)
        with pytest.raises(UnsupportedParameter):
            await region.detokenize([1])
        # What every text begins with is not known; completions go on without, and ask once.
        before = len(posts(server))
        for _ in range(3):
            assert await region.tokenize("", add_special_tokens=True) == []
        assert len(posts(server)) == before + 1
        assert region.is_alive


@pytest.mark.parametrize("value", [{"tokens": "x"}, {"tokens": [1, -1]}, {"tokens": [1.5]}, [], {}, None])
async def test_tokens_that_are_none_are_not_believed(value: Any) -> None:
    async with elsewhere(told(200, value)) as (region, _):
        with pytest.raises(UnsupportedParameter):
            await region.tokenize("x", add_special_tokens=False)


@pytest.mark.parametrize(("status", "alive"), [(200, True), (404, True), (401, True), (302, True), (500, False), (503, False)])
async def test_whatever_is_said_of_health_is_a_sign_of_life_but_that_there_is_none(status: int, *, alive: bool) -> None:
    async with elsewhere(WHOLE, health=lambda: status) as (region, server):
        assert region.is_alive is alive
        assert all("authorization" not in asked.headers for asked in server.asked if asked.path == "/health")


# --- whose fault ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"error": {"message": "no", "param": "n", "code": "x"}}, InvalidRequest),
        (400, {"error": {"message": "no", "code": "context_length_exceeded"}}, ContextLengthExceeded),
        (413, {"error": {"message": "no"}}, InvalidRequest),
        (422, {"detail": [{"loc": ["body", "n"], "msg": "no"}]}, InvalidRequest),
        (400, "no", RegionUnavailable),
        *(
            (status, {"error": {"message": "no"}}, RegionUnavailable)
            for status in (401, 402, 403, 404, 408, 409, 429, 500, 502, 503)
        ),
        (200, {"choices": []}, RegionUnavailable),
        (204, {}, RegionUnavailable),
    ],
)
async def test_each_status_is_the_clients_fault_or_for_another_region(status: int, error: Any, kind: type[EcocoreError]) -> None:
    async with elsewhere(told(status, error)) as (region, _):
        with pytest.raises(kind):
            await run(region)
        assert region.stats()["open"] == 0


async def test_redirects_are_not_followed() -> None:
    async with elsewhere(told(307, {}, "Location: /v1/elsewhere")) as (region, server):
        with pytest.raises(RegionUnavailable):
            await run(region)
        assert [asked.path for asked in posts(server)] == ["/v1/chat/completions"]


async def test_what_is_packed_is_not_unpacked() -> None:
    async def packed(_asked: Asked, writer: Any) -> None:
        head = STREAM_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
        writer.write(head + chunk(b"\x1f\x8b" + bytes(100)))

    async with elsewhere(packed) as (region, _):
        with pytest.raises(RegionUnavailable):
            await run(region)


async def test_an_error_without_an_end_takes_no_memory() -> None:
    written = 0

    async def endless(_asked: Asked, writer: Any) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 400 No\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(chunk(b"[" * 65536))
            written += 65536
            await writer.drain()

    async with elsewhere(endless) as (region, _):
        with pytest.raises(RegionUnavailable):
            await run(region)
        assert written < 16 * 2**20


async def test_what_lies_with_our_settings_is_told_once_and_the_key_never(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def talkative(asked: Asked, writer: Any) -> None:
        secret = asked.headers["authorization"]
        if len(posts(server)) % 2:
            await told(401, {"error": {"message": secret}}, f"X-Secret: {secret}")(asked, writer)
        else:
            await told(400, {"error": {"message": f"no {secret} {KEY}!", "param": KEY, "code": KEY}})(asked, writer)

    errors: list[BaseException] = []
    async with elsewhere(talkative) as (region, server):
        for number in range(6):
            with pytest.raises(EcocoreError) as caught:
                await run(region)
            assert isinstance(caught.value, InvalidRequest if number % 2 else RegionUnavailable)
            errors.append(caught.value)
        errors.append(await failure_of(RemoteRegion("east", "http://127.0.0.1:9", MODEL, api_key=KEY)))
        told_by = [
            caplog.text,
            repr(region),
            repr(region._peer),
            repr(vars(region).keys()),
            *map(repr, errors),
            *map(str, errors),
        ]
    assert not any(KEY in words for words in told_by)
    assert caplog.text.count("status 401") == 1


async def failure_of(region: RemoteRegion) -> EcocoreError:
    async with region.connected():
        with pytest.raises(EcocoreError) as caught:
            await run(region)
    return caught.value


@pytest.mark.parametrize(
    ("url", "key", "words"),
    [
        ("ftp://x", None, "http:// or https://"),
        ("x.example", None, "http:// or https://"),
        ("http://", None, "http:// or https://"),
        ("http://[::1", None, "is none"),
        ("https://user:secret@x.example", None, "no user"),
        ("https://x.example/v1?key=secret", None, "no user"),
        ("https://x.example", "secret\n", "printable"),
        ("https://x.example", "secr\u20act", "printable"),
        ("https://x.example", "", "printable"),
    ],
)
def test_wrong_settings_are_named_without_their_secrets(url: str, key: str | None, words: str) -> None:
    with pytest.raises(InvalidConfiguration, match=words) as wrong:
        RemoteRegion("west", url, MODEL, api_key=key)
    assert "'west'" in str(wrong.value)
    assert "secr" not in str(wrong.value)


# --- losing it ------------------------------------------------------------------------------------------


async def test_a_server_that_is_lost_before_its_head_is_unavailable() -> None:
    async def lost(_asked: Asked, writer: Any) -> None:
        writer.transport.abort()

    async with elsewhere(lost) as (region, _):
        heard = Heard(region)
        with pytest.raises(RegionUnavailable, match="retry"):
            await begin(region, await region.prepare(request()))
        assert heard.rows == []


@pytest.mark.parametrize(
    "events",
    [
        [],
        [b": ping\n\n"],
        [event("")],
        [event("a")],
        [event("a"), b"data: {"],
        [event("a"), DONE],
        [b"data: {}}\n\n"],
    ],
    ids=["head", "ping", "role", "text", "half", "done", "broken"],
)
async def test_after_its_head_it_fails_each_choice_once_after_what_came(events: list[bytes]) -> None:
    async def cut(asked: Asked, writer: Any) -> None:
        await stream(*events, end=b"")(asked, writer)
        writer.close()

    async with elsewhere(cut) as (region, _):
        heard = Heard(region)
        await begin(region, await region.prepare(request(n=2)))
        rows = await heard.until("failed", 2)
        assert [(row.choice, row.code) for row in rows if row.kind == "failed"] == [(0, "engine_lost"), (1, "engine_lost")]
        assert [row.text for row in rows if row.kind == "text"] == ["a"] * events.count(event("a"))


async def test_an_error_in_the_stream_is_a_failure_in_our_words() -> None:
    error = b'data: {"error":{"message":"at 10.0.0.1","code":"engine_error"}}\n\n'
    async with elsewhere(stream(event("a"), error)) as (region, _):
        heard = Heard(region)
        await begin(region, await region.prepare(request()))
        rows = await heard.until("failed")
        assert [row.kind for row in rows] == ["text", "failed"]
        assert rows[-1].code == "engine_lost"
        assert "10.0.0.1" not in rows[-1].message


async def test_five_failures_open_the_breaker_and_a_probe_after_its_rest_closes_it() -> None:
    async def lost(_asked: Asked, writer: Any) -> None:
        writer.transport.abort()

    clock = Clock()
    async with elsewhere(lost, clock=clock) as (region, server):
        for _ in range(5):
            with pytest.raises(RegionUnavailable):
                await run(region)
        assert not region.is_alive
        asked = len(posts(server))
        with pytest.raises(RegionUnavailable):
            await run(region)
        assert len(posts(server)) == asked, "who is not alive is not asked"
        clock.now += REST_SECONDS
        await until_alive(region)


async def test_a_server_that_has_too_much_to_do_or_fails_at_one_request_stays_in_use() -> None:
    for status in (429, 500, 503):
        async with elsewhere(told(status, {})) as (region, _):
            for _ in range(6):
                with pytest.raises(RegionUnavailable):
                    await run(region)
            assert region.is_alive


async def test_a_region_that_is_not_there_at_the_start_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        # Bound and not listened on: nobody else takes the port, and nobody answers there.
        taken.bind(("127.0.0.1", 0))
        region = RemoteRegion("west", f"http://127.0.0.1:{taken.getsockname()[1]}", MODEL)
        async with region.connected():
            assert not region.is_alive
    assert "region west does not answer yet" in caplog.text


async def test_a_region_that_is_down_from_the_start_is_used_once_it_is_there() -> None:
    health = 503
    async with elsewhere(WHOLE, health=lambda: health) as (region, _):
        with pytest.raises(RegionUnavailable):
            await region.prepare(request())
        health = 200
        await until_alive(region)
        await run(region)
        async with asyncio.timeout(20):
            # Its card is read just behind the probe.
            while region.created != 1700000000:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)


async def until_alive(region: RemoteRegion, *, alive: bool = True) -> None:
    async with asyncio.timeout(20):
        while region.is_alive is not alive:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)


# --- a whole server, killed and stopped -----------------------------------------------------------------


@asynccontextmanager
async def process_peer(folder: Path, clock: Clock) -> AsyncIterator[tuple[PeerProcess, RemoteRegion]]:
    with peer_process(folder) as server:
        region = RemoteRegion(
            "west", server.url, MODEL, model_there=PACED, api_key=server.key, watch=CLOSE, breaker=Breaker(clock)
        )
        async with region.connected():
            yield server, region


async def test_a_server_that_is_killed_ends_its_streams_at_once_and_refuses_the_next(tmp_path: Path) -> None:
    async with process_peer(tmp_path, Clock()) as (server, region):
        heard = Heard(region)
        for _ in range(3):
            await begin(region, await region.prepare(request(n=2)))
        await heard.until("text", 6)
        begun = time.monotonic()
        server.send(signal.SIGKILL)
        rows = await heard.until("failed", 6)
        failed = [(row.request_id, row.choice) for row in rows if row.kind == "failed"]
        assert len(set(failed)) == len(failed) == 6
        with pytest.raises(RegionUnavailable):
            await begin(region, await region.prepare(request()))
        assert time.monotonic() - begun < 2.0
        await until_alive(region, alive=False)


async def test_a_server_that_is_stopped_ends_what_waits_there_and_comes_back(tmp_path: Path) -> None:
    clock = Clock()
    async with process_peer(tmp_path, clock) as (server, region):
        heard = Heard(region)
        await begin(region, await region.prepare(request()))
        await heard.until("text")
        server.send(signal.SIGSTOP)
        # One waits for its head; the other has begun, and falls silent.
        with pytest.raises(RegionUnavailable):
            await begin(region, await region.prepare(request()))
        assert (await heard.until("failed"))[-1].code == "engine_lost"
        assert not region.is_alive
        server.send(signal.SIGCONT)
        clock.now += REST_SECONDS
        await until_alive(region)
        rows = await run(region, max_tokens=2)
        assert rows[-1].usage[2] == 2


async def test_a_stream_that_goes_on_is_not_ended_by_probes_that_fail() -> None:
    """The server is too busy for probes, and yet it answers."""
    clock, down = Clock(), False
    release = asyncio.Event()

    async def answer(_asked: Asked, writer: Any) -> None:
        writer.write(STREAM_HEAD + chunk(event("a")))
        while not release.is_set():
            writer.write(chunk(b": ping\n\n"))
            await asyncio.sleep(0.01)
        writer.write(chunk(event(finish_reason="stop") + usage(1, 1) + DONE) + b"0\r\n\r\n")

    async with elsewhere(answer, health=lambda: 500 if down else 200, clock=clock) as (region, server):
        heard = Heard(region)
        await begin(region, await region.prepare(request()))
        await heard.until("text")
        down = True
        await until_alive(region, alive=False)
        probes = len(server.asked)
        await until(lambda: len(server.asked) > probes + 6)
        release.set()
        assert (await heard.until("finished"))[-1].kind == "finished"


# --- behind a server ------------------------------------------------------------------------------------


def test_a_server_in_front_of_another_gives_the_same_answers(live: Live, tmp_path: Path) -> None:
    region = RemoteRegion("west", live.url, MODEL, api_key=live.key, watch=CLOSE)
    chat = chat_body(max_tokens=9, logprobs=True, top_logprobs=2, n=2)
    asked = [
        ("/v1/chat/completions", chat),
        ("/v1/completions", {"model": MODEL, "prompt": "abc", "max_tokens": 4, "temperature": 0, "echo": True}),
        ("/v1/responses", {"model": MODEL, "input": "abc", "max_output_tokens": 4, "temperature": 0}),
        ("/tokenize", {"model": MODEL, "prompt": "abc"}),
        ("/v1/chat/completions", chat_body(temperature=3)),
        ("/v1/chat/completions", chat_body(logit_bias={"999999": 1})),
    ]
    with answering(tmp_path, [region]) as (welcome, _), live.http() as there:
        headers = {"authorization": f"Bearer {welcome.first_key}"}
        with httpx.Client(base_url=welcome.url, headers=headers, timeout=20) as here:
            for path, body in asked:
                answers = [client.post(path, json=body) for client in (here, there)]
                assert answers[0].status_code == answers[1].status_code
                assert said(answers[0].json()) == said(answers[1].json())
            with here.stream("POST", "/v1/chat/completions", json={**chat, "stream": True}) as answer:
                data = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert data.pop() == "[DONE]"
    choices = [choice for one in map(json.loads, data) for choice in one["choices"]]
    assert len("".join(choice["delta"].get("content", "") for choice in choices if choice["index"] == 0)) == 9


def said(answer: Any) -> Any:
    """An answer without what is drawn or depends on the time or the cache; long numbers without their last digits."""
    if isinstance(answer, dict):
        drawn = {"id", "created", "created_at", "completed_at", "system_fingerprint", "cached_tokens"}
        return {name: said(value) for name, value in answer.items() if name not in drawn}
    if isinstance(answer, list):
        return [said(item) for item in answer]
    return f"{answer:.12g}" if isinstance(answer, float) else answer
