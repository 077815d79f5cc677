"""Token ids over HTTP: the answers are the tokenizer's own, and the errors name the client's fields."""

import threading
import time
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
        ("/tokenize", {"prompt": "x" * (2**20 + 1)}, "prompt", "string_above_max_length"),
        ("/tokenize", {"prompt": "é" * (2**19 + 1)}, "prompt", "string_above_max_length"),
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


def test_the_longest_prompt_does_not_stop_the_event_loop(live: Any) -> None:
    """The ids of 15 MiB took the loop 1.3 s, in which nobody else was answered."""
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask(live, "/tokenize", prompt="x" * 2**20)))
    longest = 0.0
    with httpx.Client(base_url=live.url) as http:
        assert http.get("/health").status_code == 200
        asking.start()
        while asking.is_alive():
            begun = time.perf_counter()
            assert http.get("/health").status_code == 200
            longest = max(longest, time.perf_counter() - begun)
    assert answers[0].json()["count"] == 2**20
    # The client of this test parses in the same process: far more than the loop alone stands still.
    assert longest < 0.75
