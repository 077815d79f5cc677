"""The region in a process of its own: like the one in this process, until that process is lost."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.regions.heard import MODEL, Heard, request
from tests.regions.isolated import CLOSE, PATIENT, isolated, kill, lives

from ecocore._core import EventRow
from ecocore.errors import InvalidParameter, InvalidRequest, KeyQueueFull, QueueFull, RegionUnavailable, RuntimeClosed
from ecocore.regions import child_process
from ecocore.regions.child import ChildRegion
from ecocore.regions.child_process import Watch
from ecocore.regions.local import LocalRegion
from ecocore.regions.region import Admission, Owner
from ecocore.runtime import Runtime

LONG = "a long beginning that two requests share " * 10


@pytest.fixture(scope="module")
def shared() -> Iterator[ChildRegion]:
    """An engine that no test harms."""
    with isolated() as region:
        yield region


@pytest.fixture
async def child(shared: ChildRegion) -> AsyncIterator[ChildRegion]:
    async with shared.connected():
        yield shared
    assert shared._running == {}


@pytest.fixture
def local() -> Iterator[LocalRegion]:
    with Runtime.mock(MODEL) as runtime:
        region = LocalRegion(runtime)
        yield region
        region.close()


@asynccontextmanager
async def lost_soon(watch: Watch = PATIENT, **settings: Any) -> AsyncIterator[ChildRegion]:
    """An engine of one's own, to be harmed."""
    with isolated(watch, **settings) as region:
        async with region.connected():
            yield region


async def comes_back(region: ChildRegion, restarts: int = 1) -> None:
    async with asyncio.timeout(60):
        while not (region.is_alive and region.stats()["restarts"] == restarts):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.01)


# --- like the region in this process --------------------------------------------------------------------


async def test_it_says_of_itself_what_a_local_one_says(child: ChildRegion, local: LocalRegion) -> None:
    for name in ("model_id", "context_length", "accepts_images", "fingerprint", "abilities", "is_alive"):
        assert getattr(child, name) == getattr(local, name)
    assert child.created <= local.created
    assert child.stats().keys() == {*local.stats().keys(), "restarts"}


async def test_a_request_is_judged_then_started_and_its_events_carry_its_id(child: ChildRegion) -> None:
    heard = Heard(child)
    first, second = await asyncio.gather(child.prepare(request(max_tokens=3)), child.prepare(request()))
    assert first.request_id != second.request_id
    await first.start(Owner(b"salt"))
    rows = await heard.until("finished")
    assert {row.request_id for row in rows} == {first.request_id}
    assert rows[-1].usage[2] == 3


def shown(rows: Sequence[EventRow]) -> list[tuple[Any, ...]]:
    """Everything of an event but the request and the names of calls, which are drawn."""
    facts = ("kind", "choice", "text", "index", "name", "reason", "usage", "code", "message")
    return sorted((*(getattr(row, fact) for fact in facts), repr(row.logprobs)) for row in rows)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "null"}}}}}


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
async def test_the_events_are_those_of_a_local_one(child: ChildRegion, local: LocalRegion, fields: dict[str, Any]) -> None:
    asked = request(**fields)
    told = []
    for region in (child, local):
        heard = Heard(region)
        await (await region.prepare(asked)).start(Owner(json.dumps(fields).encode()))
        told.append(shown(await heard.until("finished", asked.n)))
    assert told[0] == told[1]


@pytest.mark.parametrize("prompt", ["abc\u20ac", [65, 66, 67]], ids=["text", "ids"])
@pytest.mark.parametrize("scores", [False, True])
async def test_plain_prompts_and_their_scores_too(
    child: ChildRegion, local: LocalRegion, prompt: str | list[int], *, scores: bool
) -> None:
    asked = request(max_tokens=4, logprobs=scores, top_logprobs=3 if scores else 0, n=2)
    told = []
    for region in (child, local):
        heard = Heard(region)
        await (await region.prepare_plain(asked, prompt, scores=scores)).start(Owner(b"plain"))
        told.append(shown(await heard.until("finished", 2)))
    assert told[0] == told[1]
    assert any("nan" in facts[-1] for facts in told[0]) is scores


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_bias": {"999999": 1}},
        {"messages": [{"role": "user", "content": "x" * 20_000}]},
        {"max_tokens": 2**31 - 1, "stop_token_ids": [999_999]},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://10.0.0.1/"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]}]},
    ],
    ids=["bias", "context", "stop", "schema", "address", "picture"],
)
async def test_what_is_refused_is_refused_in_the_same_words(
    child: ChildRegion, local: LocalRegion, fields: dict[str, Any]
) -> None:
    told: list[object] = []
    for region in (child, local):
        try:
            await region.prepare(request(**fields))
            told.append(None)
        except InvalidRequest as error:
            told.append((type(error), error.param, error.place, error.message, error.code))
    assert told[0] == told[1]


async def test_texts_and_ids(child: ChildRegion, local: LocalRegion) -> None:
    ids = await child.tokenize("h\u20ac", add_special_tokens=True)
    assert ids == await local.tokenize("h\u20ac", add_special_tokens=True)
    assert await child.detokenize(ids) == "h\u20ac"
    told = []
    for region in (child, local):
        with pytest.raises(InvalidParameter) as refused:
            await region.detokenize([999_999])
        told.append((refused.value.param, refused.value.message))
    assert told[0] == told[1]


async def test_an_owner_shares_its_cache_with_nobody(child: ChildRegion) -> None:
    cached = []
    for salt in (b"one", b"one", b"other"):
        heard = Heard(child)
        asked = request(messages=[{"role": "user", "content": LONG}], max_tokens=1)
        await (await child.prepare(asked)).start(Owner(salt))
        cached.append((await heard.until("finished"))[-1].usage[1])
    assert [count > 0 for count in cached] == [False, True, False]


async def start_all(admissions: list[Any], taken: list[Any]) -> None:
    """Each of another key; `taken` gets those that were."""
    for key, admission in enumerate(admissions, 8):
        await admission.start(Owner(key=key))
        taken.append(admission)


async def test_what_is_full_says_so_at_the_start() -> None:
    async with lost_soon(tokens_per_second=0.5, capacity=(1, 2, 1)) as child:
        several, one = [await child.prepare(request(n=n)) for n in (2, 1)]
        await several.start(Owner(key=7))
        with pytest.raises(KeyQueueFull):
            await one.start(Owner(key=7))
        with pytest.raises(RegionUnavailable):
            await one.start(Owner(key=7))
        others = [await child.prepare(request()) for _ in range(3)]
        # One or two of them are taken: a place is kept for keys that have none, and the first may have it by then.
        taken = [several]
        with pytest.raises(QueueFull, match="2 requests wait"):
            await start_all(others, taken)
        assert len(taken) > 1
        for admission in taken:
            child.cancel(admission.request_id)


# --- leaving --------------------------------------------------------------------------------------------


async def test_a_request_that_is_cancelled_frees_the_engine() -> None:
    async with lost_soon(tokens_per_second=20) as child:
        heard = Heard(child)
        admission = await child.prepare(request(n=2))
        await admission.start(Owner())
        await heard.until("text", 2)
        await becomes(child, 2)
        child.cancel(admission.request_id)
        await becomes(child, 0)
        told = len(heard.rows)
        await child.tokenize("x", add_special_tokens=False)
        assert len(heard.rows) == told
        assert all(row.kind == "text" for row in heard.rows)


async def test_so_does_one_that_is_cancelled_at_once() -> None:
    """Before its first event, and before anybody waits for one."""
    async with lost_soon(tokens_per_second=20) as child:
        for pause in (False, True):
            admission = await child.prepare(request())
            await admission.start(Owner())
            if pause:
                await asyncio.sleep(0)
            child.cancel(admission.request_id)
            child.cancel(999)
        await becomes(child, 0)


async def test_so_does_one_whose_caller_left_while_it_was_started() -> None:
    async with lost_soon(tokens_per_second=20) as child:
        admission = await child.prepare(request())
        starting = asyncio.create_task(start(admission))
        await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await becomes(child, 0)


async def test_a_connection_that_ends_takes_its_requests_along() -> None:
    with isolated(tokens_per_second=20) as child:
        async with child.connected():
            await (await child.prepare(request())).start(Owner())
            await becomes(child, 1)
        async with child.connected():
            await becomes(child, 0)
        with pytest.raises(RuntimeClosed):
            await child.prepare(request())


async def test_what_is_admitted_and_not_started_is_bounded_and_can_be_given_up() -> None:
    async with lost_soon(parked=2) as child:
        first, second = [await child.prepare(request()) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests are waiting for their start"):
            await child.prepare(request())
        child.cancel(first.request_id)
        await asyncio.sleep(0)
        await asyncio.gather(*child._releasing)
        third = await child.prepare(request())
        with pytest.raises(RegionUnavailable):
            await first.start(Owner())
        for admission in (second, third):
            await admission.start(Owner())
            child.cancel(admission.request_id)
        assert child._parked == {}


async def start(admission: Admission) -> None:
    await admission.start(Owner())


async def becomes(child: ChildRegion, running: int) -> None:
    """Asks the engine itself: the last heartbeat is of a moment ago."""
    async with asyncio.timeout(30):
        while (await asyncio.to_thread(child._process._ask, 1.0))["open"] != running:
            pass


# --- losing it ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
async def test_an_engine_that_is_killed_fails_each_choice_once_and_comes_back(number: int) -> None:
    async with lost_soon(tokens_per_second=50) as child:
        heard = Heard(child)
        running = await child.prepare(request(n=3))
        kept = await child.prepare(request())
        await running.start(Owner())
        await heard.until("text", 3)
        kill(child, number)
        rows = await heard.until("failed", 3)
        failed = [(row.request_id, row.choice, row.code) for row in rows if row.kind == "failed"]
        assert failed == [(running.request_id, choice, "engine_lost") for choice in range(3)]
        with pytest.raises(RegionUnavailable, match="started again"):
            await child.prepare(request())
        with pytest.raises(RegionUnavailable):
            await child.tokenize("x", add_special_tokens=False)
        await comes_back(child)
        # What the lost engine had judged is not another's.
        with pytest.raises(RegionUnavailable):
            await kept.start(Owner())
        again = await child.prepare(request(max_tokens=2))
        await again.start(Owner())
        assert (await heard.until("finished"))[-1].request_id == again.request_id
        assert len([row for row in heard.rows if row.kind == "failed"]) == 3


async def test_an_engine_that_is_stopped_is_lost_after_its_silence() -> None:
    async with lost_soon(CLOSE, tokens_per_second=50) as child:
        heard = Heard(child)
        await (await child.prepare(request())).start(Owner())
        await heard.until("text")
        kill(child, signal.SIGSTOP)
        waiting = asyncio.create_task(child.prepare(request()))
        assert (await heard.until("failed"))[-1].code == "engine_lost"
        with pytest.raises(RegionUnavailable):
            await waiting
        await comes_back(child)


async def test_an_engine_that_takes_long_to_end_is_lost_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel closes the sockets of a large process long after it was killed: here it never comes to that."""
    async with lost_soon(Watch(look=0.05, end=0.1), tokens_per_second=20) as child:
        heard = Heard(child)
        await (await child.prepare(request())).start(Owner())
        await heard.until("text")
        kill(child, signal.SIGSTOP)
        waiting = asyncio.create_task(child.prepare(request()))
        monkeypatch.setattr(subprocess.Popen, "kill", lambda _: None)
        monkeypatch.setattr(child_process, "is_ending", lambda _: True)
        assert (await heard.until("failed"))[-1].code == "engine_lost"
        with pytest.raises(RegionUnavailable):
            await waiting
        assert child.pid is not None
        assert lives(child.pid)
        assert not child.is_alive
        monkeypatch.undo()
        kill(child, signal.SIGKILL)
        await comes_back(child)


async def test_choices_that_had_ended_do_not_fail() -> None:
    async with lost_soon(tokens_per_second=50) as child:
        heard = Heard(child)
        short, long = await child.prepare(request(max_tokens=1)), await child.prepare(request())
        await short.start(Owner())
        await long.start(Owner())
        await heard.until("finished")
        kill(child, signal.SIGKILL)
        rows = await heard.until("failed")
        assert [row.request_id for row in rows if row.kind == "failed"] == [long.request_id]
        await comes_back(child)


async def test_a_step_that_fails_is_the_engines_own_matter(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    faults = tmp_path / "faults"
    async with lost_soon(tokens_per_second=50, faults=str(faults)) as child:
        heard = Heard(child)
        await (await child.prepare(request())).start(Owner())
        await heard.until("text")
        before = child.pid
        faults.write_text("step")
        assert (await heard.until("failed"))[-1].code == "engine_error"
        await (await child.prepare(request(max_tokens=1))).start(Owner())
        await heard.until("finished")
        assert child.pid == before
    assert f"ERROR [{MODEL}] ecocore.engine: a step of" in capfd.readouterr().err


async def test_an_engine_that_broke_takes_its_process_along(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    async with lost_soon(tokens_per_second=50, faults=str(faults)) as child:
        heard = Heard(child)
        await (await child.prepare(request())).start(Owner())
        await heard.until("text")
        faults.write_text("engine")
        assert (await heard.until("failed"))[-1].code == "engine_error"
        await comes_back(child)
        await (await child.prepare(request(max_tokens=1))).start(Owner())
        await heard.until("finished")


async def test_an_engine_that_runs_out_of_memory_ends_its_answers(tmp_path: Path) -> None:
    faults = tmp_path / "faults"
    async with lost_soon(tokens_per_second=50, faults=str(faults)) as child:
        heard = Heard(child)
        await (await child.prepare(request())).start(Owner())
        await heard.until("text")
        faults.write_text("memory")
        assert (await heard.until("failed"))[-1].code in ("engine_error", "engine_lost")
        async with asyncio.timeout(60):
            while not any(row.kind == "finished" for row in heard.rows):
                try:
                    await (await child.prepare(request(max_tokens=1))).start(Owner())
                    await heard.until("finished")
                except RegionUnavailable:
                    await asyncio.sleep(0.01)


async def test_an_engine_that_is_not_understood_fails_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    async with lost_soon(talks="chat") as child:
        heard = Heard(child)
        await (await child.prepare(request(max_tokens=2))).start(Owner())
        assert (await heard.until("failed"))[-1].code == "engine_lost"
        assert "is not understood" in caplog.text
        assert child.is_alive
