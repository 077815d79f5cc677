"""Getting to know a server: its model, what it refuses, what a prompt costs."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.bench.fake_server import DONE, END, STREAM_HEAD, Asked, chunk, event, fake, plain, whole

from ecocore.bench.endpoint import Endpoint
from ecocore.bench.load import Client
from ecocore.bench.probe import LONG_WORDS, PROBE_TOKENS, NotMeasurable, Target, probe

Script = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


async def probed(answer: Script, model: str | None = None) -> tuple[Target, list[Asked]]:
    async with fake(answer) as server:
        with Client(Endpoint.parse(server.url), timeout=5) as client:
            return await probe(client, model, seed=1), server.asked


def refusing(*names: str, by_name: bool = True, status: int = 400) -> Script:
    """Refuses fields, one at a time; with or without naming the one at fault."""

    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        wrong = [name for name in names if name in (asked.body or {})]
        if not wrong:
            fields: dict[str, Any] = asked.body or {}
            limit = {"max_tokens": fields.get("max_tokens", fields.get("max_completion_tokens", 1))}
            await whole(Asked(asked.method, asked.path, asked.headers, {**fields, **limit}), writer)
        else:
            words = f"Unrecognized request argument supplied: {wrong[0]}" if by_name else "bad request"
            writer.write(
                plain(status, {"error": {"message": words, "type": "invalid_request_error", "param": None, "code": None}})
            )

    return answer


async def test_a_server_that_takes_everything_is_asked_for_everything() -> None:
    target, asked = await probed(whole)
    assert [one.path for one in asked] == ["/v1/models", "/v1/chat/completions", "/v1/chat/completions"]
    assert target.model == "fake-model"
    assert target.fingerprint == "fp_fake"
    assert target.fields.of(40) == {
        "max_tokens": 40,
        "min_tokens": 40,
        "ignore_eos": True,
        "temperature": 0,
        "stream_options": {"include_usage": True},
    }
    # The fake server counts a token for each word and five for the form.
    assert (target.counts, target.tokens_of_a_word, target.form_tokens) == (True, 1.0, 5.0)
    assert target.words_for(128) == 123
    assert target.words_for(1) == 1


async def test_the_two_chats_tell_what_words_and_tokens_take() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path.endswith("/completions"):
            # As slow as its prompt is long. The clock is the test's subject: it cannot be waited for otherwise.
            await asyncio.sleep(0.001 * len(asked.body["messages"][0]["content"].split()))
        await whole(asked, writer)

    begun = time.perf_counter()
    target, _ = await probed(answer)
    took = time.perf_counter() - begun
    # However late this machine is, a sleep is never short, and the two chats took no longer than all.
    assert 0 < target.seconds_of_a_word * LONG_WORDS + target.seconds_of_a_token * PROBE_TOKENS <= took
    assert target.seconds_of_a_word * LONG_WORDS + target.seconds_of_a_token * PROBE_TOKENS >= 0.001 * LONG_WORDS


async def test_a_model_that_is_named_is_not_asked_for() -> None:
    target, asked = await probed(whole, "that-one")
    assert [one.body["model"] for one in asked] == ["that-one", "that-one"]
    assert target.model == "that-one"


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize(
    "names",
    [("ignore_eos",), ("min_tokens",), ("stream_options",), ("temperature",), ("ignore_eos", "stream_options", "temperature")],
)
async def test_what_is_refused_by_name_is_left_out(names: tuple[str, ...], status: int) -> None:
    target, asked = await probed(refusing(*names, status=status))
    assert target.fields.dropped == set(names)
    assert not set(names) & set(target.fields.of(8))
    # It was found out once: the longer prompt was asked without.
    assert not set(names) & set(asked[-1].body)
    assert len(asked[-1].body["messages"][0]["content"].split()) == LONG_WORDS


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("ignore_eos", {"ignore_eos", "min_tokens"}),
        ("stream_options", {"ignore_eos", "min_tokens", "stream_options"}),
        ("temperature", {"ignore_eos", "min_tokens", "stream_options", "temperature"}),
    ],
)
async def test_what_is_refused_without_a_name_is_found_by_leaving_out(name: str, dropped: set[str]) -> None:
    target, _ = await probed(refusing(name, by_name=False))
    assert target.fields.dropped == dropped


async def test_max_completion_tokens_is_sent_where_it_is_asked_for() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.body and "max_tokens" in asked.body:
            words = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            writer.write(plain(400, {"error": {"message": words, "param": "max_tokens", "code": "unsupported_parameter"}}))
        else:
            await refusing()(asked, writer)

    target, _ = await probed(answer)
    assert target.fields.of(9)["max_completion_tokens"] == 9
    assert "max_tokens" not in target.fields.of(9)


async def test_without_usage_the_cost_of_a_prompt_is_guessed_and_said() -> None:
    async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if asked.path.endswith("/models"):
            await whole(asked, writer)
        else:
            writer.write(STREAM_HEAD + chunk(event("a")) + chunk(DONE) + END)

    target, _ = await probed(answer)
    assert not target.counts
    assert 90 < target.words_for(128) < 128


async def answer_plainly(asked: Asked, writer: asyncio.StreamWriter) -> None:
    writer.write(plain(200, {"data": [{"id": "m"}]} if asked.method == "GET" else {"choices": []}))


def always(status: int, value: Any) -> Script:
    async def answer(_asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(plain(status, value))

    return answer


@pytest.mark.parametrize(
    ("script", "model", "words"),
    [
        (
            always(401, {"error": {"message": "no key", "code": "invalid_api_key"}}),
            None,
            r"/v1/models answers 401: no key; give a key with --key",
        ),
        (
            always(401, {"error": {"message": "no key"}}),
            "m",
            r"a short chat with 401: no key; give a key with --key or ECOCORE_API_KEY",
        ),
        (
            always(404, {"error": {"message": "there is no such model", "param": "model", "code": "model_not_found"}}),
            "m",
            r"a short chat with 404: there is no such model; check the URL, and the model's name with --model$",
        ),
        (always(404, {"detail": "Not Found"}), None, r"answers 404: Not Found; check the URL"),
        (always(200, {"data": []}), None, "names no model; name it with --model"),
        (always(200, "what"), None, "names no model"),
        (always(503, {"error": {"message": "busy"}}), "m", r"a short chat with 503: busy$"),
        (always(400, {"error": {"message": "never"}}), "m", r"a short chat with 400: never$"),
        (answer_plainly, None, "with a fault: malformed: the answer is application/json"),
    ],
)
async def test_a_server_that_cannot_be_measured_is_told_so(script: Script, model: str | None, words: str) -> None:
    with pytest.raises(NotMeasurable, match=words):
        await probed(script, model)


async def test_a_server_that_is_not_there_is_told_so() -> None:
    async with fake(whole) as server:
        gone = server.url
    with (
        Client(Endpoint.parse(gone)) as client,
        pytest.raises(NotMeasurable, match="cannot be reached: Connection refused; is the"),
    ):
        await probe(client, None, 1)
