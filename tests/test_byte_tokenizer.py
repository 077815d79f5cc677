"""What the tokenizer takes from Python and gives back, shown on tokens that are bytes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ecocore._core import Tokenizer
from ecocore.errors import InvalidParameter


def test_bytes_are_tokens_of_the_byte_tokenizer() -> None:
    tokenizer = Tokenizer.bytes_only()
    assert (tokenizer.backend, tokenizer.vocab_size) == ("bytes", 257)
    assert tokenizer.encode("é<|end|>") == [0xC3, 0xA9, 256]
    assert list(map(tokenizer.token_bytes, (0, 255, 256))) == [b"\x00", b"\xff", b"<|end|>"]
    assert list(filter(tokenizer.is_special, range(257))) == [256]
    assert (tokenizer.token_to_id("<|end|>"), tokenizer.token_to_id("<0x41>"), tokenizer.token_to_id("A")) == (256, 65, None)
    stream = tokenizer.stream(skip_special_tokens=True)
    pieces = [stream.push(token_id) for token_id in (*"ö".encode(), 256, 255, 0xC3)]
    assert [*pieces, stream.finish()] == ["", "ö", "", "\ufffd", "", "\ufffd"]


@given(text=st.text())
def test_the_byte_tokenizer_gives_text_back(text: str) -> None:
    tokenizer = Tokenizer.bytes_only()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ude00\ud83d"])
def test_lone_surrogates_are_refused(text: str) -> None:
    tokenizer = Tokenizer.bytes_only()
    with pytest.raises(InvalidParameter, match="text: holds a lone surrogate") as raised:
        tokenizer.encode(text)
    assert raised.value.param == "text"
    with pytest.raises(InvalidParameter, match=r"texts: \[1\] holds a lone surrogate"):
        tokenizer.encode_batch(["fine", text])


@pytest.mark.parametrize("unknown", [-1, 257, 2**32, 2**40, 2**70])
def test_unknown_ids_are_refused(unknown: int) -> None:
    tokenizer = Tokenizer.bytes_only()
    with pytest.raises(InvalidParameter, match=rf"ids: must be tokens of the vocabulary.*; {unknown} is none") as raised:
        tokenizer.decode([5, unknown])
    assert raised.value.param == "ids"
    with pytest.raises(InvalidParameter, match="ids: "):
        tokenizer.decode(np.array([5, unknown]))
    with pytest.raises(InvalidParameter, match="id: "):
        tokenizer.token_bytes(unknown)
    stream = tokenizer.stream()
    with pytest.raises(InvalidParameter, match="id: "):
        stream.push(unknown)
    assert stream.push(97) == "a"
    assert not tokenizer.is_special(unknown)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64])
def test_ids_may_be_any_array_of_integers(dtype: type[np.integer[Any]]) -> None:
    tokenizer = Tokenizer.bytes_only()
    ids = np.frombuffer(b"strided", dtype=np.uint8).astype(dtype)
    assert tokenizer.decode(ids) == "strided"
    assert tokenizer.decode(ids[::-2]) == "strided"[::-2]
    assert tokenizer.decode(ids[:0]) == ""


def test_ids_may_be_any_sequence_of_integers() -> None:
    tokenizer = Tokenizer.bytes_only()
    sequences: list[Any] = [[104, 105], (104, 105), [np.int64(104), np.uint8(105)], torch.tensor([104, 105]), b"hi"]
    for ids in sequences:
        assert tokenizer.decode(ids) == "hi"


def test_ids_that_are_no_integers_are_refused() -> None:
    tokenizer = Tokenizer.bytes_only()
    wrong: list[Any] = [["1"], "12", [1.0], None, 7, [[1], [2]]]
    for ids in wrong:
        with pytest.raises(TypeError):
            tokenizer.decode(ids)
    assert tokenizer.decode(np.array([])) == ""
    with pytest.raises(InvalidParameter, match=r"integers, not float64 of shape \(2, 3\)"):
        tokenizer.decode(np.zeros((2, 3)))
    for array in (np.array([1.0]), np.array([[1], [2]]), np.array(["1"])):
        with pytest.raises(InvalidParameter, match="ids: must be a one-dimensional array of integers"):
            tokenizer.decode(array)
