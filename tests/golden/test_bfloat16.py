"""How far bfloat16 is from float32 where weights are as calm as trained ones: the same tokens are put to both.

The random weights of the other cases make every part of a model matter, and blow every rounding up with it.
"""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.golden.cases import TEXT
from tests.golden.tiny_models import MODELS, TOP, TinyCheckpoint

from ecocore._core import EventBatch
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime

WITHIN = 0.05
STEPS = 24
FAMILIES = ("llama3 tied", "qwen2 tied", "gemma4 text sharded")

# Of each position the likeliest tokens with their log-probabilities.
Scores = list[dict[int, float]]


def ask(**fields: Any) -> ChatRequest:
    return ChatRequest.parse({"model": "tiny", "messages": [{"role": "user", "content": ""}], "logprobs": True, **fields})


def scores(runtime: Runtime, token_ids: list[int], *, top: int) -> Scores:
    """What the model says at each place of a text that it is given, after the first."""
    request, request_id = ask(max_tokens=1, top_logprobs=top), runtime.new_request_id()
    told: Scores = []
    ended = threading.Event()

    def hear(events: EventBatch) -> None:
        for row in events.rows():
            if row.kind == "prompt":
                told.extend({one: logprob for one, _, logprob in likeliest} for _, _, _, likeliest in row.logprobs)
            elif row.kind == "finished":
                ended.set()

    unsubscribe = runtime.subscribe(hear)
    runtime.submit(runtime.plain.build(token_ids, request, scores=True), request.sampling(), request_id=request_id)
    assert ended.wait(60)
    unsubscribe()
    # Nothing is said of the first token.
    assert not told[0]
    return told[1:]


def p99(exact: Scores, other: Scores) -> float:
    """Of the differences in log-probability, over the likeliest tokens of each place."""
    pairs = zip(exact, other, strict=True)
    apart = [abs(logprob - theirs[one]) for likeliest, theirs in pairs for one, logprob in likeliest.items()]
    return float(torch.tensor(apart).quantile(0.99))


@torch.no_grad()
def transformers_scores(checkpoint: TinyCheckpoint, token_ids: list[int]) -> Scores:
    """The same from transformers in bfloat16."""
    logits = checkpoint.model.to(torch.bfloat16)(torch.tensor([token_ids])).logits[0, :-1].float()
    return [dict(enumerate(row)) for row in logits.log_softmax(-1).tolist()]


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_stays_near_float32(
    name: str, tmp_path_factory: pytest.TempPathFactory, record_property: Callable[[str, object], None]
) -> None:
    checkpoint = TinyCheckpoint(replace(MODELS[name], calm=True), tmp_path_factory.mktemp("calm"))
    prompts = [checkpoint.prompt_ids(case) for case in TEXT.values()]
    bias = {str(token_id): -100 for token_id in checkpoint.banned}
    greedy: dict[str, Any] = {"max_tokens": STEPS, "temperature": 0, "ignore_eos": True, "logprobs": True, "logit_bias": bias}
    with Runtime.load(checkpoint.folder, precision="exact", kv_cache_mb=16, progress=False) as exact:
        drawn = [exact.chat(**case.asked(), **greedy).logprobs for case in TEXT.values()]
        texts = [ids + [token.token_id for token in answer] for ids, answer in zip(prompts, drawn, strict=True)]
        right = [one for ids in texts for one in scores(exact, ids, top=TOP)]
    with Runtime.load(checkpoint.folder, precision="fast", kv_cache_mb=16, progress=False) as fast:
        ours = [one for ids in texts for one in scores(fast, ids, top=4 * TOP)]
    theirs = [one for ids in texts for one in transformers_scores(checkpoint, ids)]
    assert len(right) == sum(len(ids) - 1 for ids in texts)
    # Neither sure of everything nor of nothing, as trained models are.
    sureness = torch.tensor([max(likeliest.values()) for likeliest in right]).exp()
    assert 0.1 < float(sureness.mean()) < 0.9
    told = {"ours": p99(right, ours), "transformers": p99(right, theirs)}
    record_property("p99", told)
    assert 0 < told["ours"] <= WITHIN, told
