"""The responses endpoint: items in, items out, events in their order; nothing is stored."""

import base64
import io
import json
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from ecocore.server.responses import LOGPROBS, ResponsesRequest

MODEL = "some-maker/some-model"


def ask(live: Any, **fields: Any) -> httpx.Response:
    with live.http() as http:
        response: httpx.Response = http.post("/v1/responses", json={"model": MODEL, "temperature": 0, **fields})
    return response


def chat_of(**fields: Any) -> list[dict[str, Any]]:
    """The messages that the items become."""
    request = ResponsesRequest.parse({"model": MODEL, **fields}).request
    return [message.model_dump(exclude_defaults=True) for message in request.messages]


def test_a_string_is_answered_by_a_message(live: Any) -> None:
    with live.client() as client:
        answer = client.responses.create(model=MODEL, input="hello", temperature=0, max_output_tokens=20)
    (item,) = answer.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "incomplete")
    assert item.id.startswith("msg_")
    assert answer.output_text == item.content[0].text
    assert len(answer.output_text) == 20
    assert (answer.object, answer.status, answer.model) == ("response", "incomplete", MODEL)
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.id.startswith("resp_")
    assert answer.usage is not None
    assert answer.usage.output_tokens == 20
    assert answer.usage.total_tokens == answer.usage.input_tokens + 20
    assert answer.usage.input_tokens_details.cached_tokens == 0
    assert answer.usage.output_tokens_details.reasoning_tokens == 0


def test_the_answer_is_that_of_a_chat(live: Any) -> None:
    told = ask(live, instructions="Be brief.", input="hello", max_output_tokens=30, seed=3, temperature=1).json()
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hello"}]
    chat = live.chat(messages=messages, max_tokens=30, seed=3, temperature=1).json()
    assert told["output"][0]["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert told["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]


def test_what_was_asked_is_told_again(live: Any) -> None:
    told = ask(live, input="hello", max_output_tokens=4, instructions="é", metadata={"a": "b"}, top_p=0.5, user="u").json()
    expected = {
        "instructions": "é",
        "max_output_tokens": 4,
        "metadata": {"a": "b"},
        "top_p": 0.5,
        "temperature": 0.0,
        "store": False,
        "background": False,
        "previous_response_id": None,
        "truncation": "disabled",
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": None, "summary": None},
        "error": None,
        "user": "u",
    }
    assert {name: told[name] for name in expected} == expected


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream, whose form is checked: name, type and number agree."""
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *frames, nothing = response.text.split("\n\n")
    assert nothing == ""
    events = []
    for number, frame in enumerate(frames):
        name, data = frame.split("\n")
        event: dict[str, Any] = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        assert event["sequence_number"] == number
        events.append(event)
    return events


def test_a_stream_tells_how_the_plain_answer_is_made(live: Any) -> None:
    fields: dict[str, Any] = {"input": "hello", "max_output_tokens": 60, "stop": ["turn"]}
    plain = ask(live, **fields).json()
    events = events_of(ask(live, **fields, stream=True))
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert deltas > 10
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * deltas,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "incomplete",
    ]
    told = events[-1]["response"]
    ids = {event["item_id"] for event in events if "item_id" in event}
    assert ids == {told["output"][0]["id"]}
    text = "".join(event["delta"] for event in events if "delta" in event)
    assert events[-4]["text"] == text == plain["output"][0]["content"][0]["text"]
    assert events[-2]["item"] == told["output"][0]
    changing = ("id", "created_at", "output")
    assert {key: value for key, value in told.items() if key not in changing} == {
        key: value for key, value in plain.items() if key not in changing
    }
    for event in events[:2]:
        assert (event["response"]["status"], event["response"]["output"], event["response"]["usage"]) == ("in_progress", [], None)
        assert event["response"]["id"] == told["id"]


def test_the_openai_client_understands_the_stream(live: Any) -> None:
    with (
        live.client() as client,
        client.responses.stream(model=MODEL, input="hello", temperature=0, max_output_tokens=9) as stream,
    ):
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert len("".join(pieces)) == 9


def test_an_end_token_completes_the_answer(live: Any) -> None:
    told = ask(live, input="hello", max_output_tokens=50, logit_bias={"256": 100}).json()
    assert (told["status"], told["incomplete_details"]) == ("completed", None)
    (item,) = told["output"]
    # An answer without a word is a message without text.
    assert (item["type"], item["status"], item["content"][0]["text"]) == ("message", "completed", "")
    *_, last = events_of(ask(live, input="hello", logit_bias={"256": 100}, stream=True))
    assert (last["type"], last["response"]["status"]) == ("response.completed", "completed")


def test_log_probabilities_come_when_they_are_included(live: Any) -> None:
    fields: dict[str, Any] = {
        "input": "hello",
        "max_output_tokens": 5,
        "include": [LOGPROBS],
        "top_logprobs": 2,
    }
    entries = ask(live, **fields).json()["output"][0]["content"][0]["logprobs"]
    assert len(entries) == 5
    assert all(len(entry["top_logprobs"]) == 2 and entry["logprob"] <= 0 for entry in entries)
    events = events_of(ask(live, **fields, stream=True))
    streamed = [entry for event in events if event["type"] == "response.output_text.delta" for entry in event["logprobs"]]
    assert streamed == entries == next(event["logprobs"] for event in events if event["type"] == "response.output_text.done")
    with live.client() as client:
        answer = client.responses.create(model=MODEL, temperature=0, **fields)
    assert [entry.token for entry in answer.output[0].content[0].logprobs] == [entry["token"] for entry in entries]


def test_items_become_the_messages_of_a_chat() -> None:
    items: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "input_text", "text": "weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [{"type": "output_text", "text": "I look."}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "weather", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "call_2", "name": "weather", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "sun"}]},
    ]

    def call(number: int, arguments: str) -> dict[str, Any]:
        return {"id": f"call_{number}", "function": {"name": "weather", "arguments": arguments}}

    assert chat_of(instructions="Be brief.", input=items) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": ({"type": "text", "text": "weather?"},)},
        {
            "role": "assistant",
            "content": ({"type": "text", "text": "I look."},),
            "tool_calls": (call(1, "{}"), call(2, '{"a":1}')),
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        {"role": "tool", "tool_call_id": "call_2", "content": ({"type": "text", "text": "sun"},)},
    ]


PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"}


def test_images_formats_and_tools_are_spelled_as_in_a_chat() -> None:
    tool = {"type": "function", "name": "weather", "description": "d", "parameters": {"type": "object"}, "strict": True}
    asked = ResponsesRequest.parse(
        {
            "model": MODEL,
            "input": [{"role": "user", "content": [PICTURE]}],
            "tools": [tool, {"type": "function", "name": "other"}],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}},
            "reasoning": {"effort": "low", "summary": "auto"},
            "max_output_tokens": 7,
        }
    )
    request = asked.request
    (image,) = request.messages[0].images
    assert (image.url, image.image_url.detail) == ("data:image/png;base64,AA", "low")
    assert [(function.name, function.strict) for function in request.tools] == [("weather", True), ("other", False)]
    assert (request.tool_choice.mode, request.tool_choice.names) == ("required", ("weather",))
    assert request.response_format is not None
    assert request.response_format.json_schema is not None
    assert request.response_format.json_schema.definition == {"type": "object"}
    assert (request.reasoning_effort, request.token_limit) == ("low", 7)
    told = json.loads("{" + asked.settled[1:] + "}")
    assert told["tools"][0] == tool
    assert told["text"]["format"]["schema"] == {"type": "object"}


JUNK = "x" * 1000


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "name": "f", "extra": JUNK}]},
        {"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "f", "extra": JUNK}},
        {
            "tools": [{"type": "function", "name": "f"}],
            "tool_choice": {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "function", "name": "f", "extra": JUNK}],
                "extra": JUNK,
            },
        },
        {"text": {"format": {"type": "text", "name": JUNK, "description": JUNK, "schema": {"a": JUNK}}, "extra": JUNK}},
        {"reasoning": {"effort": "low", "summary": JUNK}},
        {"extra": JUNK},
    ],
)
def test_only_what_is_known_is_told_again(fields: dict[str, Any]) -> None:
    assert JUNK not in ResponsesRequest.parse({"model": MODEL, "input": "a", **fields}).settled


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "a"}
USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("fields", "param", "code", "words"),
    [
        ({}, "input", "missing_required_parameter", ""),
        ({"input": 3}, "input", "invalid_type", ": must be a string or an array of items"),
        ({"input": []}, "input", "empty_array", ""),
        ({"input": ["a"]}, "input", "invalid_type", "[0]: must be an object"),
        ({"input": [USER, {"role": "robot", "content": "a"}]}, "input", "invalid_value", "[1].role: "),
        ({"input": [USER, {"role": "user", "content": 3}]}, "input", None, "[1].content: must be a string or an array of parts"),
        ({"input": [USER, {"type": "item_reference", "id": "x"}]}, "input", "unsupported_parameter", "[1]: "),
        ({"input": [USER, {"type": "web_search_call"}]}, "input", "unsupported_parameter", "[1]: "),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input",
            "unsupported_parameter",
            "[0].content[0]: ",
        ),
        ({"input": [USER, CALL]}, "input", "invalid_value", "[2]: a function_call must be followed by one function_call_output"),
        (
            {"instructions": "x", "input": [USER, {"type": "function_call_output", "call_id": "c", "output": "a"}]},
            "input",
            None,
            "[1]: ",
        ),
        ({"input": "a", "instructions": 3}, "instructions", "invalid_type", ""),
        ({"input": "a", "max_output_tokens": 0}, "max_output_tokens", "integer_below_min_value", ""),
        ({"input": "a", "metadata": {"a": "b" * 513}}, "metadata", "string_above_max_length", ""),
        ({"input": "a", "user": "u" * 513}, "user", "string_above_max_length", ""),
        ({"input": "a", "safety_identifier": "s" * 513}, "safety_identifier", "string_above_max_length", ""),
        ({"input": "a", "prompt_cache_key": "k" * 513}, "prompt_cache_key", "string_above_max_length", ""),
        ({"input": "a", "text": {"verbosity": "x" * 65}}, "text", "string_above_max_length", ""),
        ({"input": "a", "temperature": 3}, "temperature", "decimal_above_max_value", ""),
        ({"input": "a", "text": {"format": {"type": "xml"}}}, "text", "invalid_value", ".format.type: must be "),
        (
            {"input": "a", "text": {"format": {"type": "json_schema", "name": "x"}}},
            "text",
            "missing_required_parameter",
            ".format.schema: is required",
        ),
        ({"input": "a", "tools": [{"type": "web_search"}]}, "tools", "unsupported_parameter", "[0]: "),
        ({"input": "a", "tools": [{"type": "function", "name": "no name"}]}, "tools", "invalid_value", "[0].name: "),
        (
            {"input": [USER, {**CALL, "call_id": 3}, RESULT]},
            "input",
            "invalid_type",
            "[1].call_id: must be a string",
        ),
        ({"input": [USER, CALL, {**CALL, "name": "a b"}]}, "input", "invalid_value", "[2].name: must be 1 to 64"),
        ({"input": [USER, CALL, {**RESULT, "output": 3}]}, "input", "invalid_type", "[2].output: must be a string"),
        ({"input": [USER, CALL, {**RESULT, "call_id": None}]}, "input", "missing_required_parameter", "[2].call_id: is"),
        ({"input": [USER, CALL, {**RESULT, "output": None}]}, "input", "missing_required_parameter", "[2].output: is"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": 3}]}]},
            "input",
            "invalid_type",
            "[0].content[0].image_url: must be a string",
        ),
        ({"input": "a", "reasoning": {"effort": "x" * 65}}, "reasoning", "string_above_max_length", ".effort: must"),
        ({"input": "a", "tool_choice": 3}, "tool_choice", "invalid_type", ": must be 'none', 'auto', 'required' or an"),
        (
            {"input": "a", "tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function"}},
            "tool_choice",
            "missing_required_parameter",
            ".name: is required",
        ),
        ({"input": "a", "tool_choice": "required"}, "tool_choice", "invalid_value", ""),
        ({"input": "a", "tool_choice": {"type": "mcp"}}, "tool_choice", "unsupported_parameter", ""),
        ({"input": "a", "include": ["everything"]}, "include", "invalid_value", ""),
        ({"input": "a", "previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter", ""),
        ({"input": "a", "background": True}, "background", "unsupported_parameter", ""),
        ({"input": "a", "conversation": "conv_1"}, "conversation", "unsupported_parameter", ""),
        ({"input": "a", "truncation": "auto"}, "truncation", "unsupported_parameter", ""),
        (
            {"input": "a", "max_tokens": 5},
            "max_tokens",
            "unsupported_parameter",
            ": is not for responses; send max_output_tokens",
        ),
        ({"input": "a", "response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter", ""),
        ({"input": "a", "n": 2}, "n", "unsupported_parameter", ""),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages", "unsupported_parameter", ""),
        ({"input": "x" * 9000}, "input", "context_length_exceeded", ""),
        ({"input": "a", "model": None}, "model", "missing_required_parameter", ""),
    ],
)
def test_a_wrong_field_is_named_as_the_client_named_it(
    live: Any, fields: dict[str, Any], param: str, code: str | None, words: str
) -> None:
    response = ask(live, **fields)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param
    assert code is None or error["code"] == code
    assert error["message"].startswith(f"{param}{words}")
    assert len(response.content) < 500


def test_bookkeeping_is_accepted_and_nothing_is_kept(live: Any) -> None:
    fields = {"store": True, "background": False, "truncation": "disabled", "include": ["reasoning.encrypted_content"], "foo": 1}
    told = ask(live, input="a", max_output_tokens=2, previous_response_id=None, **fields).json()
    assert told["store"] is False
    with live.client() as client, pytest.raises(openai.NotFoundError):
        client.responses.retrieve(told["id"])


def test_a_client_that_leaves_ends_the_work(slow: Any) -> None:
    with slow.client() as client:
        stream = client.responses.create(model=MODEL, input="x", temperature=0, stream=True)
        next(iter(stream))
        assert slow.becomes_busy(1)
        stream.close()
    assert slow.becomes_idle()


TOOL = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"days": {"enum": [3]}}, "required": ["days"], "additionalProperties": False},
    "strict": True,
}


def test_a_forced_call_is_an_item_and_its_result_goes_on(live: Any) -> None:
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "weather"}}
    with live.client() as client:
        answer = client.responses.create(model=MODEL, input="hello", temperature=0, **fields)
    (call,) = answer.output
    assert (call.type, call.name, call.status, answer.status) == ("function_call", "weather", "completed", "completed")
    assert json.loads(call.arguments) == {"days": 3}
    events = events_of(ask(live, input="hello", stream=True, **fields))
    kinds = [event["type"].removeprefix("response.") for event in events]
    pieces = kinds.count("function_call_arguments.delta")
    assert kinds == [
        "created",
        "in_progress",
        "output_item.added",
        *["function_call_arguments.delta"] * pieces,
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    assert "".join(event["delta"] for event in events if "delta" in event) == events[-3]["arguments"] == call.arguments
    history = [
        {"role": "user", "content": "hello"},
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    with live.client() as client:
        last = client.responses.create(
            model=MODEL, input=history, tools=[TOOL], tool_choice="none", temperature=0, max_output_tokens=5
        )
    assert last.output[0].type == "message"


def test_text_can_be_held_to_a_schema(live: Any) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"], "additionalProperties": False}
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": True}}
    told = ask(live, input="hello", text=form).json()
    assert json.loads(told["output"][0]["content"][0]["text"]) == {"a": 1}
    assert told["text"] == form


def test_an_image_is_an_input(live: Any) -> None:
    with io.BytesIO() as file:
        Image.new("RGB", (32, 32), (200, 30, 30)).save(file, "png")
        picture = base64.b64encode(file.getvalue()).decode()
    part = {"type": "input_image", "image_url": f"data:image/png;base64,{picture}"}
    told = ask(live, input=[{"role": "user", "content": [part]}], max_output_tokens=2).json()
    assert told["output"][0]["type"] == "message"
    wrong = ask(live, input=[{"role": "user", "content": [{**part, "image_url": "data:image/png;base64,AAAA"}]}])
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "input")
