"""JSON from strangers: what is refused, and that refusing is cheap."""

import contextlib
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocore.server.error_table import BadRequest
from ecocore.server.json_in import MAX_DEPTH, parse_object

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(value=st.dictionaries(TEXT, JSON), ascii_only=st.booleans())
def test_what_json_writes_is_read_back(value: dict[str, Any], *, ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no valid JSON"),
        (b"{", "no valid JSON"),
        (b'{"a": 1,}', "column 9"),
        (b"[]", "must be a JSON object"),
        (b"3", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "-Infinity"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": %s}' % (b"9" * 401), "401 digits"),
        (b'{"a": 0.%s}' % (b"9" * 401), "out of range"),
        (b'{"a": 1, "b": {"c": 2, "c": 3}}', "'c' twice"),
        (b'{"a": "\xff"}', "not UTF-8 (byte 7)"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "no valid JSON"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "64 deep"),
        (b'{"a": ' + b"[" * 40_000, "64 deep"),
        (b'{"a": [' + b"[]," * 50_000 + b"[]]}", "50000 arrays"),
    ],
)
def test_a_broken_body_is_refused_and_told_why(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_object(body)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_the_allowed_depth_is_allowed() -> None:
    body = b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert list(parse_object(body)) == ["a"]


def test_brackets_and_quotes_inside_strings_do_not_count() -> None:
    text = '[{"' * 500 + "\\" + '"]}' * 3
    assert parse_object(json.dumps({"a": text}).encode()) == {"a": text}


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


SIZE = 4 * 2**20


@pytest.mark.parametrize(
    "body",
    [
        b"[" * SIZE,
        b"[]" * (SIZE // 2),
        b'{"a":' * (SIZE // 5),
        b'"' + b'\\"' * (SIZE // 2),
        b'"' * SIZE,
        b"\\" * SIZE,
        b'{"a":[' + b"[]," * (SIZE // 3) + b"[]]}",
        b"{" + b",".join(b'"%x":0' % number for number in range(SIZE // 10)) + b',"1":0}',
    ],
    ids=["open", "pairs", "nested", "escapes", "quotes", "backslashes", "wide", "fields"],
)
def test_a_hostile_body_costs_little(body: bytes) -> None:
    begun = time.perf_counter()
    with contextlib.suppress(BadRequest):
        parse_object(body)
    assert time.perf_counter() - begun < 5
