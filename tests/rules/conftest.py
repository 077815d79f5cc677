"""The official client on a live server: every answer is parsed strictly by the client's own types."""

import inspect
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.resources.chat.completions import Completions
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageFunctionToolCall
from openai.types.chat.chat_completion import Choice
from tests.live_server import MODEL, Live, live, serving_with, slow

__all__ = ["live", "serving_with", "slow"]

KNOWN_TO_THE_CLIENT = inspect.signature(Completions.create).parameters.keys()


class Api:
    """Asks one model. Fields that OpenAI does not have travel as the client's `extra_body`."""

    def __init__(self, server: Live, model: str = MODEL) -> None:
        self.live = server
        self.model = model
        self.client = server.client()

    def fields(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The whole request: a greeting at temperature 0 unless told otherwise."""
        told = {"model": self.model, "messages": [{"role": "user", "content": "hello"}], "temperature": 0, **fields}
        extra = {name: told.pop(name) for name in told.keys() - KNOWN_TO_THE_CLIENT}
        return {**told, "extra_body": extra}

    def chat(self, **fields: Any) -> ChatCompletion:
        raw = self.client.chat.completions.with_raw_response.create(**self.fields(fields))
        return ChatCompletion.model_validate_json(raw.content, strict=True)

    def text(self, **fields: Any) -> str:
        """The answer's text."""
        (choice,) = self.chat(**fields).choices
        assert choice.message.content is not None
        return choice.message.content

    def chunks(self, **fields: Any) -> list[ChatCompletionChunk]:
        """A streamed answer, as the client tells it."""
        told = list(self.client.chat.completions.create(stream=True, **self.fields(fields)))
        return [ChatCompletionChunk.model_validate(chunk.to_dict(), strict=True) for chunk in told]

    def pieces(self, **fields: Any) -> list[str]:
        """The pieces of text of a streamed answer."""
        deltas = [choice.delta for chunk in self.chunks(**fields) for choice in chunk.choices]
        return [delta.content for delta in deltas if delta.content]

    def frames(self, **fields: Any) -> list[Any]:
        """The events of a streamed answer, split by hand; JSON is decoded, anything else stays text."""
        response = self.post(stream=True, **fields)
        assert response.status_code == 200
        *events, nothing = response.content.decode("utf-8").split("\n\n")
        assert nothing == ""
        assert all(event.startswith("data: ") and "\n" not in event for event in events)
        payloads = [event.removeprefix("data: ") for event in events]
        return [json.loads(payload) if payload.startswith("{") else payload for payload in payloads]

    def post(self, **fields: Any) -> Any:
        """The request without the client between."""
        told = self.fields(fields)
        return self.client._client.post(
            f"{self.live.url}/v1/chat/completions",
            json={**told, **told.pop("extra_body")},
            headers={"authorization": f"Bearer {self.live.key}"},
        )

    def refusal(self, status: int = 400, **fields: Any) -> dict[str, Any]:
        """The error that a request gets, in the client's eyes and in the envelope."""
        with pytest.raises(openai.APIStatusError) as raised:
            self.client.chat.completions.create(**self.fields(fields))
        error = envelope(raised.value.response)
        assert raised.value.status_code == status, error
        assert (raised.value.code, raised.value.param, raised.value.type) == (error["code"], error["param"], error["type"])
        return error


def calls_of(choice: Choice) -> list[ChatCompletionMessageFunctionToolCall]:
    """The calls of a choice, which are all calls of functions."""
    calls = choice.message.tool_calls or []
    assert all(call.type == "function" for call in calls)
    return [call for call in calls if call.type == "function"]


def envelope(response: Any) -> dict[str, Any]:
    """The error of an answer, whose form is checked: four keys, JSON, small, with a request id."""
    assert response.headers["content-type"] == "application/json"
    assert len(response.content) <= 4000
    assert response.headers["x-request-id"]
    told = response.json()
    assert list(told) == ["error"]
    error: dict[str, Any] = told["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    return error


@pytest.fixture(scope="module")
def api(live: Live) -> Iterator[Api]:
    """The mock engine, as fast as it can be."""
    asking = Api(live)
    with asking.client:
        yield asking


def only(**letters: float) -> dict[str, float]:
    """A logit_bias under which the mock engine draws nothing but these letters, with these logits.

    A keyword may begin with an underscore, since names do not begin with a digit. Digits are best: the mock engine's own text
    has none, so their logits without a bias are 0 at every position.
    """
    return {str(ord(name.removeprefix("_"))): logit for name, logit in letters.items()}
