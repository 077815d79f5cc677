"""JSON from strangers: what is refused, and that refusing is cheap."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecocore._core import json_shape
from ecocore.server.error_table import BadRequest
from ecocore.server.json_in import MAX_COMMAS, MAX_DEPTH, parse_object

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
        (b"", "the body is empty; send a JSON object"),
        (b" \r\n", "the body is empty"),
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
        (b'{"a": [' + b"1," * (MAX_COMMAS + 1) + b"1]}", "250000 values"),
    ],
)
def test_a_broken_body_is_refused_and_told_why(body: bytes, words: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        parse_object(body)
    assert words in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_the_allowed_number_of_values_is_allowed() -> None:
    assert len(parse_object(b'{"a": [' + b"1," * MAX_COMMAS + b"1]}")["a"]) == MAX_COMMAS + 1


def test_the_allowed_depth_is_allowed() -> None:
    body = b'{"a": ' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert list(parse_object(body)) == ["a"]


def test_brackets_and_quotes_inside_strings_do_not_count() -> None:
    text = '[{"' * 500 + "\\" + '"]}' * 3
    assert parse_object(json.dumps({"a": text}).encode()) == {"a": text}


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def shape_of(value: Any) -> tuple[int, int, int]:
    """Depth, containers and commas of a value, counted on what Python's parser made."""
    if not isinstance(value, list | dict):
        return 0, 0, 0
    inner = [shape_of(item) for item in (value.values() if isinstance(value, dict) else value)]
    deepest = max((depth for depth, _, _ in inner), default=0)
    commas = max(len(value) - 1, 0) + sum(commas for _, _, commas in inner)
    return deepest + 1, 1 + sum(containers for _, containers, _ in inner), commas


@given(value=JSON, ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_the_shape_is_that_of_what_is_parsed(value: Any, *, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert json_shape(text.encode()) == shape_of(json.loads(text))


STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


@given(pieces=st.lists(st.sampled_from([b'"', b"\\", b"[", b"]", b"{", b"}", b",", b"a", b"\n", b"\xff"])))
def test_whatever_the_bytes_are_strings_do_not_count(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    bare = STRING.sub(b"", body)
    depth, containers, commas = json_shape(body)
    assert (containers, commas) == (bare.count(b"[") + bare.count(b"{"), bare.count(b","))
    assert bare.count(b"[") + bare.count(b"{") - bare.count(b"]") - bare.count(b"}") <= depth <= containers


def longest_gap(work: Callable[[], object]) -> float:
    """Seconds for which this thread could not run while another did `work`."""
    thread = threading.Thread(target=work)
    longest, last = 0.0, time.perf_counter()
    thread.start()
    while thread.is_alive():
        # Gives the interpreter away and asks for it again, as an event loop does.
        thread.join(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


LARGE = 16 * 2**20


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b'"",' * (LARGE // 3 - 4) + b"1]}",
        b'{"a":[' + b'"abcdefghijk",' * MAX_COMMAS + b"1]}",
        b"{" + b",".join(b'"%x":""' % number for number in range(LARGE // 12)) + b"}",
        b'{"a":"' + b"\\n" * (LARGE // 2 - 8) + b'"}',
        b'{"a":"' + "😀".encode() * (LARGE // 4 - 8) + b'"}',
        b'{"a":"' + b"\\ud83d\\ude00" * (LARGE // 12 - 8) + b'"}',
    ],
    ids=["strings", "values", "members", "escapes", "text", "pairs"],
)
def test_a_body_does_not_stop_the_other_threads(body: bytes) -> None:
    """A refused one neither: 16 MiB of empty strings stopped them for 1.6 s."""

    def parse() -> None:
        with contextlib.suppress(BadRequest):
            parse_object(body)

    assert longest_gap(parse) < 0.75


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
