"""An engine in a process of its own, over HTTP: nobody can tell, until it is lost; then everybody is told, and it comes back."""

import json
import re
import signal
import sys
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.live_server import MODEL, answering, chat_body, serving
from tests.prompt.images.conftest import encoded, picture
from tests.regions.isolated import CLOSE, PATIENT, eventually, isolated, kill

from ecocore.regions.child import ChildRegion
from ecocore.regions.region import Region

OTHER = "some-maker/other-model"


@dataclass
class Served:
    """A server over isolated engines."""

    url: str
    key: str
    stop: Callable[[], None]

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"authorization": f"Bearer {self.key}"}, timeout=20)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=20)

    def chat(self, **fields: Any) -> httpx.Response:
        with self.http() as http:
            return http.post("/v1/chat/completions", json=chat_body(**fields))

    def is_ready(self) -> bool:
        return httpx.get(f"{self.url}/ready").status_code == 200


@contextmanager
def served(folder: Path, *regions: Region, **settings: Any) -> Iterator[Served]:
    with answering(folder, regions, grace=5, **settings) as (welcome, stop):
        assert welcome.first_key is not None
        yield Served(welcome.url, welcome.first_key, stop)


# --- nobody can tell ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[httpx.Client]]:
    """Clients of two servers: one with its engine inside, one with it beside."""
    with (
        serving(tmp_path_factory.mktemp("whole")) as live,
        isolated() as region,
        served(tmp_path_factory.mktemp("parted"), region) as parted,
        live.http() as inside,
        parted.http() as beside,
    ):
        yield [inside, beside]


def told(answer: httpx.Response) -> tuple[Any, ...]:
    """All of an answer but what differs from request to request: ids, times, and how choices of a stream interleave."""
    drawn = r'"created(_at)?": ?\d+|(chatcmpl-|cmpl-|resp_|msg_|rs_|fc_|call_)[0-9A-Za-z]{20,}'
    headers = {name: answer.headers.get(name) for name in ("content-type", "retry-after", "cache-control", "x-accel-buffering")}
    return answer.status_code, headers, sorted(re.sub(drawn, "...", answer.text).split("\n\n"), key=_choice)


def _choice(event: str) -> int:
    found = re.match(r'data: \{.*?"choices":\[\{"index":(\d+)', event)
    return int(found[1]) if found else 1000


HELLO = {"messages": [{"role": "user", "content": "hello"}]}
PARAMETERS = {"type": "object", "properties": {"a": {"enum": ["x", None, 1.5e300]}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "does f", "parameters": PARAMETERS}
CALLED = {"tools": [{"type": "function", "function": FUNCTION, "extra": 1}], "tool_choice": "required", "max_tokens": 300}
DRAWN = {"temperature": 1, "seed": 11}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + b64encode(encoded(picture(64, 64, 1))).decode()}}
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {**HELLO, "max_tokens": 30}),
    "scores": ("/v1/chat/completions", {**HELLO, "max_tokens": 9, "logprobs": True, "top_logprobs": 5, "n": 3, **DRAWN}),
    "tools": ("/v1/chat/completions", {**HELLO, **CALLED, **DRAWN}),
    "json": ("/v1/chat/completions", {**HELLO, "response_format": {"type": "json_object"}, "max_tokens": 60, **DRAWN}),
    "image": ("/v1/chat/completions", {"messages": [{"role": "user", "content": [PICTURE]}], "max_tokens": 5}),
    "echo": ("/v1/completions", {"prompt": ["ab\u20ac", "c"], "max_tokens": 6, "echo": True, "logprobs": 3, "n": 2, **DRAWN}),
    "prompt only": ("/v1/completions", {"prompt": [65, 66], "max_tokens": 0, "echo": True, "logprobs": 2}),
    "response": ("/v1/responses", {"input": "hello", "max_output_tokens": 20}),
    "response tools": (
        "/v1/responses",
        {"input": "hello", "tools": [{"type": "function", **FUNCTION}], "tool_choice": "required", **DRAWN},
    ),
    "too long": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x" * 20_000}]}),
    "too long response": ("/v1/responses", {"input": [{"role": "user", "content": "x" * 20_000}]}),
    "no token": ("/v1/completions", {"prompt": [999_999]}),
    "no schema": (
        "/v1/responses",
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nothing"}}}},
    ),
    "no image": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://[::1]/x"}}]}]},
    ),
    "no model": ("/v1/chat/completions", {**HELLO, "model": "nothing"}),
    "tokens": ("/tokenize", {"prompt": "h\u20ac"}),
    "no tokens": ("/detokenize", {"tokens": [999_999]}),
}


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("path", "body"), ASKED.values(), ids=ASKED.keys())
def test_an_answer_is_the_same_byte_for_byte(both: list[httpx.Client], path: str, body: dict[str, Any], *, stream: bool) -> None:
    asked = {"model": MODEL, "temperature": 0, **body, **({"stream": stream} if path.startswith("/v1") else {})}
    inside, beside = (told(client.post(path, json=asked)) for client in both)
    assert beside == inside


def test_a_schema_as_deep_as_a_body_may_be_gets_through(both: list[httpx.Client]) -> None:
    """The API's other spelling puts it deeper still, and what the server let in is judged by nobody again."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(27):
        schema = {"type": "object", "properties": {"a": schema}}
    asked = {
        "model": MODEL,
        "input": "x",
        "tools": [{"type": "function", "name": "f", "parameters": schema}],
        "tool_choice": "none",
    }
    deep = json.dumps({**asked, "metadata": {"a": "b"}, "max_output_tokens": 1})
    answers = [client.post("/v1/responses", content=deep) for client in both]
    assert [answer.status_code for answer in answers] == [200, 200]


def test_many_large_pictures_pass_whole(both: list[httpx.Client]) -> None:
    """Four megabytes of JSON: more than one piece of anything on the way."""
    part = {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + b64encode(encoded(picture(700, 700, 3))).decode()},
    }
    content = [*[part] * 2, {"type": "text", "text": "what is this?"}]
    asked = {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 3, "temperature": 0}
    assert len(json.dumps(asked)) > 2**21
    inside, beside = (told(client.post("/v1/chat/completions", json=asked)) for client in both)
    assert inside[0] == 200
    assert beside == inside


def test_models_and_metrics_are_there(both: list[httpx.Client]) -> None:
    inside, beside = (client.get("/v1/models").json()["data"] for client in both)
    assert [{**one, "created": 0} for one in beside] == [{**one, "created": 0} for one in inside]
    shown = [re.findall(r"^(ecocore_\w+)", client.get("/metrics").text, re.MULTILINE) for client in both]
    assert set(shown[0]) == set(shown[1])
    assert f'ecocore_engine_restarts_total{{model_name="{MODEL}"}} 0.0' in both[1].get("/metrics").text


def test_what_the_server_says_to_its_engine_means_nothing_from_a_client(both: list[httpx.Client]) -> None:
    secret = {"accept": "application/vnd.ecocore.admission+json", "x-ecocore-salt": "00", "x-ecocore-key": "1"}
    for client in both:
        assert (
            client.post("/v1/chat/completions", json=chat_body(max_tokens=1), headers=secret).json()["object"]
            == "chat.completion"
        )
        assert client.post("/v1/admissions/x", headers=secret).status_code == 404
        assert client.get("/heartbeat").status_code == 404


def test_the_engine_speaks_the_api_to_whoever_may_reach_it() -> None:
    """Its folder is what keeps strangers away: here the test is its owner."""
    with isolated() as region, httpx.Client(transport=httpx.HTTPTransport(uds=str(region._process.socket_path))) as http:
        answer = http.post("http://engine/v1/chat/completions", json=chat_body(max_tokens=2))
        assert answer.json()["usage"]["completion_tokens"] == 2
        assert http.get("http://engine/v1/models").json()["data"][0]["id"] == MODEL
        assert region._process.socket_path.parent.stat().st_mode & 0o077 == 0


# --- until it is lost -----------------------------------------------------------------------------------


@dataclass
class Asking:
    """A request that runs in a thread of its own: its pieces as they come."""

    answer: Callable[[], Any]

    def __post_init__(self) -> None:
        self.outcome: Any = None
        self.thread = threading.Thread(target=self._ask)
        self.thread.start()

    def _ask(self) -> None:
        self.outcome = self.answer()

    def ended(self) -> Any:
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.outcome


def opened(server: Served, **fields: Any) -> tuple[Iterator[str], Callable[[], None]]:
    """A stream whose first piece has come, and what closes it."""
    http = server.http()
    stream = http.stream("POST", "/v1/chat/completions", json=chat_body(stream=True, **fields))
    lines = stream.__enter__().iter_lines()

    def close() -> None:
        stream.__exit__(None, None, None)
        http.close()

    assert '"role":"assistant"' in next(lines)
    return lines, close


FAULTS = {
    "killed": partial(kill, number=signal.SIGKILL),
    "stopped": partial(kill, number=signal.SIGSTOP),
    "aborted": partial(kill, number=signal.SIGABRT),
}


@pytest.mark.parametrize("fault", [*FAULTS, "step", "engine", "memory"])
def test_a_lost_engine_ends_its_answers_and_nobody_elses_and_comes_back(fault: str, tmp_path: Path) -> None:
    """RELIABILITY F6, but for what is billed."""
    faults = tmp_path / "faults"
    with (
        isolated(CLOSE if fault == "stopped" else PATIENT, tokens_per_second=50, faults=str(faults)) as region,
        isolated(tokens_per_second=50, name=OTHER) as other,
        served(tmp_path, region, other) as server,
    ):
        stream, close = opened(server)
        neighbour, close_neighbour = opened(server, model=OTHER, max_tokens=100)
        plain = Asking(server.chat)
        assert eventually(lambda: region.stats()["open"] == 2, 60)
        FAULTS[fault](region) if fault in FAULTS else faults.write_text(fault)

        lines = [line for line in stream if line]
        error = json.loads(lines[-1].removeprefix("data: "))["error"]
        assert (error["type"], error["code"] in ("engine_error", "engine_lost")) == ("server_error", True)
        assert "data: [DONE]" not in lines
        close()
        answer = plain.ended()
        if error["code"] == "engine_lost":
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "all_regions_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")

        if fault in FAULTS:
            refused = server.chat()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "all_regions_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert httpx.get(f"{server.url}/ready").json()["error"]["code"] == "all_regions_unavailable"
        assert httpx.get(f"{server.url}/health").status_code == 200

        assert [line for line in neighbour if line][-1] == "data: [DONE]"
        close_neighbour()
        assert server.chat(model=OTHER, max_tokens=1).status_code == 200
        assert eventually(lambda: server.chat(max_tokens=2).status_code == 200, 60)
        assert eventually(server.is_ready, 60)
        assert other.stats()["restarts"] == 0
        assert region.stats()["restarts"] >= (fault in FAULTS or fault == "engine")


def test_a_client_that_leaves_frees_the_engine(tmp_path: Path) -> None:
    with isolated(tokens_per_second=20) as region, served(tmp_path, region) as server:
        _, close = opened(server)
        assert eventually(lambda: region.stats()["open"] == 1, 60)
        close()
        assert eventually(lambda: region.stats()["open"] == 0, 60)
        with server.http() as http, pytest.raises(httpx.ReadTimeout):
            http.post("/v1/chat/completions", json=chat_body(), timeout=0.3)
        assert eventually(lambda: region.stats()["open"] == 0, 60)


def test_what_runs_may_end_when_the_server_does(tmp_path: Path) -> None:
    with isolated(tokens_per_second=50) as region, served(tmp_path, region) as server:
        stream, close = opened(server, max_tokens=40)
        server.stop()
        assert eventually(lambda: server.chat(max_tokens=1).status_code == 503, 60)
        assert [line for line in stream if line][-1] == "data: [DONE]"
        close()
        assert region.is_alive


def test_a_full_engine_refuses_as_one_in_this_process_does(tmp_path: Path) -> None:
    with isolated(tokens_per_second=20, capacity=(1, 2, 1)) as region, served(tmp_path, region) as server:
        _, close = opened(server)
        prompts = {"model": MODEL, "prompt": ["a", "b", "c"], "stream": True}
        with server.http() as http:
            for refused in (server.chat(n=2), server.chat(n=2, stream=True), http.post("/v1/completions", json=prompts)):
                assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
                assert refused.headers["retry-after"] == "1"
        assert eventually(lambda: region.stats()["open"] == 1, 60)
        close()


def test_the_bound_on_clients_keeps_no_server_from_its_engine(tmp_path: Path) -> None:
    """It is the server that has clients: whatever their number, the heartbeat gets through."""
    with isolated(connections=0) as region, served(tmp_path, region) as server:
        assert server.chat(max_tokens=1).status_code == 200
        assert region.stats()["restarts"] == 0


def test_prompts_before_a_refused_one_are_given_up(tmp_path: Path) -> None:
    """They would wait for a start that never comes, and would keep others out."""
    with isolated(parked=2) as region, served(tmp_path, region) as server, server.http() as http:
        for _ in range(3):
            refused = http.post("/v1/completions", json={"model": MODEL, "prompt": [[65], [999_999]]})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "prompt")
            assert eventually(lambda: not region._parked and not region._releasing, 60)
        taken = http.post("/v1/completions", json={"model": MODEL, "prompt": [[65], [66]], "max_tokens": 1})
        assert taken.status_code == 200
        assert eventually(lambda: not region._parked, 60)


@pytest.mark.weights
def test_smollm2_in_a_process_of_its_own(tmp_path: Path) -> None:
    told = {"allow_image_origin": [], "no_remote_images": True, "log_level": "warning"}
    settings = json.dumps({"model": None, "runtime": {"device": "cpu"}, "server": told})
    region = ChildRegion.start("smollm2", [sys.executable, "-P", "-m", "ecocore", "engine", settings])
    try:
        with served(tmp_path, region) as server:
            question: dict[str, Any] = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
            asked = {"model": region.model_id, "temperature": 0, **question}
            assert server.chat(**asked).json()["choices"][0]["message"]["content"] == "The capital of France is Paris."
            stream, close = opened(server, **asked, max_tokens=400, ignore_eos=True)
            kill(region, signal.SIGKILL)
            assert '"engine_lost"' in [line for line in stream if line][-1]
            close()
            assert eventually(server.is_ready, 60)
            assert server.chat(**asked).json()["choices"][0]["message"]["content"] == "The capital of France is Paris."
    finally:
        region.close()
