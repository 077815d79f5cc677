"""Events to server-sent events: `SseWriter` beside a dictionary and `json.dumps` per event.

The peer gets the events as ready Python tuples, which a server in Python would have to make first.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from benches.harness import Bench, Case, Peer, Settings

STREAMS: Final = 64
TOKENS: Final = 64
CREATED: Final = 1_700_000_000
FINGERPRINT: Final = "fp_bench"
MODEL: Final = "mock"

# An event as the peer gets it: request, kind, text, reason.
Told = tuple[int, str, str, str]


def cases(settings: Settings) -> Iterator[Case]:
    streams, tokens = (2, 4) if settings.quick else (STREAMS, TOKENS)
    batches = _mock_events(streams, tokens)
    told = [[(row.request_id, row.kind, row.text, row.reason) for row in batch.rows()] for batch in batches]
    ours, theirs = _ecocore(batches, streams), _json_dumps(told, streams)
    frames = sum(body.count(b"\n\n") for body in ours())
    peer = Peer("json.dumps per event", theirs, lambda: _values(ours()) == _values(theirs()))
    yield Case(f"{streams} streams of {tokens} tokens", "frame", frames, ours, (peer,), rate=(1, "frames/s"))


def _mock_events(streams: int, tokens: int) -> list[Any]:
    """The engine's own event batches, one per step of the mock model."""
    import numpy as np

    from ecocore._core import OutputStreams, Scheduler, Tokenizer
    from ecocore.model.mock import MockModel
    from ecocore.request import SamplingParams
    from ecocore.sampling.sampler import BatchSampler

    tokenizer = Tokenizer.bytes_only()
    scheduler = Scheduler(num_blocks=streams * 8, max_sequences=streams, max_waiting=streams)
    model = MockModel(tokenizer.vocab_size, max_sequences=streams)
    sampler, outputs = BatchSampler(tokenizer.vocab_size), OutputStreams(tokenizer)
    for number in range(streams):
        prompt = np.frombuffer(f"user: tell me story {number}\nassistant: ".encode(), np.uint8).astype(np.uint32)
        outputs.open(number, request_id=number, choice=0, prompt_tokens=len(prompt), max_tokens=tokens)
        sampler.open(number, SamplingParams(), number, 0, prompt)
        scheduler.submit(number, prompt, tokens)
    batches = []
    while (batch := scheduler.schedule()) is not None:
        logits = model.forward(batch)
        drawn = sampler.sample(logits, sampler.prepare(batch))
        events = outputs.push(batch, drawn, scheduler)
        scheduler.commit(batch, drawn, events)
        batches.append(events)
    return batches


def _ecocore(batches: list[Any], streams: int) -> Callable[[], list[bytes]]:
    from ecocore._core import SseWriter

    def run() -> list[bytes]:
        """Each connection takes its bytes after every step, as when no client is slow."""
        writer = SseWriter()
        bodies = [bytearray() for _ in range(streams)]
        for number in range(streams):
            writer.open(
                number,
                completion_id=f"chatcmpl-{number}",
                created=CREATED,
                model=MODEL,
                system_fingerprint=FINGERPRINT,
                stream=True,
            )
        for batch in batches:
            for number in writer.push(batch):
                bodies[number] += writer.take(number)
        return [bytes(body) for body in bodies]

    return run


def _json_dumps(told: list[list[Told]], streams: int) -> Callable[[], list[bytes]]:
    def run() -> list[bytes]:
        bodies = [bytearray() for _ in range(streams)]
        for step in told:
            for number, kind, text, reason in step:
                body = bodies[number]
                if not body:
                    body += _frame(number, {"role": "assistant", "content": ""}, None)
                if kind == "text":
                    body += _frame(number, {"content": text}, None)
                else:
                    body += _frame(number, {}, reason)
                    body += b"data: [DONE]\n\n"
        return [bytes(body) for body in bodies]

    return run


def _frame(number: int, delta: dict[str, str], reason: str | None) -> bytes:
    chunk = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "system_fingerprint": FINGERPRINT,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}],
    }
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _values(bodies: list[bytes]) -> list[list[Any]]:
    """What a client reads."""
    frames = [[frame.removeprefix(b"data: ") for frame in body.split(b"\n\n")] for body in bodies]
    return [[json.loads(frame) if frame.startswith(b"{") else frame for frame in body] for body in frames]


BENCH = Bench("frontend", threads=1, cases=cases)
