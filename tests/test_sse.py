"""Tokens to events to the bytes of answers. The bytes are read back by the models of the `openai` package."""

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageFunctionToolCall
from openai.types.chat.chat_completion import Choice

from ecocore._core import EventBatch, OutputStreams, SamplerParams, SamplerState, Scheduler, SseWriter, Tokenizer
from ecocore.errors import InternalError, InvalidParameter
from ecocore.events import Finished, ReasoningDelta, TextDelta, ToolCallDelta, Usage
from ecocore.output.stream import event_of

END = 256
REQUEST = 7


class Engine:
    """The rooms of a step loop around a model that says what it is told, one byte per token."""

    def __init__(self) -> None:
        tokenizer = Tokenizer.bytes_only()
        self.vocab_size = tokenizer.vocab_size
        self.scheduler = Scheduler(num_blocks=64, block_size=16)
        self.sampler = SamplerState(tokenizer.vocab_size)
        self.outputs = OutputStreams(tokenizer)
        self.to_say: dict[int, list[int]] = {}

    def open(
        self,
        sequence_id: int,
        says: Sequence[int],
        *,
        choice: int = 0,
        stop: Sequence[str] = (),
        max_tokens: int = 100,
        top_logprobs: int | None = None,
        **tools: Any,
    ) -> None:
        prompt = np.arange(40, dtype=np.uint32)
        self.to_say[sequence_id] = list(says)
        params = SamplerParams(temperature=0.0, top_logprobs=top_logprobs)
        self.sampler.open(sequence_id, params, 0, choice, prompt)
        self.outputs.open(
            sequence_id,
            request_id=REQUEST,
            choice=choice,
            prompt_tokens=prompt.size,
            max_tokens=max_tokens,
            stop=stop,
            end_ids=[END],
            logprobs=top_logprobs is not None,
            **tools,
        )
        self.scheduler.submit(sequence_id, prompt, max_tokens)

    def step(self) -> EventBatch | None:
        batch = self.scheduler.schedule()
        if batch is None:
            return None
        ends = np.cumsum(batch.lengths) - 1
        drawing = batch.sequence_ids[np.isin(ends, batch.sample_indices)]
        logits = np.zeros((batch.num_samples, self.vocab_size), np.float32)
        for row, sequence_id in enumerate(drawing.tolist()):
            logits[row, self.to_say[sequence_id].pop(0)] = 9.0
        tokens = self.sampler.sample(logits, self.sampler.prepare(batch))
        events = self.outputs.push(batch, tokens)
        self.scheduler.commit(batch, tokens, events.finished_sequences)
        for sequence_id in events.finished_sequences:
            self.sampler.close(sequence_id)
        return events

    def run(self) -> list[EventBatch]:
        """Every step until nothing is left to do."""
        return list(iter(self.step, None))


def writer(*, stream: bool, **options: Any) -> SseWriter:
    answers = SseWriter()
    answers.open(
        REQUEST,
        completion_id="chatcmpl-1",
        created=1_700_000_000,
        model='a "model"',
        system_fingerprint="fp_1",
        stream=stream,
        **options,
    )
    return answers


def read(stream: bytes) -> list[str]:
    """The data of each server-sent event."""
    events = stream.decode().split("\n\n")
    assert events.pop() == "", "the stream ends with a whole event"
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    return [event.removeprefix("data: ") for event in events]


def answer(batches: list[EventBatch], **options: Any) -> bytes:
    """All bytes of an answer whose connection takes them whenever it is woken."""
    answers = writer(**options)
    data = b""
    for batch in batches:
        for request_id in answers.push(batch):
            data += answers.take(request_id)
    assert answers.is_finished(REQUEST)
    assert answers.buffered(REQUEST) == 0
    return data


def streamed(data: bytes) -> list[ChatCompletionChunk]:
    *chunks, done = read(data)
    assert done == "[DONE]"
    return [ChatCompletionChunk.model_validate_json(chunk) for chunk in chunks]


def said(text: str) -> list[int]:
    return [*text.encode(), END]


# --- events ---------------------------------------------------------------------------------------------


def test_the_rows_of_a_batch_tell_text_end_and_usage() -> None:
    engine = Engine()
    engine.open(1, said("hé"), choice=3)
    rows = [row for batch in engine.run() for row in batch.rows()]
    assert [(row.kind, row.text, row.reason) for row in rows] == [
        ("text", "h", ""),
        ("text", "é", ""),
        ("finished", "", "stop"),
    ]
    assert [row.usage for row in rows] == [(0, 0, 0, 0), (0, 0, 0, 0), (40, 0, 4, 0)]
    assert {(row.request_id, row.choice) for row in rows} == {(REQUEST, 3)}


def test_the_usage_tells_what_the_prefix_cache_knew() -> None:
    engine = Engine()
    for sequence_id in (1, 2):
        engine.open(sequence_id, said("a"))
        cached = [row.usage[1] for batch in engine.run() for row in batch.rows() if row.kind == "finished"]
        assert cached == [0 if sequence_id == 1 else 32]


def test_rows_carry_the_log_probabilities_of_their_tokens() -> None:
    engine = Engine()
    engine.open(1, said("é"), top_logprobs=2)
    [entries] = [row.logprobs for batch in engine.run() for row in batch.rows() if row.kind == "text"]
    logits = np.zeros(engine.vocab_size)
    logits[0] = 9.0
    best, other = logits[:2] - np.log(np.exp(logits).sum())
    assert [entry[:2] for entry in entries] == [(0xC3, b"\xc3"), (0xA9, b"\xa9")]
    for token, data, logprob, top in entries:
        assert logprob == pytest.approx(best, abs=1e-5)
        assert [entry[:2] for entry in top] == [(token, data), (0, b"\0")]
        assert top[1][2] == pytest.approx(other, abs=1e-5)


def test_a_batch_names_each_request_once() -> None:
    engine = Engine()
    engine.open(1, said("a"), choice=0)
    engine.open(2, said("b"), choice=1)
    batches = engine.run()
    assert [batch.request_ids() for batch in batches if len(batch)] == [[REQUEST]] * 2
    assert sorted(batches[-1].finished_sequences) == [1, 2]


def test_a_failure_is_told_to_open_choices_only() -> None:
    engine = Engine()
    engine.open(1, said("a"))
    [row] = engine.outputs.fail(np.array([1, 2]), "engine_error", "The step failed.").rows()
    assert (row.kind, row.code, row.message) == ("failed", "engine_error", "The step failed.")
    assert len(engine.outputs.fail([1], "engine_error", "again")) == 0


def test_a_closed_choice_tells_nothing() -> None:
    engine = Engine()
    engine.open(1, said("abc"))
    engine.step()
    engine.outputs.close(1)
    batch = engine.step()
    assert batch is not None
    assert len(batch) == 0


def test_unusable_options_of_a_choice_are_refused_by_name() -> None:
    outputs = Engine().outputs
    for field, options in {"max_tokens": {"max_tokens": 0}, "stop": {"max_tokens": 1, "stop": [""]}}.items():
        with pytest.raises(InvalidParameter) as refusal:
            outputs.open(1, request_id=1, choice=0, prompt_tokens=1, **options)  # type: ignore[arg-type]
        assert refusal.value.param == field


# --- answers --------------------------------------------------------------------------------------------


def test_a_stream_reads_as_openai_chunks() -> None:
    engine = Engine()
    engine.open(1, said('"é"\n'))
    chunks = streamed(answer(engine.run(), stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["", '"', "é", '"', "\n", None]
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant", *[None] * 5]
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [*[None] * 5, "stop"]
    for chunk in chunks:
        assert (chunk.id, chunk.created, chunk.model) == ("chatcmpl-1", 1_700_000_000, 'a "model"')
        assert chunk.system_fingerprint == "fp_1"
        assert "usage" not in chunk.model_fields_set


def test_a_plain_answer_reads_as_an_openai_completion() -> None:
    engine = Engine()
    engine.open(1, said("Hi \x01\u2028😀"))
    completion = ChatCompletion.model_validate_json(answer(engine.run(), stream=False))
    [choice] = completion.choices
    assert (completion.id, completion.object, completion.model) == ("chatcmpl-1", "chat.completion", 'a "model"')
    assert (choice.message.role, choice.message.content) == ("assistant", "Hi \x01\u2028😀")
    assert (choice.message.refusal, choice.logprobs, choice.finish_reason) == (None, None, "stop")
    assert "service_tier" not in completion.model_fields_set
    assert completion.usage is not None
    assert completion.usage.model_dump(exclude_unset=True) == {
        "prompt_tokens": 40,
        "completion_tokens": 12,
        "total_tokens": 52,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


@pytest.mark.parametrize("logprobs", [False, True])
def test_the_joined_stream_is_the_plain_answer(*, logprobs: bool) -> None:
    engine = Engine()
    texts = ["a€b STOP c", "\xff\n\nSTO", "".join(map(chr, range(1, 128))), ""]
    for choice, text in enumerate(texts):
        engine.open(choice, said(text), choice=choice, stop=["STOP", "\n\n\n"], top_logprobs=1 if logprobs else None)
    batches = engine.run()
    options = {"choices": len(texts), "logprobs": logprobs}
    chunks = streamed(answer(batches, stream=True, **options))
    plain = ChatCompletion.model_validate_json(answer(batches, stream=False, **options))
    for whole in plain.choices:
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == whole.index]
        assert "".join(part.delta.content or "" for part in parts) == whole.message.content
        assert [part.finish_reason for part in parts if part.finish_reason] == [whole.finish_reason]
        entries = [entry for part in parts if part.logprobs for entry in part.logprobs.content or []]
        assert entries == (whole.logprobs.content if whole.logprobs else [])
        if logprobs:
            data = bytes(byte for entry in entries for byte in entry.bytes or [])
            assert data.decode(errors="replace") == whole.message.content
    assert [whole.message.content for whole in plain.choices][:2] == ["a€b ", "ÿ\n\nSTO"]


def test_the_usage_is_the_last_chunk_and_sums_the_choices() -> None:
    engine = Engine()
    engine.open(1, said("ab"), choice=0)
    engine.open(2, list(b"abc"), choice=1, max_tokens=3)
    data = answer(engine.run(), stream=True, choices=2, include_usage=True)
    *chunks, last = streamed(data)
    assert all(json.loads(event)["usage"] is None for event in read(data)[: len(chunks)])
    assert last.choices == []
    assert last.usage is not None
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (40, 6, 46)
    reasons = {chunk.choices[0].index: chunk.choices[0].finish_reason for chunk in chunks}
    assert reasons == {0: "stop", 1: "length"}


def test_a_failure_before_the_first_byte_is_left_to_the_status() -> None:
    engine = Engine()
    engine.open(1, said("abc"))
    answers = writer(stream=True)
    answers.push(engine.step() or engine.run()[0])
    assert answers.push(engine.outputs.fail([1], "engine_error", "The step failed.")) == [REQUEST]
    assert answers.failure(REQUEST) == ("engine_error", "The step failed.")
    assert answers.take(REQUEST) == b""
    assert answers.is_finished(REQUEST)
    assert answers.usage(REQUEST) is None


def test_a_failure_after_the_first_byte_ends_the_stream_with_an_error() -> None:
    engine = Engine()
    engine.open(1, said("abc"))
    answers = writer(stream=True)
    batch = engine.step()
    assert batch is not None
    answers.push(batch)
    assert answers.take(REQUEST) != b""
    assert answers.push(engine.outputs.fail([1], "engine_error", 'The "step" failed.')) == [REQUEST]
    [data] = read(answers.take(REQUEST))
    error = {"message": 'The "step" failed.', "type": "server_error", "param": None, "code": "engine_error"}
    assert json.loads(data) == {"error": error}
    assert answers.failure(REQUEST) is None
    assert answers.is_finished(REQUEST)


def test_a_connection_that_is_writing_finds_several_events_at_its_next_take() -> None:
    engine = Engine()
    engine.open(1, said("abc"))
    answers = writer(stream=True)
    wakes = [answers.push(batch) for batch in engine.run()]
    assert wakes == [[REQUEST], [], [], []]
    waiting = answers.buffered(REQUEST)
    data = answers.take(REQUEST)
    assert (len(data), answers.buffered(REQUEST)) == (waiting, 0)
    assert len(streamed(data)) == 5
    assert answers.usage(REQUEST) == (40, 0, 4, 0)


def test_a_closed_answer_is_forgotten() -> None:
    engine = Engine()
    engine.open(1, said("abc"))
    answers = writer(stream=True)
    answers.close(REQUEST)
    assert [answers.push(batch) for batch in engine.run()] == [[]] * 4
    assert answers.take(REQUEST) == b""
    assert answers.is_finished(REQUEST)


def test_an_answer_is_opened_once_and_with_a_choice() -> None:
    answers = writer(stream=True)
    options: dict[str, Any] = {"completion_id": "", "created": 0, "model": "", "system_fingerprint": "", "stream": True}
    with pytest.raises(InternalError):
        answers.open(REQUEST, **options)
    with pytest.raises(InvalidParameter):
        answers.open(8, choices=0, **options)


# --- tool calls and reasoning -----------------------------------------------------------------------------

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich \\"HB\\""}}\n</tool_call>'
TOOLS: dict[str, Any] = {"tool_syntax": "hermes", "tool_names": ["get_weather", "now"], "reasoning": True}


def test_rows_and_events_tell_of_calls_and_reasoning() -> None:
    engine = Engine()
    engine.open(1, said(f"<think>Hm.</think>So.{CALL}"), choice=2, max_tokens=300, **TOOLS)
    rows = [row for batch in engine.run() for row in batch.rows()]
    assert {row.kind for row in rows} == {"reasoning", "text", "tool_call", "tool_arguments", "finished"}
    [call] = [row for row in rows if row.kind == "tool_call"]
    assert (call.index, call.name, call.text) == (0, "get_weather", "")
    assert re.fullmatch(r"call_[0-9A-Za-z]{24}", call.id)

    events = [event_of(row) for row in rows]
    assert "".join(event.text for event in events if isinstance(event, ReasoningDelta)) == "Hm."
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "So."
    first, *others = [event for event in events if isinstance(event, ToolCallDelta)]
    assert first == ToolCallDelta(0, call.id, "get_weather", "", 2)
    assert {(delta.index, delta.id, delta.name, delta.choice) for delta in others} == {(0, None, None, 2)}
    assert json.loads("".join(delta.arguments for delta in others)) == {"city": 'Zürich "HB"'}
    assert len(others) > 20, "arguments come as they are written"
    assert events[-1] == Finished("tool_calls", Usage(*rows[-1].usage), 2)
    assert rows[-1].usage == (40, 0, len(f"<think>Hm.</think>So.{CALL}".encode()) + 1, 3)


def test_a_streamed_call_is_a_header_and_then_arguments() -> None:
    engine = Engine()
    engine.open(1, said(CALL + CALL), max_tokens=300, **TOOLS)
    chunks = [json.loads(data) for data in read(answer(engine.run(), stream=True))[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert deltas[-1] == {}
    calls = [call for delta in deltas[1:-1] for call in delta["tool_calls"]]
    for index in (0, 1):
        header, *pieces = [call for call in calls if call["index"] == index]
        assert header == {
            "index": index,
            "id": header["id"],
            "type": "function",
            "function": {"name": "get_weather", "arguments": ""},
        }
        assert all(piece == {"index": index, "function": {"arguments": piece["function"]["arguments"]}} for piece in pieces)
        assert json.loads("".join(piece["function"]["arguments"] for piece in pieces)) == {"city": 'Zürich "HB"'}
    assert calls[0]["id"] != calls[-len(calls) // 2]["id"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_plain_call_has_no_content() -> None:
    engine = Engine()
    engine.open(1, said(CALL), **TOOLS)
    message = json.loads(answer(engine.run(), stream=False))["choices"][0]
    assert message["finish_reason"] == "tool_calls"
    [call] = message["message"].pop("tool_calls")
    assert message["message"] == {"role": "assistant", "content": None, "refusal": None}
    arguments = '{"city": "Zürich \\"HB\\""}'
    assert call == {"id": call["id"], "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def test_reasoning_and_the_tier_are_told_only_where_there_is_some() -> None:
    for stream in (False, True):
        for thought in ("<think>Hm.</think>", ""):
            engine = Engine()
            engine.open(1, said(f"{thought}Yes."), **TOOLS)
            data = answer(engine.run(), stream=stream, include_usage=True, service_tier="auto" if thought else None)
            objects = [json.loads(data) for data in read(data)[:-1]] if stream else [json.loads(data)]
            assert all(("service_tier" in told) == bool(thought) for told in objects)
            assert all(told.get("service_tier", "default") == "default" for told in objects)
            messages = [told["choices"][0]["delta" if stream else "message"] for told in objects if told["choices"]]
            assert not any("tool_calls" in message for message in messages)
            assert "".join(message.get("reasoning_content", "") for message in messages) == ("Hm." if thought else "")
            assert any("reasoning_content" in message for message in messages) == bool(thought)
            assert objects[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3 if thought else 0}


def test_unusable_tool_options_are_refused_by_name() -> None:
    unusable: dict[str, dict[str, Any]] = {"tool_syntax": {"tool_syntax": "morse"}, "max_tool_calls": {"max_tool_calls": 0}}
    for field, options in unusable.items():
        with pytest.raises(InvalidParameter) as refusal:
            Engine().open(1, said("a"), **options)
        assert refusal.value.param == field
    with pytest.raises(InvalidParameter) as refusal:
        writer(stream=True, form="poem")
    assert refusal.value.param == "form"


WHOLE = {
    "hermes": [CALL, '<tool_call>{"name": "now", "arguments": {}}</tool_call>'],
    "llama": ['{"name": "now", "parameters": {"a": [1, {}]}}', '; {"name": "get_weather", "parameters": {}}'],
    "gemma": ['<|tool_call>call:now{a:<|"|>é"<|"|>,b:[1,x]}<tool_call|>', "<|tool_call>call:get_weather{}<tool_call|>"],
}
PARTS = [
    "<tool_call>",
    "</tool_call>",
    '{"name": "now"',
    "<|tool_call>call:",
    "now{",
    '<|"|>',
    "<think>",
    "</think>",
    "}",
    " ",
    "é",
]
SYNTAX = st.sampled_from(sorted(WHOLE))


@settings(max_examples=150, deadline=None)
@given(data=st.data(), choices=st.integers(1, 3), logprobs=st.booleans())
def test_the_official_client_joins_the_stream_to_the_plain_answer(*, data: st.DataObject, choices: int, logprobs: bool) -> None:
    engine = Engine()
    for choice in range(choices):
        syntax = data.draw(SYNTAX)
        parts = data.draw(st.lists(st.sampled_from(WHOLE[syntax] + PARTS) | st.text(max_size=5), max_size=5))
        engine.open(
            choice,
            said("".join(parts)),
            choice=choice,
            stop=data.draw(st.sampled_from([[], ["é"]])),
            max_tokens=data.draw(st.sampled_from([20, 300])),
            top_logprobs=1 if logprobs else None,
            **{**TOOLS, "tool_syntax": syntax},
        )
    batches = engine.run()
    options = {"choices": choices, "logprobs": logprobs}
    plain = ChatCompletion.model_validate_json(answer(batches, stream=False, **options))
    state = ChatCompletionStreamState()
    for chunk in streamed(answer(batches, stream=True, **options)):
        state.handle_chunk(chunk)
    for whole, joined in zip(plain.choices, state.current_completion_snapshot.choices, strict=True):
        assert joined.finish_reason == whole.finish_reason
        assert (joined.message.content or None) == (whole.message.content or None)
        told = [(call.id, call.function.name, call.function.arguments) for call in joined.message.tool_calls or []]
        assert told == [(call.id, call.function.name, call.function.arguments) for call in _functions(whole)]
        assert getattr(joined.message, "reasoning_content", None) == getattr(whole.message, "reasoning_content", None)
        if logprobs:
            assert whole.logprobs is not None
            entries = whole.logprobs.content or []
            assert bytes(byte for entry in entries for byte in entry.bytes or []).decode(errors="replace") == (
                whole.message.content or ""
            )
            assert joined.logprobs is None or (joined.logprobs.content or []) == entries
        if whole.finish_reason == "tool_calls":
            assert whole.message.tool_calls


def _functions(choice: Choice) -> list[ChatCompletionMessageFunctionToolCall]:
    calls = choice.message.tool_calls or []
    assert all(isinstance(call, ChatCompletionMessageFunctionToolCall) for call in calls)
    return [call for call in calls if isinstance(call, ChatCompletionMessageFunctionToolCall)]
