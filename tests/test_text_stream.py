"""Ids to text for many streams at once, against Python's own incremental decoder."""

import codecs
import random
from typing import Any

import numpy as np
import pytest
import torch

from ecocore._core import TextStream, Tokenizer
from ecocore.errors import InvalidParameter

END = 256


def pieces(ids: list[int], *, stop: list[str] | None = None, skip_special_tokens: bool = True) -> list[str]:
    """What one stream gives for each id, and at its end."""
    streams = TextStream(Tokenizer.bytes_only())
    handle = streams.open(stop or [], skip_special_tokens=skip_special_tokens)
    given = [streams.push([handle], [token])[0][0] for token in ids]
    return [*given, streams.finish(handle)]


def test_a_character_appears_with_its_last_byte() -> None:
    assert pieces(list("a€!".encode())) == ["a", "", "", "€", "!", ""]


def test_an_invalid_byte_is_replaced_at_once() -> None:
    assert pieces([0xFF, 0xE2, ord("a"), 0xF0]) == ["\ufffd", "", "\ufffda", "", "\ufffd"]


def test_only_what_may_become_a_stop_is_held() -> None:
    assert pieces(list(b"a\nb\n\nc"), stop=["\n\n"]) == ["a", "", "\nb", "", "", "", ""]


def test_special_tokens_are_text_only_if_asked_for() -> None:
    assert pieces([65, END, 66]) == ["A", "", "B", ""]
    assert pieces([65, END, 66], skip_special_tokens=False) == ["A", "<|end|>", "B", ""]


def test_random_bytes_decode_as_python_decodes_them() -> None:
    chance = random.Random(7)
    fragments = [b"a", "é".encode(), "€".encode(), "😀".encode(), b"\xe2", b"\x82", b"\xf0\x9f", b"\xc0", b"\xff"]
    for _ in range(200):
        data = b"".join(chance.choices(fragments, k=20))
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        given = pieces(list(data))
        assert "".join(given) == data.decode("utf-8", "replace")
        assert given == [*(decoder.decode(bytes([byte])) for byte in data), decoder.decode(b"", final=True)]


def test_each_stream_of_a_step_has_its_own_text_and_stops() -> None:
    streams = TextStream(Tokenizer.bytes_only())
    plain, stopping = streams.open(), streams.open(["b"])
    assert streams.push([plain, stopping], [97, 97]) == (["a", "a"], [False, False])
    assert streams.push([stopping, plain], [98, 98]) == (["", "b"], [True, False])
    assert streams.push([stopping], [99]) == ([""], [True])
    assert streams.finish(stopping) == ""


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.int32, np.uint64, np.int16, np.uint8, ">i8"])
def test_arrays_serve_as_well_as_lists(dtype: str | type[np.integer]) -> None:
    streams = TextStream(Tokenizer.bytes_only())
    handles = np.array([streams.open(), streams.open()], dtype)
    assert streams.push(handles, np.array([97, 98], dtype)) == (["a", "b"], [False, False])
    assert streams.push(handles[::-1], np.array([97, 0, 98, 0], dtype)[::2]) == (["a", "b"], [False, False])


def test_arrays_that_step_over_other_bytes_serve_too() -> None:
    """Fields of packed records, and elements at odd addresses."""
    for packed in ([("other", "u1"), ("id", "<i8")], [("other", "<u4"), ("id", "<i8")], [("id", "<i8"), ("other", "u1")]):
        records = np.zeros(2, packed)
        records["id"] = [97, 98]
        odd = np.ndarray(2, np.int64, buffer=bytearray(17), offset=1)
        odd[:] = [97, 98]
        for ids in (records["id"], odd):
            streams = TextStream(Tokenizer.bytes_only())
            handles = [streams.open(), streams.open()]
            assert streams.push(handles, ids) == (["a", "b"], [False, False])
            assert Tokenizer.bytes_only().decode(ids) == "ab"
    streams = TextStream(Tokenizer.bytes_only())
    with pytest.raises(InvalidParameter, match="whole numbers"):
        streams.push([streams.open()], np.ma.array([97], mask=[True]))


def test_tensors_and_tuples_serve_too() -> None:
    streams = TextStream(Tokenizer.bytes_only())
    handles = streams.open(), streams.open()
    given: list[tuple[Any, Any]] = [(handles, torch.tensor([97, 98])), (torch.tensor(handles), (97, 98))]
    for some_handles, ids in given:
        assert streams.push(some_handles, ids) == (["a", "b"], [False, False])
    assert streams.push(np.array(handles)[:0], []) == ([], [])


def test_what_holds_no_ids_is_refused_by_name() -> None:
    streams = TextStream(Tokenizer.bytes_only())
    handle = streams.open()
    for ids in np.array([-1]), np.array([1 << 32]), np.array([97.0]), np.array([[97]]), [97.0], ["a"], 97, None:
        with pytest.raises(InvalidParameter, match="whole numbers") as refusal:
            streams.push([handle], ids)  # type: ignore[arg-type]
        assert refusal.value.param == "ids"
    assert streams.push([handle], [98]) == (["b"], [False])


def test_streams_that_share_a_tokenizer_share_what_they_may() -> None:
    tokenizer = Tokenizer.bytes_only()
    one, other = TextStream(tokenizer), TextStream(tokenizer)
    seen, skipped, stopping = one.open(skip_special_tokens=False), other.open(), other.open(["ab"])
    for _ in range(2):
        assert one.push([seen, seen], [END, 97]) == (["<|end|>", "a"], [False, False])
        assert other.push([skipped, stopping, skipped, stopping], [END, 97, 97, 97]) == (["", "", "a", "a"], [False] * 4)
        assert other.push([stopping], [99]) == (["ac"], [False])


def test_a_list_of_stops_is_the_callers_own() -> None:
    streams = TextStream(Tokenizer.bytes_only())
    handles = [streams.open(["b"]) for _ in range(3)]
    _, stopped = streams.push(handles, [97, 98, 97])
    assert stopped == [False, True, False]
    stopped[0] = True
    assert streams.push(handles, [97, 97, 97])[1] == [False, True, False]


def test_a_refused_push_moves_no_stream() -> None:
    streams = TextStream(Tokenizer.bytes_only())
    handle = streams.open()
    for handles, ids in [([handle, 99], [97, 97]), ([handle], [97, 98]), ([handle], [-1]), ([handle], [1 << 32])]:
        with pytest.raises(InvalidParameter):
            streams.push(handles, ids)
    assert streams.push([handle], [98]) == (["b"], [False])


def test_a_finished_handle_is_unknown() -> None:
    streams = TextStream(Tokenizer.bytes_only())
    handle = streams.open()
    streams.finish(handle)
    with pytest.raises(InvalidParameter, match="no open stream"):
        streams.finish(handle)


@pytest.mark.parametrize("stop", [[""], ["x"] * 17, ["x" * 1025], ["\ud800"]])
def test_an_unusable_stop_is_refused_by_name(stop: list[str]) -> None:
    with pytest.raises(InvalidParameter) as refusal:
        TextStream(Tokenizer.bytes_only()).open(stop)
    assert refusal.value.param == "stop"
