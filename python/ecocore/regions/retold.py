"""A request as another server is told it: takes a checked request, gives the JSON fields of its endpoint.

What was sent is sent on; what has no effect here has none there; and what the other server may not know is left out unless
it is known to know it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ecocore.regions.card import Dialect
from ecocore.regions.region import Owner
from ecocore.request import ChatRequest
from ecocore.request.json_object import json_bytes

# Accepted here without effect: elsewhere they might cause something, such as the keeping of what was said.
_WITHOUT_EFFECT: Final = (
    "modalities",
    "verbosity",
    "prediction",
    "store",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "service_tier",
    "moderation",
)
_OF_CHATS: Final = (
    "messages",
    "logprobs",
    "top_logprobs",
    "max_completion_tokens",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
    "reasoning_effort",
)
# A server may have defaults of its own, of its model's card: these are the API's.
_STANDARD: Final[Mapping[str, float]] = {"temperature": 1.0, "top_p": 1.0}
_EXTENDED: Final[Mapping[str, float]] = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}

# What a template may add: to every prompt, to each message, and where it explains tools. Their schemas may be laid out in lines.
_TOKENS_OF_TEMPLATE: Final = 64
_TOKENS_OF_MESSAGE: Final = 16
_TOKENS_OF_TOOLS: Final = 512
_SPREAD_OF_TOOLS: Final = 3
_TOKENS_OF_IMAGE: Final = 4096
# No token of the usual vocabularies stands for more bytes.
_LONGEST_TOKEN: Final = 128


def chat(request: ChatRequest, model: str, dialect: Dialect, owner: Owner) -> dict[str, Any]:
    """The body of a POST to /v1/chat/completions."""
    fields = _shared(request, model, dialect, owner)
    fields["messages"] = [_message(message) for message in fields["messages"]]
    if form := fields.get("response_format"):
        fields["response_format"] = _without_nulls(form)
    return fields


def completion(request: ChatRequest, prompt: str | Sequence[int], model: str, dialect: Dialect, owner: Owner) -> dict[str, Any]:
    """The body of a POST to /v1/completions."""
    fields = _shared(request, model, dialect, owner)
    for name in _OF_CHATS:
        fields.pop(name, None)
    limit = {} if request.token_limit is None else {"max_tokens": request.token_limit}
    logprobs = {"logprobs": request.top_logprobs} if request.logprobs else {}
    return {**fields, "prompt": prompt if isinstance(prompt, str) else list(prompt), **limit, **logprobs}


def _shared(request: ChatRequest, model: str, dialect: Dialect, owner: Owner) -> dict[str, Any]:
    told = {name: value for name, value in request.told_again().items() if name not in _WITHOUT_EFFECT and value is not None}
    salt, priority = told.pop("cache_salt", ""), told.pop("priority", 0)
    fields = {**_STANDARD, **told, "model": model, "stream": True, "stream_options": {"include_usage": True}}
    if dialect is Dialect.PLAIN:
        return fields
    fields = {**_EXTENDED, **fields}
    # Everybody's requests come from this server there: without it, one account could learn what another asked.
    if owner.salt or salt:
        fields["cache_salt"] = hashlib.blake2b(owner.salt + b"\0" + salt.encode(), digest_size=16).hexdigest()
    if dialect is Dialect.ECOCORE and priority:
        fields["priority"] = priority
    return fields


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    told = _without_nulls(message)
    if (reasoning := told.pop("reasoning", None)) is not None:
        # By the name that most servers know.
        told["reasoning_content"] = reasoning
    if told.get("tool_calls") == ():
        del told["tool_calls"]
    return told


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def chat_tokens(request: ChatRequest) -> tuple[int, int]:
    """How many tokens the prompt of a chat has: surely no fewer, and no more unless its template is very long."""
    texts = sum(_message_bytes(message) for message in request.messages)
    tools = sum(json_bytes(tool.as_sent()) for tool in request.callable_tools)
    most = (
        texts
        + _TOKENS_OF_TEMPLATE
        + _TOKENS_OF_MESSAGE * len(request.messages)
        + _TOKENS_OF_IMAGE * len(request.images)
        + (_SPREAD_OF_TOOLS * tools + _TOKENS_OF_TOOLS if tools else 0)
    )
    return texts // _LONGEST_TOKEN + len(request.messages) + len(request.images), most


def prompt_tokens(prompt: str | Sequence[int]) -> tuple[int, int]:
    """As `chat_tokens`, of a plain prompt; the model may begin it with a token of its own."""
    if not isinstance(prompt, str):
        return len(prompt), len(prompt) + 1
    size = len(prompt.encode())
    return max(1, size // _LONGEST_TOKEN), size + 2


def _message_bytes(message: Any) -> int:
    calls = sum(len(call.name.encode()) + len(call.arguments.encode()) + len(call.id.encode()) for call in message.tool_calls)
    others = (message.name, message.tool_call_id, message.reasoning)
    return len(message.text.encode()) + calls + sum(len(text.encode()) for text in others if text)
