"""Each family against transformers, live: prompts, 24 greedy tokens, log-probabilities; in company, in chunks, from the cache."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.golden.tiny_models import MODELS, STEPS, TIE, TOP, Reference, TinyCheckpoint
from tests.golden.tiny_templates import TEXT, TOOLS, WEATHER

from ecocore.completion import Completion
from ecocore.prompt.prompt import AnswerForm
from ecocore.request import ChatRequest
from ecocore.runtime import Runtime

TOLERANCE = 2e-3
ASKED: dict[str, Any] = {"max_tokens": STEPS, "temperature": 0, "logprobs": True, "top_logprobs": TOP, "ignore_eos": True}


@dataclass
class Pair:
    """A checkpoint with both of its readers, and what transformers says to each conversation."""

    runtime: Runtime
    references: dict[str, Reference]
    banned: list[int]

    def ask(self, name: str) -> dict[str, Any]:
        conversation, tools = conversations(tools=True)[name]
        asked = {"messages": conversation, "logit_bias": {str(token_id): -100 for token_id in self.banned}, **ASKED}
        return asked | ({"tools": tools} if tools else {})


def conversations(*, tools: bool) -> dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]]:
    plain = {name: (messages, None) for name, messages in TEXT.items()}
    return plain | ({name: (messages, [WEATHER]) for name, messages in TOOLS.items()} if tools else {})


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    model = MODELS[request.param]
    checkpoint = TinyCheckpoint(model, tmp_path_factory.mktemp("tiny"))
    references = {name: checkpoint.answer(*asked) for name, asked in conversations(tools=model.tools).items()}
    with pytest.MonkeyPatch.context() as patch, Runtime.load(checkpoint.folder, kv_cache_mb=16, progress=False) as runtime:
        # Under a grammar of calls even plain text must be whole characters, which random weights do not write.
        patch.setattr(runtime, "_form", lambda _: AnswerForm())
        yield Pair(runtime, references, checkpoint.banned)


def check(completion: Completion, reference: Reference, name: str) -> None:
    drawn = completion.logprobs
    assert [token.token_id for token in drawn] == reference.token_ids, name
    assert completion.usage.prompt_tokens == len(reference.prompt_ids)
    for step, (token, expected) in enumerate(zip(drawn, reference.top, strict=True)):
        ours = {one.token_id: one.logprob for one in token.top}
        # The last of them may be a tie with one that is not listed.
        for token_id in list(expected)[: TOP - 1]:
            assert abs(ours.get(token_id, float("-inf")) - expected[token_id]) < TOLERANCE, (name, step, token_id)


def test_no_reference_is_a_tie(pair: Pair) -> None:
    for name, reference in pair.references.items():
        assert reference.margin > TIE, f"{name}: {reference.margin}; choose another seed"
        assert len(set(reference.token_ids)) > 3, name


def test_prompts_are_those_of_transformers(pair: Pair) -> None:
    for name, reference in pair.references.items():
        request = ChatRequest.parse({"model": "tiny", **pair.ask(name)})
        assert pair.runtime.prepare(request).token_ids.tolist() == reference.prompt_ids, name


def test_answers_are_those_of_transformers_in_company_in_chunks_and_from_the_cache(pair: Pair) -> None:
    names = list(pair.references)
    asked = {name: pair.ask(name) for name in names}

    async def together() -> list[Completion]:
        return await asyncio.gather(*(pair.runtime.achat(**asked[name]) for name in names))

    crowd = dict(zip(names, asyncio.run(together()), strict=True))
    for name in names:
        check(crowd[name], pair.references[name], name)
    before = pair.runtime.stats()["prefix_hits"]
    for name in names:
        alone = pair.runtime.chat(**asked[name])
        check(alone, pair.references[name], name)
        assert alone.logprobs == crowd[name].logprobs, name
    assert pair.runtime.stats()["prefix_hits"] > before
    assert len(pair.references["long"].prompt_ids) > 512
