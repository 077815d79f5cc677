"""Prompts whose tokens are scored: every position is told once, as numpy's log-softmax of the raw logits has it."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecocore._core import Batch, OutputStreams, Scheduler, Tokenizer
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import BatchSampler

VOCAB = 257


def logits_of(batch: Batch) -> NDArray[np.float32]:
    """Random, but a function of the token and its position alone."""
    rows = [(int(batch.token_ids[index]), int(batch.positions[index])) for index in batch.sample_indices]
    made = [np.random.default_rng((token + 1, position)).normal(0, 4, VOCAB) for token, position in rows]
    return np.array(made, np.float32).reshape(len(rows), VOCAB)


def expected(prompt: NDArray[np.uint32]) -> list[tuple[int, float]]:
    """Every token but the first with its log-probability."""
    told = []
    for position, (token, following) in enumerate(pairwise(prompt)):
        row = np.random.default_rng((int(token) + 1, position)).normal(0, 4, VOCAB).astype(np.float32).astype(np.float64)
        row -= row.max()
        told.append((int(following), float(row[following] - np.log(np.exp(row).sum()))))
    return told


def run(
    prompts: list[NDArray[np.uint32]], scored: set[int], *, num_blocks: int, **fields: Any
) -> tuple[dict[int, Any], dict[str, int]]:
    """What is told of each prompt, and the scheduler's counts at the end."""
    scheduler = Scheduler(num_blocks=num_blocks, block_size=4, max_sequences=8, max_batch_tokens=16)
    sampler, outputs = BatchSampler(VOCAB), OutputStreams(Tokenizer.bytes_only())
    for number, prompt in enumerate(prompts):
        params = SamplingParams(temperature=0, logprobs=True, **fields)
        outputs.open(number, request_id=number, choice=0, prompt_tokens=len(prompt), max_tokens=12, logprobs=True)
        sampler.open(number, params, 0, 0, prompt)
        scheduler.submit(number, prompt, 12, b"", number in scored)
    told: dict[int, Any] = {}
    while (batch := scheduler.schedule()) is not None:
        logits = logits_of(batch)
        assert len(logits) == batch.num_logits >= batch.num_samples
        tokens = sampler.sample(logits, sampler.prepare(batch))
        events = outputs.push(batch, tokens)
        scheduler.commit(batch, tokens, events.finished_sequences)
        scheduler.check_integrity()
        for row in events.rows():
            if row.kind == "prompt":
                told.setdefault(row.request_id, []).extend(row.logprobs)
    return told, scheduler.stats()


def prompt_of(length: int, seed: int) -> NDArray[np.uint32]:
    return np.random.default_rng(seed).integers(0, 256, length).astype(np.uint32)


@pytest.mark.parametrize("length", [1, 2, 4, 5, 16, 17, 53])
@pytest.mark.parametrize("top_logprobs", [0, 3])
def test_scores_are_the_raw_log_probabilities(length: int, top_logprobs: int) -> None:
    prompt = prompt_of(length, length)
    bent: dict[str, Any] = {"logit_bias": {5: 100.0}, "frequency_penalty": 2.0, "top_logprobs": top_logprobs}
    told, _ = run([prompt], {0}, num_blocks=32, **bent)
    first, *rest = told[0]
    assert (first[0], first[1], first[3]) == (prompt[0], bytes([prompt[0]]), [])
    assert np.isnan(first[2])
    assert [entry[0] for entry in rest] == [token for token, _ in expected(prompt)]
    np.testing.assert_allclose([entry[2] for entry in rest], [logprob for _, logprob in expected(prompt)], atol=1e-5)
    assert all(len(entry[3]) == top_logprobs for entry in rest)


def test_a_known_prefix_is_scored_anew_and_neighbours_are_left_alone() -> None:
    prompt = prompt_of(40, 1)
    told, stats = run([prompt, prompt, prompt], {0, 2}, num_blocks=64)
    assert told.keys() == {0, 2}
    assert told[0][1:] == told[2][1:]
    assert len(told[0]) == 40
    # Only the one in the middle may take from the cache, and never its last block.
    assert 0 < stats["prefix_hits"] <= 36


def test_a_preempted_sequence_tells_its_scores_once() -> None:
    prompts = [prompt_of(18, seed) for seed in range(3)]
    told, stats = run(prompts, {0, 1, 2}, num_blocks=16)
    assert stats["preemptions"] > 0
    for number, prompt in enumerate(prompts):
        assert [entry[0] for entry in told[number]] == prompt.tolist()
