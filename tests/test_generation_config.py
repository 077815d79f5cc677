"""`generation_config="model"`: what requests leave open is drawn as the model's generation_config.json says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.golden.tiny_models import MODELS, TinyCheckpoint
from tests.live_server import serving

import ecocore
from ecocore.errors import InvalidModelFile, InvalidParameter
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime

# As the hub has it for Qwen2.5, but for the temperature.
MAKERS: dict[str, Any] = {
    "do_sample": True,
    "eos_token_id": [3],
    "pad_token_id": 0,
    "repetition_penalty": 1.3,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
    "transformers_version": "4.45.1",
}
SAMPLING = {name: MAKERS[name] for name in ("repetition_penalty", "temperature", "top_k", "top_p")}
ASKED: dict[str, Any] = {"max_tokens": 24, "seed": 7, "ignore_eos": True, "logprobs": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = TinyCheckpoint(MODELS["qwen2 tied"], tmp_path_factory.mktemp("tiny")).folder
    (folder / "generation_config.json").write_text(json.dumps(MAKERS), "utf-8")
    return folder


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[Runtime]:
    with ecocore.load(folder, kv_cache_mb=16, progress=False) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def makers(folder: Path) -> Iterator[Runtime]:
    with ecocore.load(folder, kv_cache_mb=16, generation_config="model", progress=False) as runtime:
        yield runtime


def drawn(runtime: Runtime, **fields: Any) -> list[int]:
    return [token.token_id for token in runtime.chat("Count from 1 to 10.", **ASKED | fields).logprobs]


def test_the_apis_defaults_count_unless_the_models_are_asked_for(plain: Runtime) -> None:
    neutral = {"repetition_penalty": 1.0, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    assert drawn(plain) == drawn(plain, **neutral) != drawn(plain, **SAMPLING)


def test_then_a_request_that_says_nothing_draws_as_the_model_says(plain: Runtime, makers: Runtime) -> None:
    assert drawn(makers) == drawn(plain, **SAMPLING)
    assert drawn(makers, temperature=None) == drawn(makers)


@pytest.mark.parametrize("field", [{"temperature": 1.0}, {"top_k": 0}, {"top_p": 1.0}, {"repetition_penalty": 1.0}], ids=str)
def test_what_a_request_says_counts(plain: Runtime, makers: Runtime, field: dict[str, Any]) -> None:
    assert drawn(makers, **field) == drawn(plain, **SAMPLING | field)


def test_so_it_is_over_http(makers: Runtime, tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Count from 1 to 10."}]
    with serving(tmp_path, model=makers) as live, live.http() as http:
        body = {"model": makers.model_id, "messages": messages, **ASKED}
        told = [http.post("/v1/chat/completions", json=body | more).json() for more in ({}, SAMPLING, {"temperature": 1.0})]
    first, same, other = ([token["bytes"] for token in one["choices"][0]["logprobs"]["content"]] for one in told)
    assert first == same != other


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, {}),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
        ({"min_p": 0.1, "typical_p": 0.9, "top_k": None}, {"min_p": 0.1, "typical_p": 0.9}),
        ({"max_new_tokens": 5, "num_beams": 4}, {}),
    ],
)
def test_what_is_taken(folder: Path, told: dict[str, Any], expected: dict[str, Any]) -> None:
    (folder / "generation_config.json").write_text(json.dumps(told), "utf-8")
    with Runtime.load(folder, kv_cache_mb=16, generation_config="model", progress=False) as runtime:
        request = ChatRequest.parse({"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]})
        assert runtime.sampling(request) == request.sampling().model_copy(update=expected)


@pytest.mark.parametrize("told", [{"temperature": 3}, {"top_p": "0.9"}, {"top_k": -1}, {"repetition_penalty": 0}], ids=str)
def test_what_could_not_be_asked_for_is_told_of_the_file(folder: Path, told: dict[str, Any]) -> None:
    (folder / "generation_config.json").write_text(json.dumps(told), "utf-8")
    with pytest.raises(InvalidModelFile, match=f"generation_config.json: {min(told)}"):
        Runtime.load(folder, kv_cache_mb=16, generation_config="model", progress=False)
    Runtime.load(folder, kv_cache_mb=16, progress=False).close()


def test_there_is_one_other_choice() -> None:
    with pytest.raises(InvalidParameter, match="generation_config"):
        Runtime.load(generation_config="vllm")  # type: ignore[arg-type]
