"""Whole answers from events."""

import pytest

from ecocore.completion import Choice, ToolCall, gathered
from ecocore.errors import EngineFailure, InternalError
from ecocore.events import Finished, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta, Usage

LOGPROB = TokenLogprob(1, b"a", -0.5, ())


def test_pieces_of_every_kind_are_joined() -> None:
    answer = gathered(
        [
            ReasoningDelta("be"),
            ReasoningDelta("cause"),
            TextDelta("Wa", (LOGPROB,)),
            TextDelta("it."),
            ToolCallDelta(0, "call_1", "now", ""),
            ToolCallDelta(0, None, None, '{"a"'),
            ToolCallDelta(0, None, None, ": 1}"),
            ToolCallDelta(1, "call_2", "here", ""),
            Finished("tool_calls", Usage(5, 1, 7, 2)),
        ]
    )
    calls = (ToolCall("call_1", "now", '{"a": 1}'), ToolCall("call_2", "here", ""))
    assert answer.choices == (Choice("Wait.", "tool_calls", Usage(5, 1, 7, 2), (LOGPROB,), calls, "because"),)
    assert (str(answer), answer.text, answer.reasoning, answer.tool_calls) == ("Wait.", "Wait.", "because", calls)
    assert (answer.finish_reason, answer.logprobs, answer.usage.total_tokens) == ("tool_calls", (LOGPROB,), 12)


def test_choices_come_in_their_order_and_their_usage_is_summed() -> None:
    answer = gathered(
        [
            TextDelta("b", choice=1),
            TextDelta("a", choice=0),
            Finished("stop", Usage(5, 4, 1), choice=1),
            Finished("length", Usage(5, 0, 3), choice=0),
        ]
    )
    assert [choice.text for choice in answer.choices] == ["a", "b"]
    assert (answer.text, answer.finish_reason, answer.usage) == ("a", "length", Usage(5, 0, 4))


def test_the_message_goes_back_into_the_conversation() -> None:
    end = Finished("tool_calls", Usage(1, 0, 1))
    assert gathered([TextDelta("hi"), end]).message == {"role": "assistant", "content": "hi"}
    assert gathered([ToolCallDelta(0, "call_1", "now", "{}"), end]).message == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{}"}}],
    }


def test_an_answer_without_an_end_is_no_answer() -> None:
    for events in ([], [TextDelta("a")]):
        with pytest.raises(EngineFailure):
            gathered(events)
    with pytest.raises(InternalError):
        gathered([ToolCallDelta(1, "call_1", "now", "")])
