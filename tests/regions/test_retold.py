"""A request as other servers are told it: an ecocore reads an equal one, a strict server finds no field unknown to it."""

import json
from typing import Any

import pytest
from tests.request.test_told_again import SENT

from ecocore.regions.card import Dialect
from ecocore.regions.region import Owner
from ecocore.regions.retold import chat, chat_tokens, completion, prompt_tokens
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime
from ecocore.server.completions import CompletionRequest

HELLO = [{"role": "user", "content": "hi"}]
# Fields of the API's own reference that this version takes.
STANDARD = {
    "model", "messages", "n", "stream", "stream_options", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p",
    "frequency_penalty", "presence_penalty", "logit_bias", "seed", "logprobs", "top_logprobs", "tools", "tool_choice",
    "parallel_tool_calls", "response_format", "reasoning_effort",
}  # fmt: skip
BOOKS = {"store": True, "metadata": {"a": "b"}, "user": "me", "service_tier": "flex", "prediction": {"type": "content"}}


def parsed(fields: dict[str, Any]) -> ChatRequest:
    return ChatRequest.parse({"model": "m", "messages": HELLO, **fields})


def told(fields: dict[str, Any], dialect: Dialect = Dialect.PLAIN, owner: Owner | None = None) -> dict[str, Any]:
    return chat(parsed(fields), "there", dialect, owner or Owner())


@pytest.mark.parametrize("name", SENT)
def test_another_ecocore_reads_the_same_request(name: str) -> None:
    request = parsed(SENT[name])
    again = ChatRequest.parse(chat(request, "m", Dialect.ECOCORE, Owner()))
    assert again.stream
    assert again.sampling() == request.sampling()
    for field in ("messages", "tools", "tool_choice", "response_format", "chat_template_kwargs", "priority", "token_limit", "n"):
        assert getattr(again, field) == getattr(request, field)


def test_a_server_that_is_not_known_is_told_standard_fields_and_what_the_client_sent() -> None:
    assert told({}) == {
        "model": "there",
        "messages": HELLO,
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.0,
        "top_p": 1.0,
    }
    for name, sent in SENT.items():
        fields = told({**sent, **BOOKS, "cache_salt": "x", "priority": 3}, owner=Owner(b"account 1"))
        assert fields.keys() - sent.keys() <= STANDARD, name
        assert not fields.keys() & BOOKS.keys()


def test_nothing_is_null_where_it_was_not_sent() -> None:
    fields = told(SENT["messages"])
    assert all(value is not None for message in fields["messages"] for value in message.values())
    assert [message["reasoning_content"] for message in fields["messages"] if "reasoning_content" in message] == ["hm"]
    assert all(value is not None for value in told(SENT["schema"])["response_format"].values())


def test_a_server_with_defaults_of_its_models_card_is_told_those_of_the_api() -> None:
    assert told({}, Dialect.VLLM).items() >= {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}.items()
    assert told({"top_k": 5, "temperature": 0}, Dialect.VLLM).items() >= {"temperature": 0, "top_k": 5}.items()


def test_accounts_share_no_cache_where_all_requests_come_from_one_key() -> None:
    salts = [
        told(fields, Dialect.VLLM, Owner(salt))["cache_salt"]
        for salt, fields in [(b"1", {}), (b"2", {}), (b"1", {"cache_salt": "x"}), (b"2", {"cache_salt": "x"})]
    ]
    assert len(set(salts)) == 4
    assert salts[0] == told({}, Dialect.ECOCORE, Owner(b"1"))["cache_salt"]
    assert "priority" not in told({"priority": 3}, Dialect.VLLM)
    assert told({"priority": 3}, Dialect.ECOCORE)["priority"] == 3


@pytest.mark.parametrize("prompt", ["abc", [1, 2]])
def test_a_completion_is_told_in_its_endpoints_words(prompt: str | list[int]) -> None:
    sent = {"model": "m", "prompt": prompt, "max_tokens": 5, "logprobs": 3, "n": 2, "stop": ["x"], "user": "me"}
    request = CompletionRequest.parse(sent).request
    fields = json.loads(json.dumps(completion(request, prompt, "there", Dialect.PLAIN, Owner())))
    assert fields == {
        "model": "there",
        "prompt": prompt,
        "max_tokens": 5,
        "logprobs": 3,
        "n": 2,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 1.0,
        "top_p": 1.0,
    }
    again = CompletionRequest.parse(completion(request, prompt, "m", Dialect.ECOCORE, Owner(b"1")))
    assert again.request.sampling() == request.sampling()


SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "enum": ["a", "b"]}, "day": {"type": "integer"}}}
TOOLS = [{"type": "function", "function": {"name": f"f{number}", "parameters": SCHEMA}} for number in range(3)]
CALL = {"id": "c1", "type": "function", "function": {"name": "f0", "arguments": '{"city": "a"}'}}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": [{"role": "system", "content": "be \u20ac"}, {"role": "user", "content": "hi " * 2000}]},
        {"tools": TOOLS},
        {
            "tools": TOOLS,
            "messages": [
                *HELLO,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "b"},
            ],
        },
    ],
)
def test_the_bounds_of_a_prompt_hold_what_a_tokenizer_of_bytes_counts(mock: Runtime, fields: dict[str, Any]) -> None:
    request = parsed(fields)
    least, most = chat_tokens(request)
    assert 1 <= least <= len(mock.prepare(request).token_ids) <= most


@pytest.mark.weights
def test_the_bounds_of_a_prompt_hold_what_a_real_tokenizer_counts(smollm2: Runtime) -> None:
    for text in ("hello there", " " * 3000, "\U0001f600" * 300, "a" * 3000):
        request = parsed({"messages": [{"role": "user", "content": text}]})
        least, most = chat_tokens(request)
        assert 1 <= least <= len(smollm2.prepare(request).token_ids) <= most


def test_the_bounds_of_a_plain_prompt() -> None:
    assert prompt_tokens([1, 2, 3]) == (3, 4)
    assert prompt_tokens("\u20ac" * 1000) == (23, 3002)
    assert prompt_tokens("") == (1, 2)
