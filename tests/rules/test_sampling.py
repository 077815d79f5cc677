"""Rules 1 to 9: how tokens are drawn and counted, seen through HTTP.

The mock engine says an endless text whose logits are known: 30 for its next byte, -30 for its end token, 0 for all others. A
logit_bias of about 100 therefore makes any distribution over bytes that a test needs.
"""

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.live_server import serving
from tests.rules.conftest import Api, only

END = "256"
COIN = only(_0=100, _1=100)
LETTERS = "0123"


def greedy(
    bias: Mapping[str, float], count: int, *, frequency: float = 0, presence: float = 0, repetition: float = 1, prompt: str = ""
) -> str:
    """What rule 2 says, spelled out: the likeliest letter, its own earlier draws counted."""
    text = ""
    for _ in range(count):
        logits = dict(bias)
        for letter in logits:
            if letter in text + prompt:
                logits[letter] /= repetition
            logits[letter] -= text.count(letter) * frequency + (letter in text) * presence
        text += max(sorted(logits), key=logits.__getitem__)
    return text


# --- 1: the order of the steps --------------------------------------------------------------------------


def test_rule_01_bias_comes_before_the_repetition_penalty(api: Api) -> None:
    """The penalty divides what the bias made: 100 / 2 is less than 60. Without a bias before it, it would divide 0."""
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "1"}], "logit_bias": only(_1=100, _2=60), "max_tokens": 1}
    assert api.text(**asked) == "1"
    assert api.text(**asked, repetition_penalty=2.0) == "2"


def test_rule_01_temperature_comes_before_top_p_and_min_p(api: Api) -> None:
    """At temperature 1 the second letter has 12 % of the first's 88 %, at temperature 2 it has 27 % of 73 %."""
    asked: dict[str, Any] = {"logit_bias": only(_1=100, _2=98), "max_tokens": 200, "seed": 4}
    for cut in ({"top_p": 0.85}, {"min_p": 0.2}):
        assert set(api.text(**asked, **cut, temperature=1)) == {"1"}
        assert set(api.text(**asked, **cut, temperature=2)) == {"1", "2"}


def test_rule_01_top_k_comes_before_top_p(api: Api) -> None:
    """Of four equal letters top_k keeps two; half of what is left is one. Of all four, half would be two."""
    asked: dict[str, Any] = {"logit_bias": only(_0=100, _1=100, _2=100, _3=100), "max_tokens": 200, "seed": 4, "temperature": 1}
    assert set(api.text(**asked, top_k=2)) == {"0", "1"}
    assert set(api.text(**asked, top_p=0.5)) == {"0", "1"}
    assert set(api.text(**asked, top_k=2, top_p=0.5)) == {"0"}


def test_rule_01_penalties_come_before_temperature(api: Api) -> None:
    """A presence penalty of 2 at temperature 0.01 decides every draw; after the temperature it would be lost among 100 / 0.01."""
    assert api.text(logit_bias=only(_0=100, _1=99), presence_penalty=2, temperature=0.01, seed=1, max_tokens=2) == "01"


def test_rule_01_draws_follow_the_probabilities(api: Api) -> None:
    """Three to one, within five standard deviations."""
    draws = 4000
    text = api.text(logit_bias=only(_0=98, _1=98 + math.log(3)), temperature=1, seed=11, max_tokens=draws)
    assert abs(text.count("1") - 0.75 * draws) < 5 * math.sqrt(0.75 * 0.25 * draws)


# --- 2: penalties ---------------------------------------------------------------------------------------

eighths = st.integers(min_value=-16, max_value=16).map(lambda number: number / 8)
near_hundred = st.integers(min_value=8 * 96, max_value=8 * 100).map(lambda number: number / 8)


@settings(max_examples=40, deadline=None)
@given(logits=st.tuples(*[near_hundred] * 4), frequency=eighths, presence=eighths, repetition=st.sampled_from([1.0, 1.25, 2.0]))
def test_rule_02_penalties_count_what_this_choice_drew(
    api: Api, logits: tuple[float, ...], frequency: float, presence: float, repetition: float
) -> None:
    """Eighths, so that single precision is exact; at temperature 0, where they act too."""
    bias = dict(zip(LETTERS, logits, strict=True))
    told = api.text(
        logit_bias={str(ord(letter)): logit for letter, logit in bias.items()},
        frequency_penalty=frequency,
        presence_penalty=presence,
        repetition_penalty=repetition,
        max_tokens=12,
    )
    assert told == greedy(bias, 12, frequency=frequency, presence=presence, repetition=repetition)


def test_rule_02_only_the_repetition_penalty_counts_the_prompt(api: Api) -> None:
    bias = {"0": 100.0, "1": 99.0}
    asked: dict[str, Any] = {
        "messages": [{"role": "user", "content": "0000"}],
        "logit_bias": only(_0=100, _1=99),
        "max_tokens": 6,
    }
    assert api.text(**asked, frequency_penalty=0.5, presence_penalty=0.75) == greedy(bias, 6, frequency=0.5, presence=0.75)
    assert api.text(**asked, repetition_penalty=1.25) == greedy(bias, 6, repetition=1.25, prompt="0000")


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty"])
@pytest.mark.parametrize("value", [-2.5, 2.01, "1", True])
def test_rule_02_a_penalty_out_of_range_is_told(api: Api, name: str, value: Any) -> None:
    assert api.refusal(**{name: value})["param"] == name


# --- 3: temperature 0, top_p 0, null --------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{"seed": 1}, {"seed": 2}, {"top_p": 0.1}, {"top_k": 3}, {"min_p": 0.5}], ids=str)
def test_rule_03_temperature_0_is_greedy_whatever_else_is_set(api: Api, fields: dict[str, Any]) -> None:
    asked: dict[str, Any] = {"logit_bias": only(_0=100, _1=100, _2=99), "max_tokens": 20, "temperature": 0}
    assert api.text(**asked, **fields) == "0" * 20


def test_rule_03_every_choice_at_temperature_0_is_the_same(api: Api) -> None:
    choices = api.chat(n=4, max_tokens=20).choices
    assert {choice.message.content for choice in choices} == {api.text(max_tokens=20)}


def test_rule_03_top_p_0_is_the_single_likeliest(api: Api) -> None:
    assert api.text(logit_bias=only(_0=99.9, _1=100), temperature=2, top_p=0, seed=3, max_tokens=50) == "1" * 50


def test_rule_03_null_and_absent_are_1(api: Api) -> None:
    asked: dict[str, Any] = {"logit_bias": only(_0=100, _1=99, _2=98), "seed": 5, "max_tokens": 60}
    plain = api.text(**asked, temperature=1, top_p=1)
    assert api.text(**asked, temperature=None, top_p=None) == plain
    body = api.fields(asked)
    del body["temperature"]
    assert api.client.chat.completions.create(**body).choices[0].message.content == plain
    assert len(set(plain)) == 3


# --- 4: seeds -------------------------------------------------------------------------------------------


def test_rule_04_a_seed_repeats_and_another_does_not(api: Api) -> None:
    def flips(seed: int | None) -> str:
        return api.text(logit_bias=COIN, temperature=1, seed=seed, max_tokens=64)

    assert flips(7) == flips(7)
    assert len({flips(seed) for seed in (0, 1, 7, -1, 2**63 - 1, -(2**63))}) == 6
    assert len({flips(None) for _ in range(4)}) == 4


@pytest.mark.parametrize(
    ("seed", "code"),
    [
        (2**63, "integer_above_max_value"),
        (-(2**63) - 1, "integer_below_min_value"),
        ("7", "invalid_type"),
        (1.5, "invalid_type"),
        (True, "invalid_type"),
    ],
)
def test_rule_04_a_seed_is_any_int64_and_nothing_else(api: Api, seed: Any, code: str) -> None:
    error = api.refusal(seed=seed)
    assert (error["param"], error["code"]) == ("seed", code)


def test_rule_04_choices_have_streams_of_their_own(api: Api) -> None:
    asked: dict[str, Any] = {"logit_bias": COIN, "temperature": 1, "seed": 7, "max_tokens": 64}
    several = [choice.message.content for choice in api.chat(**asked, n=8).choices]
    assert len(set(several)) == 8
    assert several[0] == api.text(**asked)
    assert several == [choice.message.content for choice in api.chat(**asked, n=8).choices]


def test_rule_04_neighbours_in_the_batch_change_no_draw(api: Api) -> None:
    asked: dict[str, Any] = {"logit_bias": COIN, "temperature": 1, "max_tokens": 300}
    alone = {seed: api.text(**asked, seed=seed) for seed in range(8)}
    crowd: dict[int, str] = {}

    def ask(seed: int) -> None:
        crowd[seed] = api.text(**asked, seed=seed)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crowd == alone


# --- 5: the same text under load and after a prefix hit -------------------------------------------------


def test_rule_05_a_prefix_hit_changes_nothing(api: Api) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "the same long start, " * 20}], "max_tokens": 40}
    cold, warm = api.chat(**asked, logprobs=True), api.chat(**asked, logprobs=True)
    assert cold.choices == warm.choices
    assert warm.usage is not None
    assert warm.usage.prompt_tokens_details is not None
    assert warm.usage.prompt_tokens_details.cached_tokens is not None
    assert warm.usage.prompt_tokens_details.cached_tokens >= 64


# --- 6: logit_bias --------------------------------------------------------------------------------------


def test_rule_06_a_bias_of_100_forces_and_of_minus_100_bans(api: Api) -> None:
    assert api.text(logit_bias={str(ord("Q")): 100}, max_tokens=8) == "QQQQQQQQ"
    free, banned = api.text(max_tokens=60), api.text(max_tokens=60, logit_bias={str(ord(" ")): -100, str(ord("e")): -100})
    assert {" ", "e"} < set(free)
    assert {" ", "e"} & set(banned) == set()


@pytest.mark.parametrize("bias", [{"257": 1}, {"999999": 1}, {"-1": 1}, {"a": 1}, {"1": 100.5}, {"1": "5"}, {"1": True}, [1]])
def test_rule_06_an_id_outside_the_vocabulary_or_a_bias_out_of_range_is_told(api: Api, bias: Any) -> None:
    assert api.refusal(logit_bias=bias)["param"] == "logit_bias"


# --- 7: limits ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 4}, 4),
        ({"max_tokens": 3, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 3}, 3),
        ({"max_tokens": 3, "max_completion_tokens": None}, 3),
    ],
    ids=str,
)
def test_rule_07_the_new_name_wins_over_the_old(api: Api, fields: dict[str, Any], tokens: int) -> None:
    answer = api.chat(**fields)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens == len(answer.choices[0].message.content or "")


def test_rule_07_the_end_token_counts_and_is_no_text(api: Api) -> None:
    """A presence penalty lets the end token win after one letter."""
    bias = {**only(_0=70), END: 99.5}
    for limit in (2, 50):
        answer = api.chat(logit_bias=bias, presence_penalty=2, max_tokens=limit)
        assert answer.usage is not None
        assert (answer.choices[0].message.content, answer.usage.completion_tokens) == ("0", 2)
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "integer_below_min_value"),
        (-1, "integer_below_min_value"),
        (2**31, "integer_above_max_value"),
        ("3", "invalid_type"),
        (1.5, "invalid_type"),
        (True, "invalid_type"),
    ],
)
def test_rule_07_a_limit_is_at_least_1(api: Api, name: str, value: Any, code: str) -> None:
    error = api.refusal(**{name: value})
    assert (error["param"], error["code"]) == (name, code)


# --- 8: finish_reason -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason", "tokens"),
    [
        ({"max_tokens": 1}, "length", 1),
        ({"max_tokens": 9}, "length", 9),
        ({"max_tokens": 9, "logit_bias": {END: 100}}, "stop", 1),
        ({"max_tokens": 1, "logit_bias": {END: 100}}, "stop", 1),
        ({"max_tokens": 9, "logit_bias": only(_0=100), "stop": "000"}, "stop", 3),
        ({"max_tokens": 3, "logit_bias": only(_0=100), "stop": "000"}, "stop", 3),
        ({"max_tokens": 2, "logit_bias": only(_0=100), "stop": "000"}, "length", 2),
    ],
    ids=str,
)
def test_rule_08_length_is_told_only_where_the_limit_ended_it(api: Api, fields: dict[str, Any], reason: str, tokens: int) -> None:
    answer = api.chat(**fields)
    assert answer.usage is not None
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == (reason, tokens)
    *_, last, usage = api.chunks(**fields, stream_options={"include_usage": True})
    assert usage.usage is not None
    assert (last.choices[0].finish_reason, usage.usage.completion_tokens) == (reason, tokens)


# --- 9: the context -------------------------------------------------------------------------------------


def test_rule_09_the_context_is_a_ceiling_and_too_long_a_prompt_is_told(tmp_path: Path) -> None:
    context = 128
    with serving(tmp_path, context_length=context) as live:
        api = Api(live)
        empty = api.chat(messages=[{"role": "user", "content": ""}], max_tokens=1).usage
        assert empty is not None
        room = context - empty.prompt_tokens

        def asked(length: int) -> dict[str, Any]:
            return {"messages": [{"role": "user", "content": "x" * length}]}

        for limit in ({}, {"max_tokens": 10_000}, {"max_completion_tokens": 2**31 - 1}):
            answer = api.chat(**asked(8), **limit)
            assert answer.usage is not None
            assert answer.choices[0].finish_reason == "length"
            assert answer.usage.total_tokens == context
        last = api.chat(**asked(room - 1))
        assert last.usage is not None
        assert (last.usage.completion_tokens, last.usage.prompt_tokens) == (1, context - 1)
        for length in (room, room + 1, 5000):
            error = api.refusal(**asked(length))
            assert (error["code"], error["param"], error["type"]) == (
                "context_length_exceeded",
                "messages",
                "invalid_request_error",
            )
        api.client.close()
