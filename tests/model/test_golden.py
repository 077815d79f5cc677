"""The embedded model against transformers: the same greedy tokens, alone and in any company."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.golden.prompts import PROMPTS, TIE_MARGIN, TOKENS
from tests.model.driver import Driver, Line, runner_of

from ecocore.model.runner import ModelRunner
from ecocore.weights.checkpoint import open_checkpoint
from ecocore.weights.embedded import embedded_model_path

pytestmark = pytest.mark.weights

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "golden/smollm2_greedy.json").read_text("utf-8"))["cases"]
BY_NAME = {case["name"]: case for case in CASES}
WHOLE = ("count", "chinese", "long")


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return runner_of(open_checkpoint(embedded_model_path()), kv_cache_bytes=256 * 2**20, block_size=64)


@pytest.fixture(scope="module")
def crowd(runner: ModelRunner) -> dict[str, tuple[Line, list[torch.Tensor]]]:
    """All prompts decoded together: each line with its logits."""
    lines = [Line.of(case["prompt_ids"]) for case in CASES]
    logits = Driver(runner, seed=1).greedy(lines, TOKENS, chunk=256)
    return {case["name"]: (line, own) for case, line, own in zip(CASES, lines, logits, strict=True)}


def same_bits(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def test_the_recording_is_of_these_prompts_and_has_no_ties() -> None:
    assert list(BY_NAME) == list(PROMPTS)
    assert len(CASES) == 20
    assert min(min(case["margins"]) for case in CASES) >= TIE_MARGIN
    assert max(len(case["prompt_ids"]) for case in CASES) > 600


def test_a_batch_of_all_prompts_gives_the_tokens_of_transformers(crowd: dict[str, tuple[Line, list[torch.Tensor]]]) -> None:
    for case in CASES:
        line, _ = crowd[case["name"]]
        assert line.token_ids[line.prompt_length :] == case["token_ids"], case["name"]


def test_log_probabilities_agree_with_transformers(crowd: dict[str, tuple[Line, list[torch.Tensor]]]) -> None:
    for case in CASES:
        logprobs = torch.stack(crowd[case["name"]][1]).log_softmax(-1).amax(-1)
        torch.testing.assert_close(logprobs, torch.tensor(case["logprobs"]), rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", list(PROMPTS))
def test_a_prompt_alone_gives_the_same_bits_as_in_the_crowd(
    runner: ModelRunner, crowd: dict[str, tuple[Line, list[torch.Tensor]]], name: str
) -> None:
    count = TOKENS if name in WHOLE else 8
    line = Line.of(BY_NAME[name]["prompt_ids"])
    logits = Driver(runner).greedy([line], count)[0]
    assert line.token_ids[line.prompt_length :] == BY_NAME[name]["token_ids"][:count]
    assert same_bits(logits, crowd[name][1][:count])


def test_chunks_prefix_hits_and_recomputation_change_no_bit(
    runner: ModelRunner, crowd: dict[str, tuple[Line, list[torch.Tensor]]]
) -> None:
    whole, logits = crowd["long"]
    driver, chunked = Driver(runner, seed=2), Line.of(whole.token_ids[: whole.prompt_length])
    assert same_bits(driver.greedy([chunked], 2, chunk=64)[0], logits[:2])
    hit = Line.of(whole.token_ids[: whole.prompt_length])
    hit.blocks = chunked.blocks[:8]
    assert torch.equal(driver.step(hit.part(512, hit.prompt_length))[0], logits[0])
    recomputed = Line(whole.token_ids[:-1], whole.prompt_length)
    other = Line.of(BY_NAME["poem"]["prompt_ids"])
    assert torch.equal(driver.step(other.prompt, recomputed.part(0, len(recomputed.token_ids)))[1], logits[-1])
