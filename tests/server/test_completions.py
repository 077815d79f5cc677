"""The older completions endpoint: prompts as they are, several of them, echoed, with log-probabilities in its own form."""

import json
from typing import Any

import httpx
import openai
import pytest

MODEL = "some-maker/some-model"


def ask(live: Any, **fields: Any) -> httpx.Response:
    with live.http() as http:
        response: httpx.Response = http.post("/v1/completions", json={"model": MODEL, "temperature": 0, **fields})
    return response


def test_a_prompt_is_continued_without_a_template(live: Any) -> None:
    with live.client() as client:
        answer = client.completions.create(model=MODEL, prompt="A river", temperature=0, max_tokens=20)
    (choice,) = answer.choices
    # The mock engine goes on with its own text from wherever the prompt ends.
    assert choice.text == " does not hurry, and"
    assert (choice.finish_reason, choice.index, choice.logprobs) == ("length", 0, None)
    assert (answer.object, answer.model, answer.system_fingerprint) == ("text_completion", MODEL, live.runtime.fingerprint)
    assert answer.id.startswith("cmpl-")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 20, 27)


def test_sixteen_tokens_are_drawn_unless_more_are_asked_for(live: Any) -> None:
    assert ask(live, prompt="A river").json()["usage"]["completion_tokens"] == 16


def test_token_ids_are_a_prompt_too(live: Any) -> None:
    ids = list(b"A river")
    texts = {ask(live, prompt=prompt).json()["choices"][0]["text"] for prompt in ("A river", ids, [ids], ["A river"])}
    assert len(texts) == 1


def test_several_prompts_are_answered_in_their_order(live: Any) -> None:
    prompts = ["A river", "A", "A river does not hurry"]
    told = ask(live, prompt=prompts, n=2, max_tokens=5, seed=3, temperature=1).json()
    assert [choice["index"] for choice in told["choices"]] == list(range(6))
    assert told["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert told["usage"]["completion_tokens"] == 30
    alone = [ask(live, prompt=prompt, max_tokens=5, seed=3, temperature=1).json()["choices"][0]["text"] for prompt in prompts]
    assert [choice["text"] for choice in told["choices"][::2]] == alone


@pytest.mark.parametrize("prompt", ["A river", ["A river", "A"], list(b"A riv\xc3\xa9r")])
def test_the_prompt_comes_first_where_it_is_asked_for(live: Any, prompt: Any) -> None:
    echoed = ask(live, prompt=prompt, echo=True, max_tokens=8).json()
    bare = ask(live, prompt=prompt, max_tokens=8).json()
    prompts = [bytes(prompt).decode()] if isinstance(prompt[0], int) else [prompt] if isinstance(prompt, str) else prompt
    for text, with_prompt, without in zip(prompts, echoed["choices"], bare["choices"], strict=True):
        assert with_prompt["text"] == text + without["text"]


def test_the_prompt_alone_costs_no_tokens(live: Any) -> None:
    told = ask(live, prompt="A river", echo=True, max_tokens=0).json()
    (choice,) = told["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("A river", "length")
    assert (told["usage"]["completion_tokens"], told["usage"]["total_tokens"]) == (0, 7)


def test_a_stream_is_the_plain_answer_in_pieces(live: Any) -> None:
    fields: dict[str, Any] = {"prompt": ["A river", "é"], "n": 2, "echo": True, "seed": 5, "temperature": 1, "stop": ["stone"]}
    plain = ask(live, **fields, max_tokens=90).json()
    response = ask(live, **fields, max_tokens=90, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, done, nothing = response.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    *chunks, usage = chunks
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == plain["usage"]["total_tokens"]
    assert all(chunk["usage"] is None and chunk["object"] == "text_completion" for chunk in chunks)
    texts = [""] * 4
    reasons: list[list[str]] = [[], [], [], []]
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        reasons[choice["index"]] += [choice["finish_reason"]] if choice["finish_reason"] else []
    assert texts == [choice["text"] for choice in plain["choices"]]
    assert reasons == [[choice["finish_reason"]] for choice in plain["choices"]]


def test_the_openai_client_streams(live: Any) -> None:
    with live.client() as client:
        chunks = list(client.completions.create(model=MODEL, prompt="A river", temperature=0, max_tokens=9, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == " does not"
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_log_probabilities_are_parallel_lists(live: Any, count: int, *, stream: bool) -> None:
    with live.client() as client:
        answer = client.completions.create(
            model=MODEL, prompt="A river", temperature=0, max_tokens=6, logprobs=count, stream=stream
        )
        parts = [chunk.choices[0] for chunk in answer] if stream else [answer.choices[0]]
    told = [part.logprobs for part in parts if part.logprobs]
    tokens = [token for lists in told for token in lists.tokens]
    assert "".join(tokens) == "".join(part.text for part in parts) == " does "
    assert [place for lists in told for place in lists.text_offset] == list(range(6))
    logprobs = [logprob for lists in told for logprob in lists.token_logprobs]
    tops = [top for lists in told for top in lists.top_logprobs]
    assert len(tops) == len(logprobs) == 6
    for token, logprob, top in zip(tokens, logprobs, tops, strict=True):
        # The drawn token is the likeliest here, so it is one of those asked for, or the only one.
        assert len(top) == max(count, 1)
        assert top[token] == logprob == max(top.values())


def lists_of(choice: Any) -> list[tuple[Any, ...]]:
    lists = choice["logprobs"]
    names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
    return list(zip(*(lists[name] for name in names), strict=True))


@pytest.mark.parametrize("prompt", ["A river does", ["A river", "é!"], list(b"A river \xc3\xa9" * 30)])
@pytest.mark.parametrize("max_tokens", [0, 4])
def test_an_echoed_prompt_has_log_probabilities_too(live: Any, prompt: Any, max_tokens: int) -> None:
    fields: dict[str, Any] = {"prompt": prompt, "echo": True, "logprobs": 2, "max_tokens": max_tokens}
    told = ask(live, **fields).json()
    for choice in told["choices"]:
        rows = lists_of(choice)
        parts = [
            bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:") else token.encode() for token, *_ in rows
        ]
        assert b"".join(parts).decode() == choice["text"]
        assert rows[0][1:] == (None, None, 0)
        for token, logprob, top, _ in rows[1:]:
            assert top[token] == logprob <= max(top.values()) <= 0
            assert len(top) in (2, 3)
        # Where a token begins is where its character does.
        characters = [len(b"".join(parts[:number]).decode("utf-8", "ignore")) for number in range(len(parts))]
        assert [row[3] for row in rows] == characters
    response = ask(live, **fields, stream=True)
    streamed: list[list[tuple[Any, ...]]] = [[] for _ in told["choices"]]
    for event in response.text.split("\n\n")[:-2]:
        (choice,) = json.loads(event.removeprefix("data: "))["choices"]
        streamed[choice["index"]] += lists_of(choice) if choice["logprobs"] else []
    assert streamed == [lists_of(choice) for choice in told["choices"]]


def test_prompts_are_scored_again_though_their_prefix_is_known(live: Any) -> None:
    prompt = "A river does not hurry, and yet it reaches the sea. " * 6
    first, again = (ask(live, prompt=prompt, echo=True, logprobs=1, max_tokens=2).json() for _ in range(2))
    assert lists_of(first["choices"][0]) == lists_of(again["choices"][0])
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": []}, "prompt", "empty_array"),
        ({"prompt": [[]]}, "prompt", "empty_array"),
        ({"prompt": ["a", 1]}, "prompt", "invalid_type"),
        ({"prompt": [1, True]}, "prompt", "invalid_type"),
        ({"prompt": 7}, "prompt", "invalid_type"),
        ({"prompt": [-1]}, "prompt", "invalid_value"),
        ({"prompt": [257]}, "prompt", "invalid_value"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": "x" * 9000}, "prompt", "context_length_exceeded"),
        ({"prompt": ["a"] * 129}, "prompt", "array_above_max_length"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"prompt": "a", "max_tokens": -1, "echo": True}, "max_tokens", "integer_below_min_value"),
        ({"prompt": "a", "logprobs": 6}, "logprobs", "integer_above_max_value"),
        ({"prompt": "a", "logprobs": True}, "logprobs", "invalid_type"),
        ({"prompt": "a", "echo": "yes"}, "echo", "invalid_type"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"prompt": "a", "best_of": 2}, "best_of", "unsupported_parameter"),
        ({"prompt": "a", "tools": [{}]}, "tools", "unsupported_parameter"),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"prompt": "a", "temperature": 3}, "temperature", "decimal_above_max_value"),
        ({"prompt": "a", "n": 9}, "n", "integer_above_max_value"),
        ({"prompt": "a", "stop": [""]}, "stop", "invalid_value"),
        ({"prompt": "a", "stream_options": {}}, "stream_options", "invalid_value"),
        ({"prompt": "a", "logit_bias": {"999": 1}}, "logit_bias", "invalid_value"),
        ({"prompt": "a", "model": None}, "model", "missing_required_parameter"),
    ],
)
def test_a_wrong_field_is_named(live: Any, fields: dict[str, Any], param: str, code: str) -> None:
    response = ask(live, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert len(response.content) < 500


def test_null_is_absent_and_neutral_values_are_taken(live: Any) -> None:
    neutral: dict[str, Any] = {"suffix": None, "best_of": 1, "logprobs": None, "tools": [], "echo": None, "user": "u", "seed": 1}
    assert ask(live, prompt="A river", **neutral).status_code == 200


def test_an_unknown_model_is_told(live: Any) -> None:
    with live.client() as client, pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="nobody/nothing", prompt="a")
    assert missing.value.code == "model_not_found"


def test_a_client_that_leaves_ends_the_work_for_every_prompt(slow: Any) -> None:
    with slow.client() as client:
        stream = client.completions.create(model=MODEL, prompt=["a", "b", "c"], temperature=0, max_tokens=5000, stream=True)
        next(iter(stream))
        assert slow.becomes_busy(3)
        stream.close()
    assert slow.becomes_idle()
