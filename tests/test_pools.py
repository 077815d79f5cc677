"""A model some of whose layers keep only a window: what its sequences hold, and that the answers do not show it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.golden.tiny_models import MODELS, TinyCheckpoint

from ecocore.completion import Completion
from ecocore.runtime import Runtime

TALE = "The tide comes in, the tide goes out, and the harbour waits. "
ASKED: dict[str, Any] = {"seed": 7, "logprobs": True, "top_logprobs": 3, "ignore_eos": True}
# Blocks that a window of 70 shows, of 64 positions each, and one that is being begun.
RESTING = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyCheckpoint(MODELS["gemma4 text sharded"], tmp_path_factory.mktemp("tiny")).folder


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Runtime]:
    with Runtime.load(folder, kv_cache_mb=16, progress=False) as runtime:
        yield runtime


def held(runtime: Runtime) -> tuple[int, int]:
    """Blocks of layers that keep everything, and of layers with a window."""
    stats = runtime.stats()
    windowed = stats["windowed_total_blocks"] - stats["windowed_free_blocks"]
    return stats["total_blocks"] - stats["free_blocks"] - windowed, windowed


def test_only_layers_that_keep_everything_hold_all_of_a_long_answer(runtime: Runtime) -> None:
    seen: list[tuple[int, int]] = []
    leave = runtime.subscribe(lambda _: seen.append(held(runtime)))
    answer = runtime.chat(TALE * 12, max_tokens=300, **ASKED)
    leave()
    prompt, tokens = answer.usage.prompt_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert prompt > 400
    decoding = seen[2:-2]
    assert len(decoding) > 250
    assert decoding[0][0] <= -(-(prompt + 10) // 64)
    assert decoding[-1][0] >= tokens // 64
    assert max(windowed for _, windowed in decoding) <= RESTING
    assert held(runtime) == (0, 0)


def test_each_turn_of_a_long_conversation_finds_the_one_before(runtime: Runtime) -> None:
    messages: list[dict[str, Any]] = []
    before = 0
    for turn in range(4):
        messages.append({"role": "user", "content": f"{turn}: {TALE * 5}"})
        asked = {"max_tokens": 90, **ASKED}
        answer = runtime.chat(messages, **asked)
        cold = runtime.chat(messages, **asked, cache_salt=f"cold {turn}")
        assert (answer.text, answer.logprobs, cold.usage.cached_tokens) == (cold.text, cold.logprobs, 0)
        # All blocks of that prompt, but for what the template put behind it.
        assert answer.usage.cached_tokens >= max(0, before - 128)
        before = answer.usage.prompt_tokens
        messages.append({"role": "assistant", "content": "It waits."})
    assert before > 10 * 64


def test_a_crowd_that_gives_way_draws_what_each_draws_alone(folder: Path, runtime: Runtime) -> None:
    asked = [{"messages": TALE * (1 + number % 3) + str(number), "max_tokens": 90, **ASKED} for number in range(6)]

    async def together(small: Runtime) -> list[Completion]:
        return await asyncio.gather(*(small.achat(**one) for one in asked))

    with Runtime.load(folder, kv_cache_mb=1, progress=False) as small:
        assert small.context_length < 500
        crowd = asyncio.run(together(small))
        assert small.stats()["preemptions"] > 0
    for one, shared in zip(asked, crowd, strict=True):
        alone = runtime.chat(**one, cache_salt="alone")
        assert (alone.text, alone.logprobs) == (shared.text, shared.logprobs)
