"""Chat completions over a real socket: the openai client, httpx, and what the API's rules say."""

import json
from typing import Any

import httpx
import openai
import pytest

from ecocore.accounts.database import Database
from ecocore.accounts.keys import KeyStore, new_key

MODEL = "some-maker/some-model"
HELLO: Any = [{"role": "user", "content": "hello"}]


def envelope(response: httpx.Response) -> dict[str, Any]:
    """The error, whose form is checked."""
    told = response.json()
    assert told.keys() == {"error"}
    error: dict[str, Any] = told["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert len(response.content) <= 4000
    assert response.headers["x-request-id"]
    return error


def test_the_openai_client_gets_an_answer(live: Any) -> None:
    with live.client() as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=20, temperature=0)
    assert (answer.model, answer.object, answer.system_fingerprint) == (MODEL, "chat.completion", live.runtime.fingerprint)
    assert answer.id.startswith("chatcmpl-")
    (choice,) = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.refusal is None
    assert choice.finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 20


def test_a_stream_is_the_plain_answer_in_pieces(live: Any) -> None:
    with live.client() as client:
        whole = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=200, seed=7)
        chunks = list(
            client.chat.completions.create(
                model=MODEL,
                messages=HELLO,
                max_tokens=200,
                seed=7,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
    *told, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in told) == whole.choices[0].message.content
    assert told[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in told if chunk.choices[0].finish_reason] == ["length"]
    assert usage.choices == []
    assert usage.usage is not None
    assert whole.usage is not None
    assert usage.usage.completion_tokens == whole.usage.completion_tokens
    assert len({(chunk.id, chunk.created, chunk.model, chunk.system_fingerprint) for chunk in chunks}) == 1


def test_a_stream_is_told_as_one_and_ends_as_one(live: Any) -> None:
    response = live.chat(stream=True, max_tokens=3)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["x-request-id"]
    assert int(response.headers["openai-processing-ms"]) >= 0
    *events, done, nothing = response.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    assert all(json.loads(event.removeprefix("data: "))["choices"] for event in events)


def test_a_connection_is_kept_for_the_next_request(live: Any) -> None:
    with live.http(limits=httpx.Limits(max_connections=1)) as http:
        for stream in (False, True, False):
            body = {"model": MODEL, "messages": HELLO, "temperature": 0, "max_tokens": 2, "stream": stream}
            response = http.post("/v1/chat/completions", json=body)
            assert response.status_code == 200
            assert "connection" not in response.headers


def test_the_models_are_listed_and_found(live: Any) -> None:
    with live.client() as client:
        (listed,) = client.models.list().data
        assert listed.id == MODEL
        assert client.models.retrieve(MODEL) == listed
    with live.http() as http:
        for spelled in ("some-maker/some-model", "some-maker%2Fsome-model"):
            told = http.get(f"/v1/models/{spelled}").json()
            assert told == {
                "id": MODEL,
                "object": "model",
                "created": listed.created,
                "owned_by": "ecocore",
                "context_length": live.runtime.context_length,
                "abilities": ["text", "json", "tools", "images"],
                "price": None,
            }
        assert envelope(http.get("/v1/models/nobody"))["code"] == "model_not_found"


def test_health_and_ready_are_open(live: Any) -> None:
    assert httpx.get(f"{live.url}/health").json() == {"status": "alive"}
    assert httpx.get(f"{live.url}/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({}, None),
        ({"authorization": "Bearer nonsense"}, "invalid_api_key"),
        ({"authorization": f"Bearer {new_key()}"}, "invalid_api_key"),
        ({"authorization": "Basic abc"}, "invalid_api_key"),
    ],
)
def test_without_a_valid_key_there_is_no_answer(live: Any, header: dict[str, str], code: str | None) -> None:
    response = httpx.post(f"{live.url}/v1/chat/completions", headers=header, json={"model": MODEL, "messages": HELLO})
    assert response.status_code == 401
    assert envelope(response)["code"] == code


def test_the_openai_client_knows_our_errors(live: Any) -> None:
    with live.client() as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="nobody/nothing", messages=HELLO)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=MODEL, messages=HELLO, temperature=3)
        assert (refused.value.param, refused.value.code) == ("temperature", "decimal_above_max_value")
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="eco_wrong").models.list()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"messages": []}, "messages", "empty_array"),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, "messages", "context_length_exceeded"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_tokens": "3"}, "max_tokens", "invalid_type"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"n": 9}, "n", "integer_above_max_value"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", None),
    ],
)
def test_a_wrong_field_is_named(live: Any, fields: dict[str, Any], param: str, code: str | None) -> None:
    response = live.chat(**fields)
    assert response.status_code == 400
    error = envelope(response)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert code is None or error["code"] == code


def test_a_missing_field_is_named(live: Any) -> None:
    with live.http() as http:
        response = http.post("/v1/chat/completions", json={"messages": HELLO})
    assert response.status_code == 400
    error = envelope(response)
    assert (error["param"], error["code"]) == ("model", "missing_required_parameter")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model": NaN}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(live: Any, body: bytes) -> None:
    with live.http() as http:
        response = http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert envelope(response)["type"] == "invalid_request_error"


def test_an_error_quotes_little_of_what_was_sent(live: Any) -> None:
    response = live.chat(model="m" * 100_000)
    assert response.status_code == 404
    assert len(envelope(response)["message"]) < 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/static/nothing.css", 404),
        ("GET", "/static/..%2Fapp.py", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/models/", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
        ("BREW", "/health", 405),
        ("GET", "/" + "a" * 9000, 414),
    ],
)
def test_routing_errors_carry_the_envelope(live: Any, method: str, path: str, status: int) -> None:
    with live.http() as http:
        response = http.request(method, path)
    assert response.status_code == status
    assert (envelope(response)["type"], envelope(response)["code"]) == ("invalid_request_error", None)
    assert ("allow" in response.headers) == (status == 405)


def test_a_body_too_large_is_told_though_it_is_still_being_sent(live: Any) -> None:
    with live.http() as http:
        declared = http.post("/v1/chat/completions", content=b"x" * (20 * 2**20))
        counted = http.post("/v1/chat/completions", content=(b"x" * 2**16 for _ in range(320)))
    for response in (declared, counted):
        assert response.status_code == 413
        envelope(response)


def test_the_key_is_judged_before_the_body(live: Any) -> None:
    response = httpx.post(f"{live.url}/v1/chat/completions", content=b"x" * (8 * 2**20))
    assert response.status_code == 401


def test_a_compressed_body_is_refused(live: Any) -> None:
    with live.http() as http:
        response = http.post("/v1/chat/completions", content=b"x", headers={"content-encoding": "gzip"})
    assert response.status_code == 415
    envelope(response)


def test_too_many_headers_are_refused(live: Any) -> None:
    many = {f"x-{number}": "1" for number in range(101)}
    large = {"x": "1" * 40_000}
    with live.http() as http:
        for headers in (many, large):
            response = http.get("/health", headers=headers)
            assert response.status_code == 431
            envelope(response)


async def test_a_key_made_while_serving_works_at_once(live: Any) -> None:
    database = await Database.open(live.database_url)
    key = await KeyStore(database).create("made while serving")
    await database.close()
    async with httpx.AsyncClient(base_url=live.url, headers={"authorization": f"Bearer {key}"}) as http:
        assert (await http.get("/v1/models")).status_code == 200


def test_a_long_conversation_is_parsed_beside_the_event_loop(live: Any) -> None:
    turns = [{"role": role, "content": "x"} for _ in range(300) for role in ("user", "assistant")]
    response = live.chat(messages=turns, max_tokens=1)
    assert response.status_code == 200
