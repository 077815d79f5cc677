"""What transformers says to every case of a tiny checkpoint. Made once for all tests, since it is what takes their time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import pytest
from tests.golden.cases import Case
from tests.golden.tiny_models import ALL, STEPS, TIE, TOP, Reference, TinyCheckpoint

from ecocore.completion import Completion

TOLERANCE: Final = 2e-3


@dataclass(frozen=True)
class Known:
    """A checkpoint with its cases, and transformers' answers to them."""

    checkpoint: TinyCheckpoint
    cases: Mapping[str, Case]
    references: Mapping[str, Reference]

    @classmethod
    def of(cls, checkpoint: TinyCheckpoint, cases: Mapping[str, Case]) -> Self:
        """Asks transformers, with the weights that its copy has by now."""
        return cls(checkpoint, cases, {name: checkpoint.answer(case) for name, case in cases.items()})

    @property
    def folder(self) -> Path:
        return self.checkpoint.folder

    def refuse_ties(self) -> None:
        """Whether every answer can tell right from wrong."""
        for name, reference in self.references.items():
            assert reference.margin > TIE, f"{name}: {reference.margin}; choose another seed"
            assert len(set(reference.token_ids)) > 3, name

    def ask(self, name: str) -> dict[str, Any]:
        """The parameters that make ecocore answer as the reference does."""
        asked = {"max_tokens": STEPS, "temperature": 0, "logprobs": True, "top_logprobs": TOP, "ignore_eos": True}
        bias = {str(token_id): -100 for token_id in self.checkpoint.banned}
        return {**self.cases[name].asked(), "logit_bias": bias, **asked}

    def check(self, completion: Completion, name: str) -> None:
        """Whether it is the reference's answer."""
        reference, drawn = self.references[name], completion.logprobs
        assert [token.token_id for token in drawn] == reference.token_ids, name
        assert completion.usage.prompt_tokens == len(reference.prompt_ids)
        for step, (token, expected) in enumerate(zip(drawn, reference.top, strict=True)):
            ours = {one.token_id: one.logprob for one in token.top}
            # The last of them may be a tie with one that is not listed.
            for token_id in list(expected)[: TOP - 1]:
                assert abs(ours.get(token_id, float("-inf")) - expected[token_id]) < TOLERANCE, (name, step, token_id)

    def check_told(self, choice: Mapping[str, Any], usage: Mapping[str, Any], name: str) -> None:
        """The same for what came over HTTP, where tokens are told by their bytes."""
        reference, bytes_of = self.references[name], self.checkpoint.bytes_of
        told = choice["logprobs"]["content"]
        text = b"".join(bytes_of[token_id] for token_id in reference.token_ids).decode()
        assert [bytes(token["bytes"]) for token in told] == [bytes_of[token_id] for token_id in reference.token_ids], name
        assert (choice["message"]["content"], choice["finish_reason"]) == (text, "length"), name
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (len(reference.prompt_ids), STEPS), name
        for step, (token, expected) in enumerate(zip(told, reference.top, strict=True)):
            assert len(token["top_logprobs"]) == TOP
            for token_id in list(expected)[: TOP - 1]:
                # Several tokens may have the same bytes.
                same = [
                    one["logprob"] for one in token["top_logprobs"] if bytes(one["bytes"] or []) == bytes_of.get(token_id, b"")
                ]
                assert any(abs(logprob - expected[token_id]) < TOLERANCE for logprob in same), (name, step, token_id)


Knows = Callable[[str], Known]


def knowing(root: pytest.TempPathFactory) -> Knows:
    """Gives what is known of a model by its name, and remembers it."""
    remembered: dict[str, Known] = {}

    def known(name: str) -> Known:
        if name not in remembered:
            model = ALL[name]
            remembered[name] = Known.of(TinyCheckpoint(model, root.mktemp("tiny")), model.cases)
        return remembered[name]

    return known
