"""From a request to the text that a model reads: nothing the client said is lost, whatever the template lacks."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.prompt.templates import CHATML, ONE_CALL, PARTS, TOOLS, call, calling, result, user
from tests.prompt.test_traits import FIRST_SYSTEM, NO_SYSTEM, TEXT_ARGUMENTS
from transformers.utils.chat_template_utils import render_jinja_template

from ecocore._core import Tokenizer
from ecocore.errors import ContextLengthExceeded, InvalidParameter, InvalidRequest, UnsupportedParameter
from ecocore.prompt.build import PromptBuilder
from ecocore.prompt.template import ChatTemplate
from ecocore.prompt.turns import decoded
from ecocore.request import ChatRequest

SPECIAL = {"bos_token": "<s>"}


def builder(source: str, context_length: int = 4096, thoughts: tuple[str, ...] = ("<think>",)) -> PromptBuilder:
    return PromptBuilder(
        Tokenizer.bytes_only(),
        ChatTemplate(source, SPECIAL),
        context_length=context_length,
        vocab_size=257,
        image_text="(image)",
        thoughts=thoughts,
    )


def request(*messages: dict[str, Any], **fields: Any) -> ChatRequest:
    return ChatRequest.parse({"model": "m", "messages": list(messages), **fields})


def text(source: str, *messages: dict[str, Any], **fields: Any) -> str:
    return builder(source).text(request(*messages, **fields))


def wire(turn: dict[str, Any]) -> dict[str, Any]:
    """A turn as a client sends it: arguments as text."""
    calls = [
        {**one, "function": {**one["function"], "arguments": json.dumps(one["function"]["arguments"])}}
        for one in turn.get("tool_calls", [])
    ]
    return {**turn, "tool_calls": calls} if calls else turn


SYSTEM = {"role": "system", "content": "Be brief."}
ALSO = {"role": "developer", "content": "In French."}
CALLED = [user("w?"), calling(call("c1", "weather", {"town": "Zürich", "days": 2})), result("c1", "sunny")]


def test_a_template_for_tools_gets_them_as_transformers_hands_them_over() -> None:
    (theirs,), _ = render_jinja_template([CALLED], tools=TOOLS, chat_template=PARTS, add_generation_prompt=True, **SPECIAL)
    assert text(PARTS, *map(wire, CALLED), tools=TOOLS) == theirs


def test_a_choice_among_tools_leaves_the_prompt_as_it_is() -> None:
    allowed = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
    whole = text(PARTS, user("x"), tools=TOOLS)
    assert text(PARTS, user("x"), tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed}) == whole
    assert text(PARTS, user("x"), tools=TOOLS, tool_choice="required") == whole
    assert text(PARTS, user("x"), tools=TOOLS, tool_choice="none") == text(PARTS, user("x"))


def test_tools_calls_and_results_are_told_in_text_where_the_template_shows_none() -> None:
    told = text(CHATML, *map(wire, CALLED), tools=TOOLS[1:2])
    head, turns = told.split("<|im_end|>\n", 1)
    assert head.startswith("<|im_start|>system\nThese functions can be called.")
    assert f"<tools>\n{json.dumps(TOOLS[1])}\n</tools>" in head
    assert turns == (
        "<|im_start|>user\nw?<|im_end|>\n"
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "weather", "arguments": {"town": "Zürich", "days": 2}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_tools_follow_the_system_text_that_is_there() -> None:
    told = text(CHATML, SYSTEM, user("x"), tools=TOOLS[1:2])
    assert told.startswith("<|im_start|>system\nBe brief.\n\nThese functions can be called.")
    assert told.count("<|im_start|>system") == 1


def test_results_of_one_turn_are_told_together_and_what_was_said_stays() -> None:
    both = calling(call("a", "now", {}), call("b", "here", {}), content="Wait.")
    told = text(CHATML, *map(wire, [user("x"), both, result("a", "1"), result("b", "2"), user("y")]))
    assert "assistant\nWait.\n<tool_call>" in told
    assert "user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|im_end|>" in told


def test_several_calls_are_told_one_by_one_where_a_template_takes_one() -> None:
    both = calling(call("a", "now", {}), call("b", "here", {"x": 1}), content="Wait.")
    told = text(ONE_CALL, *map(wire, [user("x"), both, result("b", "2"), result("a", "1"), user("y")]))
    assert told.endswith(
        '[user]x[assistant]{"name": "now", "parameters": {}}[result]"1"'
        '[assistant]{"name": "here", "parameters": {"x": 1}}[result]"2"[user]y[assistant]'
    )


def test_arguments_stay_text_where_a_template_wants_text() -> None:
    told = text(TEXT_ARGUMENTS, *map(wire, CALLED), tools=TOOLS)
    assert told.endswith('[user]w?[assistant]weather {"town": "Zürich", "days": 2}[tool]sunny')


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("", {}),
        ("  ", {}),
        ('{"a": 1', '{"a": 1'),
        ("[1]", "[1]"),
        ("5", "5"),
        ('{"a": NaN}', '{"a": NaN}'),
        ('{"a": 1e999}', '{"a": 1e999}'),
        ('{"a": [-1e999]}', '{"a": [-1e999]}'),
        ('{"a": 1e300}', {"a": 1e300}),
        ('{"a": ' + "[" * 70 + "]" * 70 + "}", '{"a": ' + "[" * 70 + "]" * 70 + "}"),
        ("[" * 100_000, "[" * 100_000),
        ('{"a": ' + "9" * 5000 + "}", '{"a": ' + "9" * 5000 + "}"),
    ],
)
def test_arguments_are_decoded_where_they_are_an_object(arguments: str, expected: Any) -> None:
    assert decoded(arguments) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (CHATML, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>system\nIn French.<|im_end|>\n<|im_start|>user\nx"),
        (PARTS, "<system>Be brief.</metsys>\n<system>In French.</repoleved>\n<user>x"),
        (FIRST_SYSTEM, "<<Be brief.\n\nIn French.>>[user]x"),
        (NO_SYSTEM, "[user]Be brief.\n\nIn French.\n\nx"),
    ],
)
def test_system_and_developer_are_never_dropped(source: str, expected: str) -> None:
    assert text(source, SYSTEM, ALSO, user("x")).startswith(expected)


def test_a_late_system_text_is_told_first_where_it_must() -> None:
    assert text(FIRST_SYSTEM, user("x"), SYSTEM, user("y")) == "<<Be brief.>>[user]x[user]y"
    assert text(FIRST_SYSTEM, SYSTEM) == "<<Be brief.>>"
    assert text(NO_SYSTEM, SYSTEM) == "[user]Be brief."
    assert text(NO_SYSTEM, SYSTEM, {"role": "assistant", "content": "y"}) == "[user]Be brief.[assistant]y"
    assert text(NO_SYSTEM, {"role": "system", "content": ""}) == "[user]"


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": one} for one in texts]


def test_parts_are_kept_or_joined_as_the_template_takes_them() -> None:
    assert "user\na\nb<" in text(CHATML, {"role": "user", "content": parts("a", "b")})
    assert "<user>ab<" in text(PARTS, {"role": "user", "content": parts("a", "b")})


def test_images_keep_their_place_among_the_text() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    content = [*parts("a"), image, *parts("b"), image]
    assert "<user>a<image 1>b<image 2><" in text(PARTS, {"role": "user", "content": content})
    assert "user\na\n(image)\nb\n(image)<" in text(CHATML, {"role": "user", "content": content})


def test_an_image_in_a_result_keeps_its_place() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    seen = [*map(wire, CALLED[:2]), {"role": "tool", "tool_call_id": "c1", "content": [*parts("see"), image]}]
    assert "<tool_response>\nsee\n(image)\n</tool_response>" in text(CHATML, *seen)
    no_calls = PARTS.replace("message.get('tool_calls')", "none").replace("{%- if tools -%}", "{%- if false -%}")
    assert "<user><tool_response>\nsee<image 1>\n</tool_response></resu>" in text(no_calls, *seen)


def test_a_model_that_sees_nothing_refuses_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    blind = PromptBuilder(Tokenizer.bytes_only(), ChatTemplate(CHATML, SPECIAL), context_length=99, vocab_size=257)
    with pytest.raises(UnsupportedParameter, match="text only") as raised:
        blind.build(request({"role": "user", "content": [image]}))
    assert raised.value.param == "messages"


def test_switches_reach_the_template_and_effort_is_one() -> None:
    opened = text(PARTS, user("x"), chat_template_kwargs={"enable_thinking": True})
    closed = text(PARTS, user("x"))
    assert opened == closed + "<think>"
    assert text(PARTS, user("x"), reasoning_effort="high") == opened
    assert text(PARTS, user("x"), reasoning_effort="none") == closed
    asked = text(PARTS, user("x"), reasoning_effort="high", chat_template_kwargs={"enable_thinking": False})
    assert asked == closed
    assert "Today: 2 Feb" in text(ONE_CALL, user("x"), chat_template_kwargs={"date_string": "2 Feb"})


def test_a_thought_that_the_template_opens_is_known() -> None:
    asked = request(user("x"), chat_template_kwargs={"enable_thinking": True})
    assert builder(PARTS).build(asked).in_thought
    assert not builder(PARTS).build(request(user("x"))).in_thought
    assert not builder(CHATML).build(asked).in_thought
    assert not builder(PARTS, thoughts=("<|channel>thought\n",)).build(asked).in_thought


def test_reasoning_of_earlier_turns_reaches_the_template() -> None:
    assert "<think>because</think>yes" in text(PARTS, user("x"), {"role": "assistant", "content": "yes", "reasoning": "because"})


# --- continuing -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=30).filter(str.strip))
@pytest.mark.parametrize("source", [CHATML, ONE_CALL])
def test_a_continuation_is_cut_where_transformers_cuts(source: str, said: str) -> None:
    turns = [user("x"), {"role": "assistant", "content": said}]
    (theirs,), _ = render_jinja_template([turns], chat_template=source, continue_final_message=True, **SPECIAL)
    assert text(source, *turns, continue_final_message=True) == theirs


def test_a_continuation_of_parts_stays_open_after_the_last_text() -> None:
    turns = [user("x"), {"role": "assistant", "content": parts("a", "b")}]
    assert text(PARTS, *turns, continue_final_message=True).endswith("<assistant>ab")
    assert text(CHATML, *turns, continue_final_message=True).endswith("<|im_start|>assistant\na\nb")


def test_the_generation_prompt_may_be_left_out() -> None:
    assert text(CHATML, user("x"), add_generation_prompt=False).endswith("user\nx<|im_end|>\n")
    assert text(CHATML, user("x"), {"role": "assistant", "content": "y"}).endswith(
        "assistant\ny<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_text_that_the_template_alters_cannot_be_continued() -> None:
    with pytest.raises(InvalidRequest) as raised:
        text(PARTS, user("x"), {"role": "assistant", "content": "<think>a</think>b"}, continue_final_message=True)
    assert raised.value.param == "continue_final_message"


# --- tokens ---------------------------------------------------------------------------------------------


def test_the_limit_is_clamped_to_what_remains() -> None:
    prompt = builder(CHATML, 200).build(request(user("x"), max_tokens=5))
    assert prompt.max_tokens == 5
    assert bytes(prompt.token_ids.astype(np.uint8)).decode() == text(CHATML, user("x"))
    remaining = 200 - len(prompt.token_ids)
    assert builder(CHATML, 200).build(request(user("x"), max_tokens=500)).max_tokens == remaining
    assert builder(CHATML, 200).build(request(user("x"))).max_tokens == remaining
    with pytest.raises(ContextLengthExceeded, match="shorten"):
        builder(CHATML, 200).build(request(user("x" * 200)))


@pytest.mark.parametrize("fields", [{"logit_bias": {"257": 1}}, {"stop_token_ids": [257]}])
def test_ids_outside_the_vocabulary_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter, match="257") as raised:
        builder(CHATML).build(request(user("x"), **fields))
    assert raised.value.param in fields
