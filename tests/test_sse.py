"""Tokens to events to the bytes of answers. The bytes are read back by the models of the `openai` package."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from ecocore._core import EventBatch, OutputStreams, SamplerParams, SamplerState, Scheduler, SseWriter, Tokenizer
from ecocore.errors import InternalError, InvalidParameter

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
        events = self.outputs.push(batch, tokens, self.scheduler)
        self.scheduler.commit(batch, tokens, events)
        for sequence_id in events.finished_sequences:
            self.sampler.close(sequence_id)
        return events

    def run(self) -> list[EventBatch]:
        """Every step until nothing is left to do."""
        return list(iter(self.step, None))


def writer(*, stream: bool, choices: int = 1, include_usage: bool = False, logprobs: bool = False) -> SseWriter:
    answers = SseWriter()
    answers.open(
        REQUEST,
        completion_id="chatcmpl-1",
        created=1_700_000_000,
        model='a "model"',
        system_fingerprint="fp_1",
        stream=stream,
        choices=choices,
        include_usage=include_usage,
        logprobs=logprobs,
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
