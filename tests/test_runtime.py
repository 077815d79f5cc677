"""The embedded API on the mock engine: one batch, many callers, nobody waits forever."""

import asyncio
import gc
import json
import subprocess
import sys
import threading
from typing import Any

import pytest

from ecocore._core import EventBatch
from ecocore.capacity import Capacity
from ecocore.completion import Told, gathered
from ecocore.errors import ContextLengthExceeded, InvalidParameter, QueueFull, RuntimeClosed
from ecocore.events import Finished, TextDelta
from ecocore.request import ChatRequest
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


@pytest.mark.parametrize("messages", [5, None, b"hello", {"role": "user", "content": "hello"}])
def test_messages_of_another_kind_are_told_so(mock: Runtime, messages: Any) -> None:
    with pytest.raises(InvalidParameter, match="messages: must be a string or a list of messages") as raised:
        mock.chat(messages)
    assert (raised.value.param, raised.value.code) == ("messages", "invalid_type")


def test_only_so_many_sequences_run_at_a_time() -> None:
    with Runtime.mock(tokens_per_second=50, capacity=Capacity(running=2)) as runtime:
        stream = runtime.stream("hello", n=5, max_tokens=500)
        next(stream)
        stats = runtime.stats()
        assert (stats["running"], stats["waiting"]) == (2, 3)


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


def test_a_runtime_that_nobody_holds_ends_its_thread() -> None:
    runtime = Runtime.mock()
    runtime.chat("x", max_tokens=1)
    thread = runtime._loop._thread
    del runtime
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()


def test_all_that_may_be_open_are_answered_though_they_come_at_once() -> None:
    with Runtime.mock(context_length=256) as runtime:
        request = ChatRequest.parse({"model": "mock", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1})
        prompt, params = runtime.prepare(request), request.sampling()
        ended: list[str] = []
        done = threading.Event()

        def note(events: EventBatch) -> None:
            ended.extend(row.kind for row in events.rows() if row.kind != "text")
            if len(ended) == 512:
                done.set()

        runtime.subscribe(note)
        # The engine's inbox stays closed until all have come.
        with runtime._loop._wake:
            for _ in range(512):
                runtime.submit(prompt, params, request_id=runtime.new_request_id())
            with pytest.raises(QueueFull):
                runtime.submit(prompt, params, request_id=runtime.new_request_id())
        assert done.wait(20)
        assert ended == ["finished"] * 512


def test_unseeded_requests_differ_and_seeded_ones_repeat(mock: Runtime) -> None:
    assert len({mock.chat("x", **FLAT).text for _ in range(4)}) == 4
    assert len({mock.chat("x", seed=11, **FLAT).text for _ in range(4)}) == 1
    assert mock.chat("x", seed=-(2**63), **FLAT).text == mock.chat("x", seed=-(2**63), **FLAT).text


# --- several answers ------------------------------------------------------------------------------------


# The mock engine is sure of its next byte; with this it hesitates between all letters.
FLAT: dict[str, Any] = {"max_tokens": 24, "logit_bias": dict.fromkeys(range(97, 123), 100.0)}


def test_choices_differ_and_the_first_is_the_one_that_n_1_gives(mock: Runtime) -> None:
    answer = mock.chat("x", n=8, seed=5, **FLAT)
    texts = [choice.text for choice in answer.choices]
    assert len(set(texts)) == 8
    assert str(answer) == texts[0] == mock.chat("x", seed=5, **FLAT).text
    assert [choice.text for choice in mock.chat("x", n=3, seed=5, **FLAT).choices] == texts[:3]
    assert answer.usage.completion_tokens == 8 * 24
    assert answer.usage.prompt_tokens == mock.chat("x", **FLAT).usage.prompt_tokens
    assert [choice.finish_reason for choice in answer.choices] == ["length"] * 8


def test_choices_are_the_same_whoever_else_asks(mock: Runtime) -> None:
    alone = mock.chat("x", n=4, seed=5, **FLAT)
    crowd = [threading.Thread(target=mock.chat, args=("y",), kwargs={"n": 8, "seed": seed, **FLAT}) for seed in range(6)]
    for thread in crowd:
        thread.start()
    assert [choice.text for choice in mock.chat("x", n=4, seed=5, **FLAT).choices] == [choice.text for choice in alone.choices]
    for thread in crowd:
        thread.join()


def test_unseeded_choices_differ_from_call_to_call(mock: Runtime) -> None:
    texts = {choice.text for _ in range(3) for choice in mock.chat("x", n=3, **FLAT).choices}
    assert len(texts) == 9


async def test_choices_stream_side_by_side(mock: Runtime) -> None:
    events = [event async for event in mock.astream("x", n=3, seed=5, **FLAT)]
    assert sorted(event.choice for event in events if isinstance(event, Finished)) == [0, 1, 2]
    told = {number: text_of([event for event in events if event.choice == number]) for number in range(3)}
    assert list(told.values()) == [choice.text for choice in mock.chat("x", n=3, seed=5, **FLAT).choices]


def test_leaving_ends_every_choice(mock: Runtime) -> None:
    stream = mock.stream("x", n=8, max_tokens=8000)
    next(iter(stream))
    stream.close()  # type: ignore[attr-defined]
    stats = settle(mock)
    assert (stats["open"], stats["free_blocks"]) == (0, stats["total_blocks"])


# --- where an answer ends -------------------------------------------------------------------------------

END = 256
WILL_END: dict[str, Any] = {"temperature": 0, "logit_bias": {END: 100.0}}


def test_min_tokens_keeps_the_end_away(mock: Runtime) -> None:
    assert mock.chat("x", **WILL_END).usage.completion_tokens == 1
    answer = mock.chat("x", min_tokens=5, **WILL_END)
    assert (len(answer.text), answer.usage.completion_tokens, answer.finish_reason) == (5, 6, "stop")


def test_min_tokens_holds_for_stop_strings_and_stop_ids_too(mock: Runtime) -> None:
    whole = mock.chat("x", max_tokens=40, temperature=0).text
    early = whole[3]
    for stops in ({"stop": early}, {"stop_token_ids": [ord(early)]}):
        first = mock.chat("x", max_tokens=40, temperature=0, **stops)
        assert first.text == whole[: whole.index(early)]
        later = mock.chat("x", max_tokens=40, min_tokens=8, temperature=0, **stops)
        assert later.usage.completion_tokens >= 8


def test_the_end_may_be_ignored_and_others_named(mock: Runtime) -> None:
    ignored = mock.chat("x", ignore_eos=True, max_tokens=7, **WILL_END)
    assert (ignored.usage.completion_tokens, ignored.finish_reason) == (7, "length")
    letter = mock.chat("x", max_tokens=40, temperature=0).text[9]
    named = mock.chat("x", max_tokens=40, temperature=0, stop_token_ids=[ord(letter)])
    assert named.finish_reason == "stop"
    assert letter not in named.text
    assert mock.chat("x", max_tokens=40, ignore_eos=True, temperature=0, stop_token_ids=[ord(letter)]) == named


# --- tools and formats ----------------------------------------------------------------------------------

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"town": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "now"}},
]
NAMED = {"type": "function", "function": {"name": "weather"}}


def fits(arguments: str) -> bool:
    value = json.loads(arguments)
    return list(value) == ["town", "days"] and value["town"] in ("Paris", "Rome") and 1 <= value["days"] <= 9


@pytest.mark.parametrize("seed", range(5))
def test_a_named_tool_is_called_once_with_arguments_that_fit(mock: Runtime, seed: int) -> None:
    answer = mock.chat("x", tools=TOOLS, tool_choice=NAMED, seed=seed)
    (call,) = answer.tool_calls
    assert (answer.text, answer.finish_reason, call.name) == ("", "tool_calls", "weather")
    assert fits(call.arguments)


@pytest.mark.parametrize("seed", range(5))
def test_one_call_at_most_where_several_are_not_wanted(mock: Runtime, seed: int) -> None:
    answer = mock.chat("x", tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed)
    (call,) = answer.tool_calls
    assert fits(call.arguments) if call.name == "weather" else json.loads(call.arguments) == {}


def test_required_calls_end_and_each_fits(mock: Runtime) -> None:
    answer = mock.chat("x", tools=TOOLS, tool_choice="required", seed=1)
    assert answer.finish_reason == "tool_calls"
    assert 1 <= len(answer.tool_calls) <= 16
    assert len({call.id for call in answer.tool_calls}) == len(answer.tool_calls)
    assert all(fits(call.arguments) for call in answer.tool_calls if call.name == "weather")


def test_allowed_tools_narrow_the_choice(mock: Runtime) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = mock.chat("x", tools=TOOLS, tool_choice=choice, seed=3)
    assert {call.name for call in answer.tool_calls} == {"now"}


def test_streamed_calls_are_the_plain_ones(mock: Runtime) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "seed": 4, "n": 2}
    streamed, plain = gathered(mock.stream("x", **asked)), mock.chat("x", **asked)
    told = [[(call.name, call.arguments) for call in choice.tool_calls] for choice in streamed.choices]
    assert told == [[(call.name, call.arguments) for call in choice.tool_calls] for choice in plain.choices]


def test_a_schema_is_kept_and_the_answer_ends_with_it(mock: Runtime) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
    for seed in range(5):
        answer = mock.chat("x", response_format=wanted, seed=seed)
        assert answer.finish_reason == "stop"
        assert fits(answer.text)


def test_where_a_call_must_be_the_format_gives_way(mock: Runtime) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    answer = mock.chat("x", response_format=wanted, tools=TOOLS, tool_choice=NAMED, seed=1)
    assert len(answer.tool_calls) == 1
    held = mock.chat("x", response_format=wanted, tools=TOOLS, tool_choice="none", seed=1)
    assert fits(held.text)
    assert held.tool_calls == ()


def test_a_grammar_ends_its_answer_whatever_else_is_asked(mock: Runtime) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": [1]}}}
    answer = mock.chat("x", response_format=wanted, ignore_eos=True, min_tokens=50, seed=1)
    assert (answer.text, answer.finish_reason) == ("1", "stop")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nonsense"}}}},
            "response_format",
        ),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": 5}}}]}, "tools"),
    ],
)
def test_a_bad_schema_is_refused_before_anything_starts(mock: Runtime, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        mock.chat("x", **fields)
    assert (raised.value.param, raised.value.code) == (param, "invalid_json_schema")


def test_an_answer_is_continued_where_its_text_ends(mock: Runtime) -> None:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "The"}]
    opened = mock.prepare(ChatRequest.parse({"model": "mock", "messages": turns, "continue_final_message": True}))
    assert bytes(opened.token_ids.astype("uint8")) == b"user: x\nassistant: The"


def test_a_cache_salt_keeps_prompts_apart(mock: Runtime) -> None:
    long: dict[str, Any] = {"messages": "x" * 200, "max_tokens": 1}
    assert mock.chat(**long).usage.cached_tokens == 0
    assert mock.chat(**long).usage.cached_tokens > 0
    assert mock.chat(cache_salt="mine", **long).usage.cached_tokens == 0
    assert mock.chat(cache_salt="mine", **long).usage.cached_tokens > 0
