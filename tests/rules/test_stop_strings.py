"""Rules 10 to 13: where an answer stops, and that nothing of a stop string is ever shown."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.rules import stops
from tests.rules.conftest import Api, only

LENGTH = 120

# --- 10: what matches -----------------------------------------------------------------------------------


def check(api: Api, chosen: list[str], fields: dict[str, Any], said: bytes) -> None:
    """Plain and streamed answers are what the definition says; the stream's pieces too."""
    text, stopped = stops.answer(said, chosen)
    plain = api.chat(stop=chosen, max_tokens=len(said), **fields)
    assert plain.choices[0].message.content == text
    assert plain.choices[0].finish_reason == ("stop" if stopped else "length")
    chunks = api.chunks(stop=chosen, max_tokens=len(said), **fields)
    assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content] == stops.pieces(said, chosen)
    assert chunks[-1].choices[0].finish_reason == plain.choices[0].finish_reason


@pytest.fixture(scope="module")
def river(api: Api) -> bytes:
    """What the mock engine says when nothing stops it."""
    return api.text(max_tokens=LENGTH).encode()


@pytest.mark.parametrize(
    "chosen",
    [
        ["hurry"],
        ["never there"],
        ["y"],
        ["hurry, and yet", "rry, a"],
        ["does not", "a river does not", "not"],
        ["reaches", "reached", "reach the sea. It"],
        ["ee", "e s", "sea"],
        ["sea. Every", "sea. Eve", "."],
        ["  ", " d", "do not"],
        ["RIVER", "River"],
        [".*", "[a-z]+", "^"],
    ],
    ids=str,
)
def test_rule_10_the_earliest_end_wins_then_the_longest(api: Api, river: bytes, chosen: list[str]) -> None:
    check(api, chosen, {}, river)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rule_10_random_stop_lists_do_as_the_definition_says(api: Api, river: bytes, data: st.DataObject) -> None:
    text = river.decode()
    slices = st.tuples(st.integers(0, LENGTH - 1), st.integers(1, 12)).map(lambda cut: text[cut[0] : cut[0] + cut[1]])
    spoilt = st.tuples(slices, st.sampled_from("aeh .")).map("".join)
    check(api, data.draw(st.lists(slices | spoilt, min_size=1, max_size=5)), {}, river)


@settings(max_examples=60, deadline=None)
@given(
    chosen=st.lists(st.text("0123", min_size=1, max_size=6), min_size=1, max_size=4),
    seed=st.integers(0, 2**63 - 1),
)
def test_rule_10_stops_overlap_and_repeat(api: Api, chosen: list[str], seed: int) -> None:
    """Random letters of so few kinds that stop strings begin, fail and begin again all the time."""
    fields: dict[str, Any] = {"logit_bias": only(_0=100, _1=100, _2=99, _3=98), "temperature": 1, "seed": seed}
    said = api.text(**fields, max_tokens=40).encode()
    check(api, chosen, fields, said)


# --- 11: what a stream holds back -----------------------------------------------------------------------


def test_rule_11_a_stream_holds_back_only_what_may_become_a_stop(api: Api) -> None:
    """Never longer than it must, and never as long as the longest stop string; the last token brings the rest."""
    fields: dict[str, Any] = {"logit_bias": only(_0=100)}
    assert api.pieces(**fields, max_tokens=4, stop=["1"]) == ["0", "0", "0", "0"]
    assert api.pieces(**fields, max_tokens=4, stop=["01234567890"]) == ["0", "0", "00"]
    assert api.pieces(**fields, max_tokens=4, stop=["001"]) == ["0", "000"]
    assert api.pieces(**fields, max_tokens=4, stop=["000001"]) == ["0000"]


def test_rule_11_what_is_held_comes_out_at_the_end_token_too(api: Api) -> None:
    fields: dict[str, Any] = {"logit_bias": {**only(_0=70), "256": 99.5}, "presence_penalty": 2, "max_tokens": 9}
    assert api.pieces(**fields, stop=["01"]) == ["0"] == api.pieces(**fields)


# --- 12: which lists are taken --------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [None, [], "never there", ["never there"], [f"{number}!" for number in range(16)]], ids=str)
def test_rule_12_null_and_empty_are_none_and_many_are_fine(api: Api, river: bytes, stop: Any) -> None:
    answer = api.chat(stop=stop, max_tokens=LENGTH)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (river.decode(), "length")


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        ("", "invalid_value"),
        ([""], "invalid_value"),
        (["a", ""], "invalid_value"),
        ([f"{number}!" for number in range(17)], "array_above_max_length"),
        ("x" * 1025, "string_above_max_length"),
        (["é" * 513], "string_above_max_length"),
        (7, "invalid_type"),
        ([7], "invalid_type"),
        ([None], "invalid_type"),
        ({"a": "b"}, "invalid_type"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_rule_12_an_empty_or_oversized_stop_is_told(api: Api, stop: Any, code: str) -> None:
    error = api.refusal(stop=stop)
    assert (error["param"], error["code"]) == ("stop", code)


# --- 13: what always stops ------------------------------------------------------------------------------


def test_rule_13_an_end_token_stops_whatever_the_list_says(api: Api) -> None:
    answer = api.chat(logit_bias={"256": 100}, stop=["never there"], max_tokens=5)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("", "stop")
