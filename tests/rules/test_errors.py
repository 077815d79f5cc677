"""Rules 34 and 36 to 38: what a client may get wrong, in which order it is judged, and what every answer says."""

import itertools
import json
import re
from typing import Any

import httpx
import openai
import pytest
from tests.live_server import MODEL
from tests.rules.conftest import Api, envelope

from ecocore.accounts.keys import new_key

HELLO: list[dict[str, str]] = [{"role": "user", "content": "hello"}]
BODY: dict[str, Any] = {"model": MODEL, "messages": HELLO, "max_tokens": 2}

# --- 34: a client's mistake is a 4xx with the envelope --------------------------------------------------

MISTAKES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"7",
    "not UTF-8": b'{"model": "\xff"}',
    "NaN": b'{"model": "m", "messages": [], "temperature": NaN}',
    "infinity": b'{"model": "m", "messages": [], "temperature": 1e999}',
    "deep": b'{"model":' + b"[" * 100 + b"]" * 100 + b"}",
    "a name twice": b'{"model": "m", "model": "m"}',
    "a long number": b'{"model": "m", "max_tokens": ' + b"9" * 5000 + b"}",
    "a lone surrogate": json.dumps({**BODY, "messages": [{"role": "user", "content": "\ud800"}]}).encode(),
    "no model": json.dumps({"messages": HELLO}).encode(),
    "no messages": json.dumps({"model": MODEL}).encode(),
    "no role": json.dumps({**BODY, "messages": [{"content": "x"}]}).encode(),
    "an unknown role": json.dumps({**BODY, "messages": [{"role": "robot", "content": "x"}]}).encode(),
    "messages as a string": json.dumps({**BODY, "messages": "hello"}).encode(),
    "a message that is none": json.dumps({**BODY, "messages": [7]}).encode(),
}


@pytest.mark.parametrize("body", MISTAKES.values(), ids=MISTAKES.keys())
def test_rule_34_a_wrong_body_is_a_400_in_json(api: Api, body: bytes) -> None:
    with api.live.http() as http:
        response = http.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert envelope(response)["type"] == "invalid_request_error"
    for word in ("Traceback", "<html", "pydantic", ".py", "/"):
        assert word not in response.text.replace("/v1", "").replace("HTTP/1.1", "")


WRONG: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "x", [], ["x"], {}, {"x": 1}, [None], [[]], "\x00")
FIELDS = (
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "n",
    "stream",
    "stream_options",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "modalities",
    "audio",
    "prediction",
    "store",
    "metadata",
    "user",
    "functions",
    "function_call",
    "min_tokens",
    "ignore_eos",
    "stop_token_ids",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
)


@pytest.mark.parametrize("field", FIELDS)
def test_rule_34_no_value_of_any_field_is_a_server_error(api: Api, field: str) -> None:
    """Taken, or refused with the field's own name: never 422, never 5xx, never HTML."""
    with api.live.http() as http:
        for value in WRONG:
            response = http.post("/v1/chat/completions", json={**BODY, field: value})
            assert response.status_code in (200, 400, 404), (value, response.text)
            if response.status_code != 200:
                error = envelope(response)
                blamed = {field, "stream"} if field == "stream_options" else {field}
                assert error["param"] in blamed or (field == "tool_choice" and error["param"] == "tools"), (value, error)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nowhere", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/chat/completions/", 404)],
)
def test_rule_34_a_wrong_url_has_the_envelope(api: Api, method: str, path: str, status: int) -> None:
    with api.live.http() as http:
        response = http.request(method, path)
    error = envelope(response)
    assert (response.status_code, error["type"], error["param"], error["code"]) == (status, "invalid_request_error", None, None)


# --- 36: the order of judgement -------------------------------------------------------------------------

# Each step's fault, as changes to a request that is otherwise right, and what it gets.
FAULTS: dict[str, tuple[dict[str, Any], int]] = {
    "path": ({"path": "/v1/nowhere"}, 404),
    "method": ({"method": "DELETE"}, 405),
    "key": ({"key": new_key()}, 401),
    "size": ({"padding": 17 * 2**20}, 413),
    "JSON": ({"broken": True}, 400),
    "type": ({"temperature": "hot"}, 400),
    "model": ({"model": "nobody"}, 404),
    "context": ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 400),
}


ONE_STEP = {("path", "method"), ("JSON", "type")}


@pytest.mark.parametrize(
    ("first", "second"), [pair for pair in itertools.combinations(FAULTS, 2) if pair not in ONE_STEP], ids=str
)
def test_rule_36_the_earlier_fault_is_told(api: Api, first: str, second: str) -> None:
    fault, status = FAULTS[first]
    alone = sent(api, **fault)
    both = sent(api, **{**FAULTS[second][0], **fault})
    assert alone.status_code == both.status_code == status
    assert envelope(alone) == envelope(both)


def sent(api: Api, **fault: Any) -> httpx.Response:
    body = json.dumps({**BODY, **{name: fault[name] for name in fault.keys() & {"temperature", "model", "messages"}}}).encode()
    if fault.get("broken"):
        body = b"{" + body
    with api.live.http() as http:
        return http.request(
            fault.get("method", "POST"),
            fault.get("path", "/v1/chat/completions"),
            content=body + b" " * fault.get("padding", 0),
            headers={"authorization": f"Bearer {fault.get('key', api.live.key)}"},
        )


def test_rule_36_without_a_key_the_code_is_null(api: Api) -> None:
    response = httpx.post(f"{api.live.url}/v1/chat/completions", json=BODY)
    error = envelope(response)
    assert (response.status_code, error["type"], error["param"], error["code"]) == (401, "invalid_request_error", None, None)
    with pytest.raises(openai.AuthenticationError) as raised:
        api.client.with_options(api_key="eco_wrong").models.list()
    assert raised.value.code == "invalid_api_key"


# --- 37: what every answer says -------------------------------------------------------------------------

BOOKKEEPING: dict[str, Any] = {
    "store": True,
    "metadata": {"a": "b"},
    "user": "somebody",
    "safety_identifier": "x",
    "prompt_cache_key": "y",
    "service_tier": "auto",
}
HINTS: dict[str, Any] = {
    "verbosity": "low",
    "reasoning_effort": "low",
    "prediction": {"type": "content", "content": "hello"},
}


def test_rule_37_the_fields_of_an_answer(api: Api) -> None:
    answer = api.post(max_tokens=3).json()
    assert list(answer) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert re.fullmatch(r"chatcmpl-\w{16,}", answer["id"])
    assert (answer["object"], answer["model"]) == ("chat.completion", MODEL)
    assert isinstance(answer["created"], int)
    assert answer["system_fingerprint"] == api.live.runtime.fingerprint == api.post(max_tokens=1).json()["system_fingerprint"]
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": api.text(max_tokens=3), "refusal": None},
        "logprobs": None,
        "finish_reason": "length",
    }
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert set(usage["prompt_tokens_details"]) >= {"cached_tokens"}
    assert set(usage["completion_tokens_details"]) >= {"reasoning_tokens"}


def test_rule_37_null_is_absent(api: Api) -> None:
    nothing = dict.fromkeys([name for name in FIELDS if name not in ("model", "messages", "temperature")])
    assert api.text(max_completion_tokens=5) == api.text(**{**nothing, "max_completion_tokens": 5})


@pytest.mark.parametrize("fields", [BOOKKEEPING, HINTS, {"never_heard_of": [1, {"a": None}]}], ids=["books", "hints", "unknown"])
def test_rule_37_bookkeeping_hints_and_unknown_fields_change_nothing(api: Api, fields: dict[str, Any]) -> None:
    plain = api.chat(max_tokens=10)
    with_them = api.chat(max_tokens=10, **fields)
    assert with_them.choices == plain.choices


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("web_search_options", {}),
        ("functions", [{"name": "f", "parameters": {}}]),
    ],
)
def test_rule_37_what_would_change_the_answer_and_cannot_be_done_is_refused_by_name(api: Api, field: str, value: Any) -> None:
    assert api.refusal(**{field: value})["param"] == field


# --- 38: stricter than OpenAI on purpose ----------------------------------------------------------------


def test_rule_38_every_answer_has_a_request_id_and_its_time(api: Api) -> None:
    ids = set()
    with api.live.http() as http:
        for body in (BODY, {**BODY, "stream": True}, {**BODY, "temperature": 9}):
            response = http.post("/v1/chat/completions", json=body)
            ids.add(response.headers["x-request-id"])
            assert int(response.headers["openai-processing-ms"]) >= 0
        ids.add(http.get("/nowhere").headers["x-request-id"])
        own = http.post("/v1/chat/completions", json=BODY, headers={"x-request-id": "mine-7"})
        odd = http.post("/v1/chat/completions", json=BODY, headers={"x-request-id": "x" * 500})
    assert len(ids) == 4
    assert own.headers["x-request-id"] == "mine-7"
    assert len(odd.headers["x-request-id"]) < 100


def test_rule_38_greedy_texts_and_logprobs_do_not_move(api: Api) -> None:
    """The other kept promises have rules of their own: 5, 21 and 33."""
    first = api.chat(max_tokens=30, logprobs=True, top_logprobs=2)
    assert all(api.chat(max_tokens=30, logprobs=True, top_logprobs=2).choices == first.choices for _ in range(3))
