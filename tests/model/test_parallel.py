"""A model that two processes share: the answers of one, the same bits in any company, and no rank that waits for a dead one."""

import asyncio
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from tests.golden.cases import IMAGES, TEXT
from tests.golden.converted import convert_gemma_decoder, convert_gemma_tower
from tests.golden.tiny_models import MODELS, SEEING, TinyCheckpoint, TinyModel, gemma4
from tests.live_server import serving
from transformers import (
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from ecocore.completion import Completion
from ecocore.errors import EngineFailure, InvalidConfiguration, InvalidParameter, RuntimeClosed
from ecocore.model import parallel
from ecocore.model.config import KvLayer
from ecocore.model.parallel import Group, ThreadShare
from ecocore.runtime import Runtime

TOLERANCE = 2e-3
# Below this gap in log-probability, sums that are added in another order may have another winner.
TIE = 1e-3
ASKED: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "logprobs": True, "top_logprobs": 5, "ignore_eos": True}
READ = {name: TEXT[name] for name in ("short", "long")}
SEEN = READ | {"one": IMAGES["one"]}


def llama(tokenizer: PreTrainedTokenizerFast) -> Any:
    """A tied head, a vocabulary and an MLP that two do not share evenly."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer) | 1,
            hidden_size=48,
            intermediate_size=99,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=2048,
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=True,
        )
    )


def gemma(tokenizer: PreTrainedTokenizerFast) -> Any:
    """Layers of two shapes, of which one has fewer keys than there are ranks; values that are keys; a tower."""
    whole = gemma4(tokenizer).config.to_dict()
    text = whole["text_config"]
    text.pop("per_layer_config", None)
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "num_global_key_value_heads": 1, "global_head_dim": 16}
    return Gemma4ForConditionalGeneration(Gemma4Config(**whole))


# In GGUF files, of which that of the part that sees is named.
FILES = "gemma4, gguf"
SHARED: dict[str, TinyModel] = {
    "llama": replace(MODELS["llama3 tied"], build=llama, cases=READ, shard_size="100KB"),
    "qwen2.5-vl": replace(SEEING["qwen2.5-vl"], cases=SEEN),
    FILES: replace(SEEING["gemma4"], build=gemma, cases=SEEN),
}


@dataclass
class Pair:
    """One checkpoint in one process and in two."""

    one: Runtime
    two: Runtime
    asked: dict[str, dict[str, Any]]


def load(model: Path, ranks: int, mmproj: Path | None = None) -> Runtime:
    return Runtime.load(model, mmproj=mmproj, kv_cache_mb=16, tensor_parallel=ranks, device="cpu", progress=False)


@pytest.fixture(scope="module", params=list(SHARED))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    model = SHARED[request.param]
    checkpoint = TinyCheckpoint(model, tmp_path_factory.mktemp("tiny"))
    bias = {str(token_id): -100 for token_id in checkpoint.banned}
    asked = {name: {**case.asked(), "logit_bias": bias, **ASKED} for name, case in model.cases.items()}
    path, mmproj = checkpoint.folder, None
    if request.param == FILES:
        (path / "mmproj-broken.gguf").write_text("what lies beside a model is not asked where another is named")
        mmproj = convert_gemma_tower(checkpoint, path / "tower.gguf")
        path = convert_gemma_decoder(checkpoint, path / "model.gguf")
    threads = torch.get_num_threads()
    with load(path, 2, mmproj) as two, load(path, 1, mmproj) as one:
        yield Pair(one, two, asked)
    assert torch.get_num_threads() == threads
    with pytest.raises(ProcessLookupError):
        os.kill(worker_of(two), 0)


def test_threads_are_shared_as_long_as_there_are_ranks() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        two, four = ThreadShare(2), ThreadShare(4)
        assert (two.threads, four.threads, torch.get_num_threads()) == (4, 2, 2)
        four.close()
        assert torch.get_num_threads() == 4
        four.close()
        two.close()
        assert torch.get_num_threads() == 8
        ThreadShare(99).close()
        assert torch.get_num_threads() == 8
    finally:
        torch.set_num_threads(before)


def test_two_processes_answer_as_one(pair: Pair) -> None:
    for name, asked in pair.asked.items():
        same = 0
        for one, two in zip(pair.one.chat(**asked).logprobs, pair.two.chat(**asked).logprobs, strict=True):
            theirs = {token.token_id: token.logprob for token in two.top}
            best, second = (token.logprob for token in one.top[:2])
            # The last of them may be a tie with one that is not listed.
            for token in one.top[:4]:
                assert abs(theirs.get(token.token_id, float("-inf")) - token.logprob) < TOLERANCE, name
            if one.token_id != two.token_id:
                assert best - second < TIE, name
                break
            same += 1
        assert same > 3, name


def test_company_changes_no_bit(pair: Pair) -> None:
    async def together() -> list[Completion]:
        return await asyncio.gather(*(pair.two.achat(**asked) for asked in pair.asked.values()))

    crowd = asyncio.run(together())
    for (name, asked), answer in zip(pair.asked.items(), crowd, strict=True):
        assert pair.two.chat(**asked).logprobs == answer.logprobs, name
    assert pair.two.stats()["prefix_hits"] > 0


def test_ranks_hold_as_many_tokens_and_have_a_fingerprint_of_their_own(pair: Pair) -> None:
    assert pair.one.fingerprint != pair.two.fingerprint
    assert pair.one.context_length == pair.two.context_length


# --- ranks that are lost -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyCheckpoint(SHARED["llama"], tmp_path_factory.mktemp("tiny")).folder


def worker_of(runtime: Runtime) -> int:
    assert runtime._workers is not None
    (process,) = runtime._workers._processes
    return process.pid


def test_a_killed_rank_ends_the_engine_and_the_server_says_so(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with load(folder, 2) as runtime, serving(tmp_path, model=runtime) as live:
        told = {"model": runtime.model_id, "max_tokens": 4, "ignore_eos": True}
        whole = live.chat(**told)
        assert whole.status_code == 200
        assert whole.json()["system_fingerprint"] == runtime.fingerprint
        assert httpx.get(f"{live.url}/ready").status_code == 200
        os.kill(worker_of(runtime), signal.SIGKILL)
        assert live.eventually(lambda: httpx.get(f"{live.url}/ready").status_code == 503, 10)
        assert "rank 1 of the model ended (SIGKILL); the engine ends" in caplog.text
        refused = live.chat(**told)
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "engine_error")
        with pytest.raises(RuntimeClosed):
            runtime.chat("hello")
        assert live.chat(**told).status_code == 503


def test_a_rank_that_is_killed_in_the_middle_fails_the_answer(folder: Path) -> None:
    with load(folder, 2) as runtime:
        events = runtime.stream("hello", max_tokens=1500, ignore_eos=True, temperature=0)
        next(iter(events))
        os.kill(worker_of(runtime), signal.SIGKILL)
        with pytest.raises(EngineFailure, match="the engine broke"):
            list(events)
        assert not runtime.is_alive


def test_a_rank_that_hangs_is_not_waited_for_without_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "PATIENCE", parallel.PATIENCE / 60)
    with load(folder, 2) as runtime:
        worker = worker_of(runtime)
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(EngineFailure, match="the engine broke"):
            runtime.chat("hello", max_tokens=4)
        assert not runtime.is_alive
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


# --- who has what ------------------------------------------------------------------------------------------


def test_heads_that_cannot_be_shared_are_refused_before_anything_is_started(tmp_path: Path) -> None:
    checkpoint = TinyCheckpoint(SEEING["gemma4"], tmp_path)
    with pytest.raises(InvalidConfiguration, match=r"2 processes .* 6 attention heads over 2 or 3 key-value heads; 6 can"):
        load(checkpoint.folder, 2)
    with pytest.raises(InvalidParameter, match="tensor_parallel: must be at least 1"):
        load(checkpoint.folder, 0)


def config(heads: int, *kv_heads: int) -> Any:
    return SimpleNamespace(num_heads=heads, kv_layers=tuple(KvLayer(count, 8) for count in kv_heads))


@pytest.mark.parametrize(
    ("size", "heads", "kv_heads", "shares"),
    [
        (2, 8, (4,), [(2,), (2,)]),
        (4, 8, (4, 2), [(1, 1)] * 4),
        (8, 8, (1,), [(1,)] * 8),
        (1, 9, (3,), [(3,)]),
    ],
)
def test_heads_are_shared_evenly(size: int, heads: int, kv_heads: Sequence[int], shares: Sequence[Sequence[int]]) -> None:
    for rank, share in enumerate(shares):
        layers = Group(rank, size).kv_layers(config(heads, *kv_heads))
        assert [layer.num_kv_heads for layer in layers] == list(share)


@pytest.mark.parametrize(("size", "heads", "kv_heads"), [(2, 9, 3), (2, 6, 3), (4, 8, 6), (16, 8, 8)])
def test_heads_that_are_odd_are_refused(size: int, heads: int, kv_heads: int) -> None:
    with pytest.raises(InvalidConfiguration, match=f"{size} processes cannot evenly share {heads} attention heads"):
        Group(0, size).kv_layers(config(heads, kv_heads))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_parts_are_the_whole(size: int) -> None:
    for units in (size, size + 1, 64, 99):
        assert [unit for rank in range(size) for unit in Group(rank, size).part(units)] == list(range(units))


def test_a_query_head_finds_its_keys_on_its_own_rank() -> None:
    for size, heads, kv_heads in ((4, 8, 2), (8, 16, 1), (2, 12, 4), (4, 16, 4)):
        for rank in range(size):
            group = Group(rank, size)
            assert {head * kv_heads // heads for head in group.part(heads)} == set(group.part(kv_heads))
