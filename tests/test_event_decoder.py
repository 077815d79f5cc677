"""Events from bytes, as Python sees it; rust's own tests try what else may arrive."""

import pytest

from ecocore._core import EventDecoder, OutputStreams, SseWriter, Tokenizer
from ecocore.errors import InternalError


def frames() -> bytes:
    """Of a request that failed, in the bytes that travel."""
    streams = OutputStreams(Tokenizer.bytes_only())
    streams.open(1, request_id=5, choice=1, prompt_tokens=1, max_tokens=1, min_tokens=0, end_ids=[])
    writer = SseWriter()
    writer.open(5, completion_id="", created=0, model="", system_fingerprint="", stream=True, choices=2, form="events")
    assert writer.push(streams.fail([1], "some_code", "in some words")) == [5]
    data = writer.take(5)
    assert writer.is_finished(5)
    assert writer.failure(5) is None
    return data


def test_events_come_back_under_a_number_of_ones_own() -> None:
    decoder = EventDecoder(77, 2)
    data = frames()
    assert len(decoder.push(data[:-1])) == 0
    (row,) = decoder.push(data[-1:]).rows()
    assert (row.request_id, row.choice, row.kind, row.code, row.message) == (77, 1, "failed", "some_code", "in some words")
    assert not decoder.is_complete
    (row,) = decoder.fail("other_code", "other words").rows()
    assert (row.request_id, row.choice, row.code) == (77, 0, "other_code")
    assert decoder.is_complete


def test_what_are_no_events_is_an_error_for_good() -> None:
    decoder = EventDecoder(77, 1)
    with pytest.raises(InternalError, match="too long"):
        decoder.push(b"data: {}\n\n")
    with pytest.raises(InternalError, match="broken before"):
        decoder.push(b"")
