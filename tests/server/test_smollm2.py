"""The embedded model over HTTP, asked by the official client."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.live_server import Live, serving

from ecocore.runtime import Runtime

pytestmark = pytest.mark.weights

QUESTION: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, smollm2: Runtime) -> Iterator[Live]:
    with serving(Path(tmp_path_factory.mktemp("smollm2")), model=smollm2) as server:
        yield server


def test_plain_streamed_and_embedded_answers_are_one(embedded: Live, smollm2: Runtime) -> None:
    client = embedded.client()
    plain = client.chat.completions.create(model=smollm2.model_id, **QUESTION).choices[0].message.content
    stream = client.chat.completions.create(model=smollm2.model_id, stream=True, **QUESTION)
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert plain == streamed == smollm2.chat(**QUESTION).text == "The capital of France is Paris."


def test_a_seed_repeats_an_answer_over_http(embedded: Live, smollm2: Runtime) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Invent a name."}], "seed": 5, "max_tokens": 12}
    client = embedded.client()
    answers = {client.chat.completions.create(model=smollm2.model_id, **asked).choices[0].message.content for _ in range(3)}
    assert answers == {smollm2.chat(**asked).text}


WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get current weather for a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
ASKED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "What's the weather in Paris, in celsius?"}],
    "temperature": 0,
    "max_tokens": 80,
}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_is_made_and_streamed_as_the_plain_one(embedded: Live, smollm2: Runtime, choice: Any) -> None:
    client = embedded.client()
    tools: dict[str, Any] = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False}
    plain = client.chat.completions.create(model=smollm2.model_id, **tools, **ASKED).choices[0]
    (call,) = plain.message.tool_calls or []
    assert (plain.finish_reason, plain.message.content, call.function.name) == ("tool_calls", None, "get_weather")
    arguments = json.loads(call.function.arguments)
    assert "Paris" in arguments["city"]
    assert arguments["unit"] in ("c", "f")
    pieces = [
        delta.function.arguments
        for chunk in client.chat.completions.create(model=smollm2.model_id, stream=True, **tools, **ASKED)
        for delta in chunk.choices[0].delta.tool_calls or []
    ]
    assert len(pieces) > 2
    assert "".join(pieces) == call.function.arguments


def test_a_schema_is_kept_and_streamed_as_the_plain_answer(embedded: Live, smollm2: Runtime) -> None:
    client = embedded.client()
    schema = WEATHER["function"]["parameters"]
    wanted: dict[str, Any] = {
        "response_format": {"type": "json_schema", "json_schema": {"name": "w", "schema": schema, "strict": True}}
    }
    plain = client.chat.completions.create(model=smollm2.model_id, **wanted, **ASKED).choices[0]
    assert plain.finish_reason == "stop"
    assert list(json.loads(plain.message.content or "")) == ["city", "unit"]
    stream = client.chat.completions.create(model=smollm2.model_id, stream=True, **wanted, **ASKED)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == plain.message.content


def test_a_begun_answer_is_continued(embedded: Live, smollm2: Runtime) -> None:
    turns: Any = [*QUESTION["messages"], {"role": "assistant", "content": "The capital of France"}]
    client = embedded.client()
    answer = client.chat.completions.create(
        model=smollm2.model_id, messages=turns, temperature=0, extra_body={"continue_final_message": True}
    )
    assert answer.choices[0].message.content == " is Paris."


def test_choices_are_drawn_apart(embedded: Live, smollm2: Runtime) -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "Invent a name."}], "seed": 5, "max_tokens": 12}
    client = embedded.client()
    answers = [choice.message.content for choice in client.chat.completions.create(model=smollm2.model_id, n=4, **asked).choices]
    assert len(set(answers)) == 4
    assert answers[0] == smollm2.chat(**asked).text


def test_a_scored_prompt_has_the_log_probabilities_of_single_steps(embedded: Live, smollm2: Runtime) -> None:
    """The second opinion draws each token after the tokens before it; the raw log-probability knows no bias."""
    ids = smollm2.tokenizer.encode("The capital of France is Paris, and the river is the Seine.")
    client = embedded.client()

    def ask(prompt: list[int], **fields: Any) -> Any:
        return (
            client.completions.create(model=smollm2.model_id, prompt=prompt, temperature=0, logprobs=1, **fields)
            .choices[0]
            .logprobs
        )

    scored = ask(ids, echo=True, max_tokens=0)
    assert scored.tokens == [smollm2.tokenizer.token_bytes(token).decode() for token in ids]
    assert scored.token_logprobs[0] is None
    for place in range(1, len(ids)):
        single = ask(ids[:place], max_tokens=1, logit_bias={str(ids[place]): 100})
        assert single.token_logprobs[0] == pytest.approx(scored.token_logprobs[place], abs=1e-4)
