"""Bodies of requests to another process: takes the fields of a request, gives JSON as bytes, and holds nobody else up."""

import asyncio
import io
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from ecocore.request import ChatRequest

# Spelling so much takes less time than handing it to a thread, and it goes out in one piece with its head.
SHORT_MESSAGES: Final = 32
SHORT_CHARACTERS: Final = 16 * 1024
SHORT_BYTES: Final = 64 * 1024

Fields = Callable[[], Mapping[str, Any]]


def is_short(request: ChatRequest) -> bool:
    """Whether a chat is spelled so quickly that nobody notices."""
    if request.tools or request.response_format is not None or len(request.messages) > SHORT_MESSAGES:
        return False
    contents = [message.content for message in request.messages if not message.tool_calls]
    texts = [content for content in contents if isinstance(content, str)]
    return len(texts) == len(request.messages) and sum(map(len, texts)) <= SHORT_CHARACTERS


async def spelled(fields: Fields, *, short: bool) -> bytes:
    """The JSON of `fields`, which is called on a thread unless it is short."""
    return _spelled(fields) if short else await asyncio.to_thread(_spelled, fields)


def in_pieces(body: bytes | None) -> bytes | io.BytesIO | None:
    """What aiohttp sends of a body: a long one as a file, between whose pieces others have their turn."""
    return body if body is None or len(body) <= SHORT_BYTES else io.BytesIO(body)


def _spelled(fields: Fields) -> bytes:
    return json.dumps(fields(), ensure_ascii=False).encode()
