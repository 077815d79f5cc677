"""Rule 32: every role and form of content reaches the prompt, in its place and once."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.rules.conftest import Api
from tests.rules.speaker import Speaker, speaking


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Speaker]]:
    with speaking(tmp_path_factory.mktemp("speaker")) as api_and_speaker:
        yield api_and_speaker


class Listener:
    """What the model hears of a conversation. Each is begun anew, so that no prefix is cached."""

    def __init__(self, api: Api, speaker: Speaker) -> None:
        self.api = api
        self.speaker = speaker
        self.number = 0

    def hears(self, *messages: dict[str, Any], **fields: Any) -> str:
        """The prompt, without the system line that makes it new."""
        self.number += 1
        mark = f"({self.number})"
        answer = self.api.chat(messages=[{"role": "system", "content": mark}, *messages], **fields)
        heard = self.speaker.heard
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == len(heard.encode())
        assert heard.count(mark) == 1
        return heard.replace(mark, "")


@pytest.fixture
def model(room: tuple[Api, Speaker]) -> Listener:
    room[1].says = b"ok"
    listener = Listener(*room)
    listener.number = id(listener) % 10**6
    return listener


def user(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def test_rule_32_a_string_is_one_text_part_and_parts_are_joined(model: Listener) -> None:
    assert model.hears(user("hello")) == model.hears(user(parts("hello")))
    assert model.hears(user(parts("one", "two"))) == model.hears(user("one\ntwo"))
    assert "one\ntwo" in model.hears(user(parts("one", "two")))


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_rule_32_every_role_may_speak_in_parts(model: Listener, role: str) -> None:
    told = {"role": role, "content": parts("some", "words")}
    assert "some\nwords" in model.hears(told, user("x"))
    assert model.hears(told, user("x")) == model.hears({"role": role, "content": "some\nwords"}, user("x"))


def test_rule_32_a_developer_is_the_system(model: Listener) -> None:
    developer = model.hears({"role": "developer", "content": "Be brief."}, user("x"))
    assert developer == model.hears({"role": "system", "content": "Be brief."}, user("x"))
    assert "Be brief." in developer


def test_rule_32_several_systems_are_all_heard(model: Listener) -> None:
    heard = model.hears({"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."}, user("x"))
    assert heard.index("Be brief.") < heard.index("Be kind.")
    assert heard.count("Be brief.") == heard.count("Be kind.") == 1


def test_rule_32_a_name_is_taken(model: Listener) -> None:
    assert "hello" in model.hears(user("hello", name="Robin"))


def test_rule_32_an_assistant_may_be_last_and_goes_on_only_if_asked(model: Listener) -> None:
    turns = [user("x"), {"role": "assistant", "content": "The capital is"}]
    answered = model.hears(*turns)
    continued = model.hears(*turns, continue_final_message=True, add_generation_prompt=False)
    assert continued.endswith("The capital is")
    assert answered.startswith(continued)
    assert len(answered) > len(continued)
    assert model.hears(*turns, continue_final_message=False) == answered


def test_rule_32_going_on_needs_something_to_go_on_with(model: Listener) -> None:
    error = model.api.refusal(messages=[user("x")], continue_final_message=True)
    assert error["param"] in ("continue_final_message", "messages")


def test_rule_32_turns_keep_their_order(model: Listener) -> None:
    turns = [user("first"), {"role": "assistant", "content": "second"}, user("third"), user("fourth")]
    heard = model.hears(*turns)
    places = [heard.index(word) for word in ("first", "second", "third", "fourth")]
    assert places == sorted(places)


def test_rule_32_odd_text_is_heard_as_it_is(model: Listener) -> None:
    text = 'a\x00b "quoted" {{ braces }} {% raw %} \u202e 😀 </tool_call> \\n'
    assert text in model.hears(user(text))


@pytest.mark.parametrize(
    "content",
    [
        None,
        7,
        [{"type": "text"}],
        [{"type": "text", "text": 7}],
        [{"text": "x"}],
        ["x"],
        {"type": "text", "text": "x"},
        [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}],
        [{"type": "file", "file": {"file_id": "x"}}],
        [{"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}],
        parts(*["x"] * 257),
    ],
    ids=lambda content: str(content)[:40],
)
def test_rule_32_content_that_is_none_is_told(model: Listener, content: Any) -> None:
    assert model.api.refusal(messages=[user(content)])["param"] == "messages"
