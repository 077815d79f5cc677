"""Ids to text: `ecocore.TextStream` with stop strings, and one `TokenStream` up to 64k tokens, beside `DecodeStream`.

With stop strings the peer works as servers written in Python do (vLLM among them): an incremental decoder per stream, `str.find`
of each stop string near the end of the text, and the longest stop's length of text held back. It is written here anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice, pairwise
from typing import Any, Final

from benches import vocabularies, workloads
from benches.harness import Absent, Bench, Case, Peer, Settings, same

PEER: Final = "DecodeStream"
PEER_WITH_STOPS: Final = "DecodeStream + find"
STREAMS: Final = 256
STEPS: Final = 64
LENGTHS: Final = (1024, 4096, 16_384, 65_536)
NO_CHARACTER: Final = 1600

# Plausible ones; none of them occurs, so that every stream lives through every step.
STOPS: Final = ("<|stop|>", "\n\nUser:", "###END###", "Observation:\n\n")
HELD: Final = max(map(len, STOPS)) - 1


def cases(settings: Settings) -> Iterator[Case]:
    streams, steps = (4, 8) if settings.quick else (STREAMS, STEPS)
    ids = _token_ids(streams, steps)
    ours = _ecocore(ids)
    peers = (_decode_streams(ids, ours), _one_decode_stream_each(ids, ours))
    workload = f"{streams} streams, {len(STOPS)} stop strings each"
    yield Case(workload, "step", steps, ours, peers)
    for length in LENGTHS[:1] if settings.quick else LENGTHS:
        yield _one_stream(f"one stream of {length:,} tokens", _long_text(length))
    count = 16 if settings.quick else NO_CHARACTER
    yield _one_stream(f"{count:,} bytes that become no character", [_lone_byte()] * count)


def _one_stream(workload: str, ids: list[int]) -> Case:
    """Token after token, as a loop around one model does it."""
    from ecocore import Tokenizer

    tokenizer = Tokenizer.from_file(workloads.model_path())

    def ours() -> str:
        stream = tokenizer.stream(skip_special_tokens=True)
        pieces = [stream.push(token_id) for token_id in ids]
        return "".join(pieces) + stream.finish()

    return Case(workload, "token", len(ids), ours, (_decode_stream(ids, ours),))


def _decode_stream(ids: list[int], ours: Callable[[], str]) -> Peer | Absent:
    if not workloads.has("tokenizers", "gguf"):
        return Absent(PEER)
    from tokenizers.decoders import DecodeStream

    tokenizer = _reference()

    def run() -> str:
        stream = DecodeStream(skip_special_tokens=True)
        return "".join(piece for token_id in ids if (piece := stream.step(tokenizer, token_id)) is not None)

    return Peer(PEER, run, same(ours, run))


@cache
def _reference() -> Any:
    """The embedded model's vocabulary as a `tokenizers.Tokenizer`."""
    return vocabularies.oracle(workloads.model_path())


def _long_text(tokens: int) -> list[int]:
    """A conversation in several languages. It ends with a line, since `DecodeStream` keeps what may become a character."""
    from ecocore import Tokenizer

    tokenizer = Tokenizer.from_file(workloads.model_path())
    encoded = (tokenizer.encode(message) for message in workloads.chat_messages(tokens))
    ids = list(islice((token_id for message in encoded for token_id in message), tokens - 1))
    return [*ids, *tokenizer.encode("\n")]


def _lone_byte() -> int:
    """The id of a byte that begins no character."""
    from ecocore import Tokenizer

    tokenizer = Tokenizer.from_file(workloads.model_path())
    return next(token_id for token_id in range(tokenizer.vocab_size) if tokenizer.token_bytes(token_id) == b"\x80")


def _token_ids(streams: int, steps: int) -> list[list[int]]:
    """(streams, steps): every stream tells the beginning of another conversation in several languages.

    None ends inside a character: `DecodeStream` would keep what it has of that step to itself.
    """
    from ecocore import Tokenizer

    tokenizer = Tokenizer.from_file(workloads.model_path())
    messages = workloads.chat_messages(3 * streams)
    cuts = (tokenizer.encode(first + second)[:steps] for first, second in pairwise(messages))
    whole = (cut for cut in cuts if not tokenizer.decode(cut).endswith("\N{REPLACEMENT CHARACTER}"))
    return list(islice(whole, streams))


def _ecocore(ids: list[list[int]]) -> Callable[[], list[str]]:
    import numpy as np

    from ecocore import TextStream, Tokenizer

    tokenizer = Tokenizer.from_file(workloads.model_path())
    steps = list(np.array(ids, dtype=np.uint32).T.copy())

    def run() -> list[str]:
        texts = TextStream(tokenizer)
        handles = np.array([texts.open(STOPS) for _ in ids])
        pieces = [texts.push(handles, step)[0] for step in steps]
        ends = [texts.finish(handle) for handle in handles.tolist()]
        return ["".join(column) for column in zip(*pieces, ends, strict=True)]

    return run


def _decode_streams(ids: list[list[int]], ours: Callable[[], list[str]]) -> Peer | Absent:
    if not workloads.has("tokenizers", "gguf"):
        return Absent(PEER_WITH_STOPS)
    tokenizer = _reference()
    steps = [list(step) for step in zip(*ids, strict=True)]

    def run() -> list[str]:
        streams = [_FindStream(tokenizer) for _ in ids]
        pieces = [[stream.push(token_id) for stream, token_id in zip(streams, step, strict=True)] for step in steps]
        ends = [stream.finish() for stream in streams]
        return ["".join(column) for column in zip(*pieces, ends, strict=True)]

    return Peer(PEER_WITH_STOPS, run, same(ours, run))


def _one_decode_stream_each(ids: list[list[int]], ours: Callable[[], list[str]]) -> Peer | Absent:
    """Without stop strings, which is less work; since none occurs, the text is the same."""
    if not workloads.has("tokenizers", "gguf"):
        return Absent(PEER)
    from tokenizers.decoders import DecodeStream

    tokenizer = _reference()
    steps = [list(step) for step in zip(*ids, strict=True)]

    def run() -> list[str]:
        streams = [DecodeStream(skip_special_tokens=True) for _ in ids]
        pieces = [[stream.step(tokenizer, token_id) for stream, token_id in zip(streams, step, strict=True)] for step in steps]
        return ["".join(filter(None, column)) for column in zip(*pieces, strict=True)]

    return Peer(PEER, run, same(ours, run))


@dataclass(slots=True)
class _FindStream:
    """One stream of the peer."""

    tokenizer: Any
    text: str = ""
    sent: int = 0
    decoder: Any = field(init=False)

    def __post_init__(self) -> None:
        from tokenizers.decoders import DecodeStream

        self.decoder = DecodeStream(skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        new = self.decoder.step(self.tokenizer, token_id)
        if new is None:
            return ""
        self.text += new
        for stop in STOPS:
            # A match must end in the new characters.
            found = self.text.find(stop, max(0, len(self.text) - len(new) - len(stop) + 1))
            if found >= 0:
                self.text = self.text[:found]
                return self.finish()
        return self._send(len(self.text) - HELD)

    def finish(self) -> str:
        return self._send(len(self.text))

    def _send(self, end: int) -> str:
        if end <= self.sent:
            return ""
        piece = self.text[self.sent : end]
        self.sent = end
        return piece


BENCH = Bench("text-stream", threads=1, cases=cases)
