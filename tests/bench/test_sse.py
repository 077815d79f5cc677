"""Events out of bytes: cut anywhere, in all the ways that lines may end."""

import pytest

from ecocore.bench.sse import EventSplitter

STREAM = (
    ": a comment\n\n"
    'data: {"a": "é"}\n\n'
    "event: message\nid: 7\ndata: first\ndata:second\n\n"
    "retry: 10\n\n"
    "data\n\n"
    "\n\n"
    "data:  two spaces\n\n"
    "database: no\n\n"
    "data: [DONE]\n\n"
    "data: never ended\n"
)
SAID = ['{"a": "é"}', "first\nsecond", "", " two spaces", "[DONE]"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_events_are_the_same_wherever_the_bytes_are_cut(end: str) -> None:
    data = STREAM.replace("\n", end).encode()
    cuts = [[data], [bytes([byte]) for byte in data], *([data[:place], data[place:]] for place in range(1, len(data)))]
    for pieces in cuts:
        splitter = EventSplitter()
        said = [event.decode() for piece in pieces for event in splitter.feed(piece)]
        assert said == SAID


def test_an_event_is_given_as_soon_as_it_is_whole() -> None:
    splitter = EventSplitter()
    given = [splitter.feed(piece) for piece in (b"data: a\n", b"\nda", b"ta: b\n\ndata: c\n\n", b"data: d")]
    assert given == [[], [b"a"], [b"b", b"c"], []]
