"""Events as frames in the plain way: a dictionary and `json.dumps` for each. What ecocore's own rendering is measured beside."""

import json
from collections.abc import Sequence
from typing import Any, Final

CREATED: Final = 1_700_000_000
FINGERPRINT: Final = "fp_bench"
MODEL: Final = "mock"

# An event as the plain way gets it: request, kind, text, reason.
Told = tuple[int, str, str, str]


def first_frame(number: int, fingerprint: str = FINGERPRINT) -> bytes:
    return _frame(number, {"role": "assistant", "content": ""}, None, fingerprint)


def frames(event: Told, fingerprint: str = FINGERPRINT) -> bytes:
    number, kind, text, reason = event
    if kind == "text":
        return _frame(number, {"content": text}, None, fingerprint)
    return _frame(number, {}, reason, fingerprint) + b"data: [DONE]\n\n"


def _frame(number: int, delta: dict[str, str], reason: str | None, fingerprint: str) -> bytes:
    chunk = {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": MODEL,
        "system_fingerprint": fingerprint,
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}],
    }
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def values(bodies: Sequence[bytes]) -> list[list[Any]]:
    """What a client reads, but for the id and the time, which a server makes anew for each answer."""
    frames = [[frame.removeprefix(b"data: ") for frame in body.split(b"\n\n")] for body in bodies]
    values = [[json.loads(frame) if frame.startswith(b"{") else frame for frame in body] for body in frames]
    anew = {"id": None, "created": None}
    return [[{**value, **anew} if isinstance(value, dict) else value for value in body] for body in values]
