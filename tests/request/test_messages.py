"""Messages of every role, their parts, and the order of calls and results."""

from typing import Any

import pytest

from ecocore.errors import InvalidParameter, InvalidRequest
from ecocore.request import ChatRequest, ImagePart, Message, TextPart

ASK = {"role": "user", "content": "hi"}
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}


def call(call_id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def calling(*ids: str, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": [call(one) for one in ids], **fields}


def result(call_id: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": "42"}


def parse(*messages: Any) -> tuple[Message, ...]:
    return ChatRequest.parse({"model": "m", "messages": list(messages)}).messages


def refused(*messages: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        parse(*messages)
    assert raised.value.param == "messages"
    return raised.value


def test_a_string_is_one_text_part() -> None:
    (message,) = parse(ASK)
    assert message.content == "hi"
    assert message.parts == (TextPart(type="text", text="hi"),)


def test_parts_keep_their_order_and_join_to_text() -> None:
    (message,) = parse({"role": "user", "content": [{"type": "text", "text": "a"}, PIXEL, {"type": "text", "text": "b"}]})
    assert [part.type for part in message.parts] == ["text", "image_url", "text"]
    assert message.text == "a\nb"
    (image,) = message.images
    assert isinstance(image, ImagePart)
    assert (image.url, image.image_url.detail) == ("data:image/png;base64,AAAA", "low")


def test_every_role_may_have_parts() -> None:
    for role in ("system", "developer", "user", "assistant"):
        assert parse({"role": role, "content": [{"type": "text", "text": "x"}], "name": "n"})[0].text == "x"


def test_null_content_goes_with_calls_alone() -> None:
    message = parse(ASK, calling("a"), result("a"))[1]
    assert message.content is None
    assert [(one.id, one.name, one.arguments) for one in message.tool_calls] == [("a", "f", "{}")]
    for broken in ({"role": "assistant", "content": None}, {"role": "assistant"}, {"role": "user", "content": None}):
        assert refused(ASK, broken).code == "missing_required_parameter"


def test_a_refusal_is_what_the_assistant_said() -> None:
    assert parse({"role": "assistant", "content": None, "refusal": "no"})[0].text == "no"
    assert parse({"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]})[0].text == "no"


def test_reasoning_is_kept_under_either_name() -> None:
    for name in ("reasoning", "reasoning_content"):
        assert parse({"role": "assistant", "content": "x", name: "because"})[0].reasoning == "because"


def test_calls_are_answered_in_any_order() -> None:
    assert len(parse(ASK, calling("a", "b"), result("b"), result("a"), ASK)) == 5
    assert len(parse(ASK, calling("a"), result("a"), calling("a"), result("a"))) == 5


@pytest.mark.parametrize(
    "messages",
    [
        [result("a")],
        [ASK, result("a")],
        [ASK, calling("a"), result("b")],
        [ASK, calling("a"), result("a"), result("a")],
        [ASK, calling("a"), ASK],
        [ASK, calling("a", "b"), result("a")],
        [ASK, calling("a")],
        [ASK, calling("a", "a"), result("a"), result("a")],
        [ASK, calling("a"), result("a"), ASK, result("a")],
    ],
)
def test_calls_and_results_belong_together(messages: list[Any]) -> None:
    assert refused(*messages).code == "invalid_value"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("hi", "invalid_type"),
        ({"content": "x"}, "missing_required_parameter"),
        ({"role": "king", "content": "x"}, "invalid_value"),
        ({"role": "function", "name": "f", "content": "x"}, "invalid_value"),
        ({"role": "user"}, "missing_required_parameter"),
        ({"role": "user", "content": 5}, "invalid_type"),
        ({"role": "user", "content": {"type": "text", "text": "x"}}, "invalid_type"),
        ({"role": "user", "content": ["x"]}, "invalid_type"),
        ({"role": "user", "content": []}, "empty_array"),
        ({"role": "user", "content": [{"type": "text"}]}, "missing_required_parameter"),
        ({"role": "user", "content": [{"text": "x"}]}, "missing_required_parameter"),
        ({"role": "user", "content": [{"type": 5, "text": "x"}]}, "invalid_value"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "invalid_value"),
        ({"role": "user", "content": [{"type": "text", "text": "x"}] * 257}, "array_above_max_length"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "invalid_type"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": ""}}]}, "invalid_value"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "huge"}}]}, "invalid_value"),
        ({"role": "system", "content": [PIXEL]}, "invalid_value"),
        ({"role": "assistant", "content": [PIXEL]}, "invalid_value"),
        ({"role": "tool", "content": "x"}, "missing_required_parameter"),
        ({"role": "tool", "content": "x", "tool_call_id": 5}, "invalid_type"),
        ({"role": "user", "content": "x", "tool_calls": [call("a")]}, "invalid_value"),
        ({"role": "user", "content": "x", "name": 5}, "invalid_type"),
        (calling("a", tool_calls=[call("a") | {"type": "custom"}]), "invalid_value"),
        (calling("a", tool_calls=[call("a", arguments={})]), "invalid_type"),  # type: ignore[arg-type]
        (calling("a", tool_calls=[{"id": "a", "type": "function"}]), "missing_required_parameter"),
        (calling("a", tool_calls=[{"id": "a", "function": {"name": "a b", "arguments": ""}}]), "invalid_value"),
        (calling("a", tool_calls=[call("x" * 257)]), "string_above_max_length"),
    ],
)
def test_a_broken_message_is_refused(message: Any, code: str) -> None:
    assert refused(message).code == code


@pytest.mark.parametrize("kind", ["input_audio", "file", "video_url"])
def test_sound_files_and_video_are_unsupported(kind: str) -> None:
    error = refused({"role": "user", "content": [{"type": kind, kind: {}}]})
    assert error.code == "unsupported_parameter"
    assert kind in str(error)


@pytest.mark.parametrize("field", ["audio", "function_call"])
def test_what_a_message_cannot_carry_is_refused(field: str) -> None:
    assert isinstance(refused({"role": "assistant", "content": "x", field: {"id": "a"}}), InvalidRequest)
    assert parse({"role": "assistant", "content": "x", field: None})[0].text == "x"


def test_the_place_of_a_broken_history_is_told() -> None:
    with pytest.raises(InvalidParameter, match=r"messages\[1\]: a message of role tool must answer"):
        parse(ASK, result("a"))
