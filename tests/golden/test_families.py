"""Each family against transformers, live: prompts, 24 greedy tokens, log-probabilities.

Embedded and over HTTP; in company, in chunks, from the cache and alone; text, tools, results, images.
"""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.golden.known import Known, Knows
from tests.golden.tiny_models import ALL
from tests.live_server import Live, serving

from ecocore import capacity as capacity_module
from ecocore.capacity import Capacity
from ecocore.completion import Completion
from ecocore.model.kv_groups import BLOCK_SIZE
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime

# Of a prompt, in one step.
CHUNK = BLOCK_SIZE
WIDTH = 16
PATIENCE_SECONDS = 120


@dataclass
class Pair:
    """A checkpoint with both of its readers."""

    known: Known
    runtime: Runtime


@pytest.fixture(scope="module", params=list(ALL))
def pair(request: pytest.FixtureRequest, known: Knows) -> Iterator[Pair]:
    model = known(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capacity_module, "PROMPT_TOKENS", CHUNK)
        with Runtime.load(model.folder, kv_cache_mb=64, capacity=Capacity(running=WIDTH), progress=False) as runtime:
            yield Pair(model, runtime)


def test_no_reference_is_a_tie(pair: Pair) -> None:
    pair.known.refuse_ties()


def test_prompts_are_those_of_transformers(pair: Pair) -> None:
    for name, reference in pair.known.references.items():
        request = ChatRequest.parse({"model": "tiny", **pair.known.ask(name)})
        assert pair.runtime._prepare_whole(request).token_ids.tolist() == reference.prompt_ids, name


def test_answers_are_those_of_transformers_in_company_in_chunks_and_from_the_cache(pair: Pair) -> None:
    names = list(pair.known.cases)
    asked = {name: pair.known.ask(name) for name in names}

    async def together() -> list[Completion]:
        return await asyncio.gather(*(pair.runtime.achat(**asked[name]) for name in names))

    crowd = dict(zip(names, asyncio.run(together()), strict=True))
    for name in names:
        pair.known.check(crowd[name], name)
    before = pair.runtime.stats()["prefix_hits"]
    for name in names:
        assert pair.runtime.chat(**asked[name]).logprobs == crowd[name].logprobs, name
    assert pair.runtime.stats()["prefix_hits"] > before
    assert max(len(reference.prompt_ids) for reference in pair.known.references.values()) > 4 * (CHUNK + WIDTH)


def test_so_are_answers_over_http_all_at_once_and_streamed_from_the_cache(pair: Pair, tmp_path: Path) -> None:
    names = list(pair.known.cases)
    with serving(tmp_path, model=pair.runtime) as live, live.http() as http, ThreadPoolExecutor(len(names)) as pool:
        http.timeout = httpx.Timeout(PATIENCE_SECONDS)
        first = list(pool.map(lambda name: whole(live, http, pair.known.ask(name)), names))
        again = list(pool.map(lambda name: streamed(live, http, pair.known.ask(name)), names))
    for name, (choice, usage), (joined, cached) in zip(names, first, again, strict=True):
        pair.known.check_told(choice, usage, name)
        assert joined == choice, name
        details = cached.pop("prompt_tokens_details"), usage.pop("prompt_tokens_details")
        assert cached == usage, name
        # The last token is always computed, and so is all that a window no longer reaches back to.
        if usage["prompt_tokens"] > BLOCK_SIZE:
            assert details[0]["cached_tokens"] > 0, name


def whole(live: Live, http: httpx.Client, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The choice and the usage."""
    response = http.post("/v1/chat/completions", json={"model": live.runtime.model_id, **asked})
    assert response.status_code == 200, response.text
    told = response.json()
    (choice,) = told["choices"]
    return choice, told["usage"]


def streamed(live: Live, http: httpx.Client, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same from a stream."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    said, reason = "", None
    tokens: list[dict[str, Any]] = []
    usage: dict[str, Any] = {}
    with http.stream("POST", "/v1/chat/completions", json={"model": live.runtime.model_id, **asked, **options}) as response:
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            usage = chunk["usage"] or usage
            for choice in chunk["choices"]:
                said += choice["delta"].get("content") or ""
                tokens += (choice["logprobs"] or {}).get("content") or []
                reason = choice["finish_reason"] or reason
    message = {"role": "assistant", "content": said, "refusal": None}
    return {"index": 0, "message": message, "logprobs": {"content": tokens, "refusal": None}, "finish_reason": reason}, usage
