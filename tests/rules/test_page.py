"""The examples of the published API page, with only host, key and model changed.

Their texts stand here as they are on the page. Basic request, streaming loop, tools, JSON mode, and the vision request.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from tests.rules.conftest import Api
from tests.rules.speaker import Speaker, speaking
from tests.rules.test_images import data_url, png
from tests.rules.test_tools import called

BASIC = r"""curl https://api.ecohash.com/v1/chat/completions \
-H "Authorization: Bearer eco_YOUR_KEY" \
-H "Content-Type: application/json" \
-d '{
"model": "meta-llama/Llama-3.1-8B-Instruct",
"messages": [
{"role": "system", "content": "You are a helpful assistant."},
{"role": "user", "content": "Explain retrieval-augmented generation in 3 sentences."}
]
}'
"""

STREAMING = """from openai import OpenAI
client = OpenAI(api_key="eco_...", base_url="https://api.ecohash.com/v1")
stream = client.chat.completions.create(
model="meta-llama/Llama-3.1-8B-Instruct",
messages=[{"role": "user", "content": "Tell a short joke"}],
stream=True,
)
for chunk in stream:
    delta = chunk.choices[0].delta
    if delta.content:
        print(delta.content, end="", flush=True)
"""

VISION = r"""curl https://api.ecohash.com/v1/chat/completions \
-H "Authorization: Bearer eco_YOUR_KEY" \
-H "Content-Type: application/json" \
-d '{
"model": "Qwen/Qwen2.5-VL-7B-Instruct",
"messages": [{
"role": "user",
"content": [
{"type": "text", "text": "What is in this image?"},
{"type": "image_url", "image_url": {"url": "https://example.com/photo.jpg"}}
]
}]
}'
"""

TOOLS = """resp = client.chat.completions.create(
model="meta-llama/Llama-3.1-8B-Instruct",
messages=[{"role": "user", "content": "What's the weather in SF?"}],
tools=[{
"type": "function",
"function": {
"name": "get_weather",
"description": "Get current weather for a city",
"parameters": {
"type": "object",
"properties": {
"city": {"type": "string"},
"unit": {"type": "string", "enum": ["c", "f"]}
},
"required": ["city"]
}
}
}],
)
for call in resp.choices[0].message.tool_calls or []:
    print(call.function.name, call.function.arguments)
"""

JSON_MODE = r"""resp = client.chat.completions.create(
model="meta-llama/Llama-3.1-8B-Instruct",
messages=[
{"role": "system", "content": "Reply only as JSON: {\"summary\": \"...\"}"},
{"role": "user", "content": "Summarize: quantum entanglement"}
],
response_format={"type": "json_object"},
)
import json
data = json.loads(resp.choices[0].message.content)
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Speaker]]:
    with speaking(tmp_path_factory.mktemp("speaker")) as api_and_speaker:
        yield api_and_speaker


@pytest.fixture
def api(room: tuple[Api, Speaker]) -> Api:
    return room[0]


@pytest.fixture
def speaker(room: tuple[Api, Speaker]) -> Speaker:
    return room[1]


def at_home(api: Api, example: str) -> str:
    """The example with this server's host, key and model."""
    example = example.replace("https://api.ecohash.com", api.live.url)
    example = re.sub(r"eco_(YOUR_KEY|\.\.\.)", api.live.key, example)
    return re.sub(r"meta-llama/Llama-3\.1-8B-Instruct|Qwen/Qwen2\.5-VL-7B-Instruct", api.model, example)


def run_curl(command: str) -> dict[str, Any]:
    """What the shell makes of it."""
    quiet = command.replace("curl ", "curl --silent --show-error --noproxy '*' ", 1)
    ran = subprocess.run(["bash", "-c", quiet], check=True, capture_output=True, text=True, timeout=60, env=dict(os.environ))
    told: dict[str, Any] = json.loads(ran.stdout)
    return told


def run_python(example: str, **names: Any) -> dict[str, Any]:
    exec(compile(example, "page", "exec"), names)
    return names


def test_the_basic_request(api: Api, speaker: Speaker) -> None:
    speaker.says = b"It looks things up. Then it writes. That is all."
    answer = run_curl(at_home(api, BASIC))
    assert answer["choices"][0]["message"]["content"] == speaker.says.decode()
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_the_streaming_loop(api: Api, speaker: Speaker, capsys: pytest.CaptureFixture[str]) -> None:
    speaker.says = "Why did the river cross the road? 😀".encode()
    run_python(at_home(api, STREAMING))["client"].close()
    assert capsys.readouterr().out == speaker.says.decode()


def test_the_vision_request(api: Api, speaker: Speaker) -> None:
    """As on the page, but for the picture, which comes as the data URL that the page offers beside it."""
    speaker.says = b"A grey square."
    example = at_home(api, VISION).replace("https://example.com/photo.jpg", data_url(png(), "image/jpeg"))
    assert run_curl(example)["choices"][0]["message"]["content"] == "A grey square."


def test_the_tools(api: Api, speaker: Speaker, capsys: pytest.CaptureFixture[str]) -> None:
    speaker.says = called("get_weather", '{"city": "SF", "unit": "c"}')
    run_python(at_home(api, TOOLS), client=api.client)
    assert capsys.readouterr().out == 'get_weather {"city": "SF", "unit": "c"}\n'


def test_json_mode(api: Api, speaker: Speaker) -> None:
    speaker.says = b'{"summary": "two are one"}'
    assert run_python(at_home(api, JSON_MODE), client=api.client)["data"] == {"summary": "two are one"}
    speaker.says = b"I would rather not."
    assert isinstance(run_python(at_home(api, JSON_MODE), client=api.client)["data"], dict)
