"""Rules 21 and 22: log-probabilities are the model's own, natural, finite, and one entry for each token of the text."""

from typing import Any

import numpy as np
import pytest
from openai.types.chat.chat_completion_token_logprob import ChatCompletionTokenLogprob
from tests.rules.conftest import Api, only

VOCABULARY = 257
ALTERED: list[dict[str, Any]] = [
    {"temperature": 1.5, "seed": 3},
    {"temperature": 1, "top_p": 0.5, "seed": 3},
    {"temperature": 2, "top_k": 4, "min_p": 0.1, "seed": 3},
    {"frequency_penalty": 1.5, "presence_penalty": -1.0},
    {"repetition_penalty": 1.3},
]


def entries(api: Api, **fields: Any) -> list[ChatCompletionTokenLogprob]:
    """The entries of an answer."""
    told = api.chat(logprobs=True, **fields).choices[0].logprobs
    assert told is not None
    assert told.refusal is None
    assert told.content is not None
    return told.content


def expected(byte: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Log-probabilities of the mock engine where its text goes on with this byte."""
    logits = np.zeros(VOCABULARY)
    logits[256], logits[byte] = -30, 30
    shifted = logits - logits.max()
    result: np.ndarray[Any, np.dtype[np.float64]] = shifted - np.log(np.exp(shifted).sum())
    return result


# --- 21: raw --------------------------------------------------------------------------------------------


def test_rule_21_they_are_natural_logarithms_of_the_models_own_probabilities(api: Api) -> None:
    told = entries(api, max_tokens=20, top_logprobs=20)
    for entry, letter in zip(told, api.text(max_tokens=20), strict=True):
        own = expected(ord(letter))
        assert entry.token == letter
        assert entry.logprob == pytest.approx(own[ord(letter)], abs=1e-9)
        for top in entry.top_logprobs:
            assert top.logprob == pytest.approx(own[(top.bytes or [0])[0]], abs=1e-5)


@pytest.mark.parametrize("fields", ALTERED, ids=str)
def test_rule_21_no_sampling_parameter_moves_them(api: Api, fields: dict[str, Any]) -> None:
    assert entries(api, max_tokens=12, top_logprobs=5, **fields) == entries(api, max_tokens=12, top_logprobs=5)


def test_rule_21_a_bias_moves_the_draw_and_not_its_logprob(api: Api) -> None:
    """The forced letter has the probability that the model gave it: e^-30."""
    for entry in entries(api, max_tokens=8, logit_bias=only(_0=100), top_logprobs=3):
        assert entry.token == "0"
        assert entry.logprob == pytest.approx(-30, abs=1e-5)
        assert entry.top_logprobs[0].logprob == pytest.approx(0, abs=1e-5)
        assert entry.top_logprobs[0].token != "0"


def test_rule_21_null_when_not_asked(api: Api) -> None:
    for fields in ({}, {"logprobs": False}, {"logprobs": None}):
        assert api.chat(max_tokens=2, **fields).choices[0].logprobs is None
        assert all(event["choices"][0]["logprobs"] is None for event in api.frames(max_tokens=2, **fields)[:-1])


# --- 22: entries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 7, 20])
def test_rule_22_exactly_so_many_alternatives_sorted(api: Api, count: int) -> None:
    for bias in ({}, only(_0=100)):
        for entry in entries(api, max_tokens=6, top_logprobs=count, logit_bias=bias):
            assert len(entry.top_logprobs) == count
            values = [top.logprob for top in entry.top_logprobs]
            assert values == sorted(values, reverse=True)
            assert len({tuple(top.bytes or ()) for top in entry.top_logprobs}) == count


def test_rule_22_without_a_count_there_are_no_alternatives(api: Api) -> None:
    assert all(entry.top_logprobs == [] for entry in entries(api, max_tokens=3))


@pytest.mark.parametrize("seed", range(5))
def test_rule_22_joined_bytes_are_the_content(api: Api, seed: int) -> None:
    """Also where a token is only a part of a character."""
    fields: dict[str, Any] = {
        "logit_bias": {str(byte): 100 for byte in "é€😀".encode()},
        "temperature": 1,
        "seed": seed,
        "max_tokens": 40,
    }
    told = entries(api, **fields)
    assert len(told) == 40
    joined = b"".join(bytes(entry.bytes or ()) for entry in told)
    assert joined.decode("utf-8", "replace") == api.text(**fields)


def test_rule_22_a_stream_has_the_same_entries(api: Api) -> None:
    fields: dict[str, Any] = {"max_tokens": 30, "top_logprobs": 3, "stop": ["sea", "hurry"]}
    chunks = api.chunks(logprobs=True, **fields)
    told = [entry for chunk in chunks if (kept := chunk.choices[0].logprobs) for entry in kept.content or ()]
    plain = entries(api, **fields)
    assert [entry.to_dict() for entry in told] == [entry.to_dict() for entry in plain]
    assert "".join(entry.token for entry in plain) == api.text(max_tokens=30, stop=fields["stop"])


def test_rule_22_a_chunk_of_several_tokens_has_an_entry_for_each(api: Api) -> None:
    """Held back together, told together."""
    fields: dict[str, Any] = {"max_tokens": 6, "logit_bias": only(_0=100), "stop": ["00000001"]}
    *_, told, _end = api.chunks(logprobs=True, **fields)
    assert told.choices[0].delta.content == "000000"
    assert told.choices[0].logprobs is not None
    assert [entry.token for entry in told.choices[0].logprobs.content or ()] == ["0"] * 6


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"top_logprobs": 3}, "top_logprobs", None),
        ({"top_logprobs": 3, "logprobs": False}, "top_logprobs", None),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs", "integer_below_min_value"),
        ({"logprobs": True, "top_logprobs": "5"}, "top_logprobs", "invalid_type"),
        ({"logprobs": 1}, "logprobs", "invalid_type"),
    ],
    ids=str,
)
def test_rule_22_a_count_needs_logprobs_and_has_bounds(api: Api, fields: dict[str, Any], param: str, code: str | None) -> None:
    error = api.refusal(**fields)
    assert error["param"] == param
    assert code in (None, error["code"])
