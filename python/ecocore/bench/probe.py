"""Gets to know a server before it is measured: its model, the fields it takes, how long a prompt of so many tokens is.

Takes an endpoint, gives a `Target`. A server that cannot be measured is told so here, with what to do, and not by figures.
"""

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any, Final

from ecocore.bench.answer import ChatAnswer, error_reason, error_words
from ecocore.bench.endpoint import CHAT, Endpoint
from ecocore.bench.http1 import BrokenAnswer, ConnectionCut, Head, reason_of
from ecocore.bench.load import Client, chat_body
from ecocore.bench.outcome import Outcome
from ecocore.bench.prompts import Prompts
from ecocore.errors import EcocoreError

# Two prompts tell what a word costs, and what the chat's form costs beside.
SHORT_WORDS: Final = 8
LONG_WORDS: Final = 72
PROBE_TOKENS: Final = 4
# English text in the usual vocabularies, where a server does not count for us.
TOKENS_OF_A_WORD: Final = 1.1

REFUSED: Final = (400, 422)
# What is left out, in this order, of a request that a server refuses without naming a field.
_LEAST_NEEDED: Final = (("ignore_eos", "min_tokens"), ("stream_options",), ("temperature",))

_ADVICE: Final = {
    401: "give a key with --key or ECOCORE_API_KEY",
    403: "give a key with --key or ECOCORE_API_KEY",
    404: "check the URL, and the model's name with --model",
}


class NotMeasurable(EcocoreError):
    """A server does not answer in a way that could be measured."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Which fields go along with each request; those that the server refused are left out."""

    limit: str = "max_tokens"
    dropped: frozenset[str] = frozenset()

    def of(self, max_tokens: int) -> dict[str, Any]:
        """For an answer of that length, which does not end before if the server can be told so."""
        wanted = {
            self.limit: max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "min_tokens": max_tokens,
            "stream_options": {"include_usage": True},
        }
        return {name: value for name, value in wanted.items() if name not in self.dropped}


@dataclass(frozen=True, slots=True)
class Target:
    """A server that can be measured.

    `tokens_of_a_word`, `form_tokens`: what prompts cost by its own count, or a guess where it gives none (`counts` False).
    """

    endpoint: Endpoint
    model: str
    fields: Fields = field(default_factory=Fields)
    tokens_of_a_word: float = TOKENS_OF_A_WORD
    form_tokens: float = 0.0
    counts: bool = False
    fingerprint: str | None = None
    seconds_of_a_word: float = 0.0
    seconds_of_a_token: float = 0.0
    """How long reading a word and writing a token took for one stream alone; from two short chats, so a rough guess."""

    def words_for(self, prompt_tokens: int) -> int:
        """Of how many words a prompt of so many tokens is made."""
        return max(1, round((prompt_tokens - self.form_tokens) / self.tokens_of_a_word))

    def body(self, prompt: str, max_tokens: int) -> bytes:
        """The body of a request."""
        return chat_body(self.model, prompt, **self.fields.of(max_tokens))


class _Whole:
    """Hears an answer to its end."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.body = bytearray()

    def on_head(self, head: Head, at: float) -> None:  # noqa: ARG002
        self.head = head

    def on_body(self, data: bytes, at: float) -> None:  # noqa: ARG002
        self.body += data


async def probe(client: Client, model: str | None, seed: int) -> Target:
    """Asks for the model unless it is given, and three short chats. Raises NotMeasurable."""
    model = model or await _first_model(client)
    prompts = (Prompts(seed, words).named("probe") for words in (SHORT_WORDS, LONG_WORDS))
    fields, short, short_took = await _negotiate(client, model, next(prompts), Fields())
    fields, long, long_took = await _negotiate(client, model, next(prompts), fields)
    a_word = max(0.0, long_took - short_took) / (LONG_WORDS - SHORT_WORDS)
    target = Target(
        client.endpoint,
        model,
        fields,
        fingerprint=long.fingerprint,
        seconds_of_a_word=a_word,
        seconds_of_a_token=max(0.0, long_took - a_word * LONG_WORDS) / PROBE_TOKENS,
    )
    if short.prompt_tokens is None or long.prompt_tokens is None or long.prompt_tokens <= short.prompt_tokens:
        return target
    each = (long.prompt_tokens - short.prompt_tokens) / (LONG_WORDS - SHORT_WORDS)
    form = short.prompt_tokens - each * SHORT_WORDS
    return replace(target, tokens_of_a_word=each, form_tokens=form, counts=True)


async def _first_model(client: Client) -> str:
    status, _, body = await _exchange(client, client.endpoint.request("GET", "/models"))
    if status != 200:
        raise NotMeasurable(f"{client.endpoint.url}/models answers {status}: {_advice(status, body)}")
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError):
        raise NotMeasurable(f"{client.endpoint.url}/models names no model; name it with --model") from None


async def _negotiate(client: Client, model: str, prompt: str, fields: Fields) -> tuple[Fields, Outcome, float]:
    """Asks, and leaves out what the server refuses, until it answers; tells the seconds of the answer as well."""
    while True:
        begun = time.perf_counter()
        body = chat_body(model, prompt, **fields.of(PROBE_TOKENS))
        status, head, answer = await _exchange(client, client.endpoint.request("POST", CHAT, body))
        if status == 200:
            return fields, _heard(client.endpoint, head, answer), time.perf_counter() - begun
        words = error_words(answer)
        fewer = _fewer(fields, words) if status in REFUSED else None
        if fewer is None:
            raise NotMeasurable(f"{client.endpoint.url} answers a short chat with {status}: {_advice(status, answer)}")
        fields = fewer


def _fewer(fields: Fields, words: str) -> Fields | None:
    """Without the field that the refusal names, or else without the least needed; None where nothing could be left out."""
    if fields.limit == "max_tokens" and "max_completion_tokens" in words:
        return Fields("max_completion_tokens", fields.dropped)
    sent = fields.of(1).keys() - {fields.limit}
    named = {name for name in sent if name in words}
    for group in (named, *_LEAST_NEEDED):
        if gone := sent & set(group):
            return Fields(fields.limit, fields.dropped | gone)
    return None


def _heard(endpoint: Endpoint, head: Head, body: bytes) -> Outcome:
    outcome = Outcome(0, 0.0)
    answer = ChatAnswer(outcome)
    answer.on_head(head, 0.0)
    answer.on_body(body, 0.0)
    answer.on_end()
    if outcome.failure is not None:
        raise NotMeasurable(f"{endpoint.url} answers a short streamed chat with a fault: {outcome.failure}")
    return outcome


async def _exchange(client: Client, request: bytes) -> tuple[int, Head, bytes]:
    whole = _Whole()
    url = client.endpoint.url
    try:
        await client.exchange(request, whole)
    except TimeoutError:
        raise NotMeasurable(f"{url} does not answer in time") from None
    except (ConnectionCut, BrokenAnswer) as error:
        raise NotMeasurable(f"{url} does not speak HTTP/1.1 as expected: {error}") from None
    except OSError as error:
        raise NotMeasurable(f"{url} cannot be reached: {reason_of(error)}; is the server running?") from None
    assert whole.head is not None
    return whole.head.status, whole.head, bytes(whole.body)


def _advice(status: int, body: bytes) -> str:
    told = error_reason(body)[:200] or "no reason given"
    return f"{told}; {_ADVICE[status]}" if status in _ADVICE else told
