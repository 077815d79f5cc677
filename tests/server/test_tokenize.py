"""Token ids over HTTP: the answers are the tokenizer's own, and the errors name the client's fields."""

from typing import Any

import httpx
import pytest

MODEL = "some-maker/some-model"


def ask(live: Any, path: str, **fields: Any) -> httpx.Response:
    with live.http() as http:
        response: httpx.Response = http.post(path, json={"model": MODEL, **fields})
    return response


@pytest.mark.parametrize("text", ["", "hello", "é😀\n", "a<|end|>b", "x" * 40_000])
def test_a_text_becomes_ids_and_ids_become_the_text(live: Any, text: str) -> None:
    told = ask(live, "/tokenize", prompt=text).json()
    assert told == {"tokens": live.runtime.tokenizer.encode(text), "count": len(told["tokens"]), "max_model_len": 8192}
    assert ask(live, "/detokenize", tokens=told["tokens"]).json() == {"prompt": text}


@pytest.mark.parametrize(
    ("path", "fields", "param", "code"),
    [
        ("/tokenize", {}, "prompt", "missing_required_parameter"),
        ("/tokenize", {"prompt": None}, "prompt", "missing_required_parameter"),
        ("/tokenize", {"prompt": ["a"]}, "prompt", "invalid_type"),
        ("/tokenize", {"prompt": "a", "add_special_tokens": "no"}, "add_special_tokens", "invalid_type"),
        ("/tokenize", {"prompt": "a", "model": 3}, "model", "invalid_type"),
        ("/detokenize", {}, "tokens", "missing_required_parameter"),
        ("/detokenize", {"tokens": [1.5]}, "tokens", "invalid_type"),
        ("/detokenize", {"tokens": [True]}, "tokens", "invalid_type"),
        ("/detokenize", {"tokens": [-1]}, "tokens", "integer_below_min_value"),
        ("/detokenize", {"tokens": [2**32]}, "tokens", "integer_above_max_value"),
        ("/detokenize", {"tokens": [257]}, "tokens", "invalid_value"),
    ],
)
def test_a_wrong_field_is_named(live: Any, path: str, fields: dict[str, Any], param: str, code: str) -> None:
    response = ask(live, path, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_a_key_and_a_model_are_needed(live: Any, path: str) -> None:
    fields = {"model": "nobody", "prompt": "a", "tokens": [1]}
    assert httpx.post(f"{live.url}{path}", json=fields).status_code == 401
    assert ask(live, path, **fields).json()["error"]["code"] == "model_not_found"
