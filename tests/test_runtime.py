"""The embedded API on the mock engine: one batch, many callers, nobody waits forever."""

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

from ecocore.completion import Told
from ecocore.errors import ContextLengthExceeded, InvalidParameter, RuntimeClosed
from ecocore.events import Finished, TextDelta
from ecocore.runtime import Runtime


def settle(runtime: Runtime) -> dict[str, int]:
    """The runtime's counts once everything cancelled is gone; another request makes the engine take its inbox."""
    runtime.chat("settle", max_tokens=1)
    runtime.chat("settle", max_tokens=1)
    return runtime.stats()


def text_of(events: list[Told]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def test_importing_ecocore_imports_neither_torch_nor_a_server() -> None:
    heavy = "torch", "numpy.random", "pydantic", "starlette", "hypercorn", "sqlalchemy", "rich", "typer", "minijinja"
    code = f"import sys, ecocore; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.strip() == "[]"


def test_a_chat_is_the_join_of_its_stream(mock: Runtime) -> None:
    events = list(mock.stream("hello", max_tokens=40, seed=1))
    whole = mock.chat("hello", max_tokens=40, seed=1)
    assert text_of(events) == str(whole) == whole.text
    assert events[-1] == Finished("length", whole.usage)
    assert whole.usage.completion_tokens == 40


def test_messages_may_be_a_string_or_turns(mock: Runtime) -> None:
    turns = [{"role": "user", "content": "hello"}]
    assert mock.chat("hello", max_tokens=8, seed=3) == mock.chat(turns, max_tokens=8, seed=3)


def test_a_stop_string_ends_the_answer_right_before_it(mock: Runtime) -> None:
    whole = mock.chat("x", max_tokens=60, temperature=0).text
    stop = whole[20:25]
    cut = mock.chat("x", max_tokens=60, temperature=0, stop=stop)
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"


def test_logit_bias_can_force_a_token(mock: Runtime) -> None:
    assert mock.chat("x", max_tokens=4, logit_bias={ord("z"): 100}).text == "zzzz"


def test_logprobs_are_one_per_token_and_join_to_the_text(mock: Runtime) -> None:
    answer = mock.chat("x", max_tokens=12, temperature=0, logprobs=True, top_logprobs=2)
    assert b"".join(entry.bytes for entry in answer.logprobs).decode() == answer.text
    assert [len(entry.top) for entry in answer.logprobs] == [2] * 12
    assert all(entry.logprob <= 0 for entry in answer.logprobs)


def test_the_context_is_a_ceiling_for_max_tokens() -> None:
    with Runtime.mock(context_length=128) as runtime:
        answer = runtime.chat("x", max_tokens=100_000)
        assert answer.finish_reason == "length"
        assert answer.usage.total_tokens == 128


def test_a_prompt_beyond_the_context_is_refused_with_its_size() -> None:
    with Runtime.mock(context_length=128) as runtime, pytest.raises(ContextLengthExceeded, match="128") as raised:
        runtime.chat("x" * 200)
    assert (raised.value.param, raised.value.code) == ("messages", "context_length_exceeded")


def test_unknown_parameters_are_heard(mock: Runtime) -> None:
    with pytest.raises(TypeError, match="temprature"):
        mock.chat("x", temprature=1.0)  # type: ignore[call-arg]


def test_a_token_outside_the_vocabulary_is_refused(mock: Runtime) -> None:
    with pytest.raises(InvalidParameter, match="257") as raised:
        mock.chat("x", logit_bias={257: 1.0})
    assert raised.value.param == "logit_bias"


def test_many_threads_share_one_engine(mock: Runtime) -> None:
    alone = {word: mock.chat(word, max_tokens=50, seed=7).text for word in ("alpha", "beta", "gamma", "delta")}
    together: dict[int, str] = {}

    def ask(number: int, word: str) -> None:
        together[number] = mock.chat(word, max_tokens=50, seed=7).text

    words = list(alone) * 8
    threads = [threading.Thread(target=ask, args=(number, word)) for number, word in enumerate(words)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(32)] == [alone[word] for word in words]


def test_leaving_a_stream_frees_its_blocks(mock: Runtime) -> None:
    stream = mock.stream("x", max_tokens=8000)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    stats = settle(mock)
    assert (stats["open"], stats["running"], stats["free_blocks"]) == (0, 0, stats["total_blocks"])


async def test_asyncio_callers_stream_side_by_side(mock: Runtime) -> None:
    async def ask(word: str) -> str:
        return text_of([event async for event in mock.astream(word, max_tokens=30, seed=5)])

    answers = await asyncio.gather(*(ask(word) for word in ("a", "b", "a")))
    assert answers[0] == answers[2] == (await mock.achat("a", max_tokens=30, seed=5)).text


async def test_cancelling_a_task_stops_the_work(mock: Runtime) -> None:
    started = asyncio.Event()

    async def ask() -> None:
        async for _ in mock.astream("x", max_tokens=8000):
            started.set()

    task = asyncio.create_task(ask())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await asyncio.to_thread(settle, mock))["open"] == 0


def test_closing_ends_who_still_waits() -> None:
    runtime = Runtime.mock(tokens_per_second=50)
    stream = runtime.stream("x", max_tokens=8000)
    next(iter(stream))
    runtime.close()
    with pytest.raises(RuntimeClosed):
        list(stream)
    with pytest.raises(RuntimeClosed):
        runtime.chat("x")


def test_unseeded_requests_differ_and_seeded_ones_repeat(mock: Runtime) -> None:
    flat: dict[str, Any] = {"max_tokens": 24, "logit_bias": dict.fromkeys(range(97, 123), 100.0)}
    assert len({mock.chat("x", **flat).text for _ in range(4)}) == 4
    assert len({mock.chat("x", seed=11, **flat).text for _ in range(4)}) == 1
    assert mock.chat("x", seed=-(2**63), **flat).text == mock.chat("x", seed=-(2**63), **flat).text
