"""A model-free engine: random logits through the scheduler and the sampler, until every answer has ended."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecocore import _core
from ecocore.request import SamplingParams
from ecocore.sampling.sampler import BatchSampler


class Drawing:
    """Draws answers whose logits depend on the sequence's seed and the position alone.

    Random text would hardly ever close a string: `hurry` is added to the logits of tokens that close something and
    of the end tokens.
    """

    def __init__(self, tokenizer: _core.Tokenizer, vocab_size: int, end_ids: Sequence[int], *, hurry: float) -> None:
        self.tokenizer = tokenizer
        self.end_ids = tuple(end_ids)
        self._bias = np.zeros(vocab_size, np.float32)
        self._bias[list(end_ids)] = hurry
        for token in range(tokenizer.vocab_size):
            word = _bytes(tokenizer, token)
            if word.strip()[:1] in (b'"', b"}", b"]", b"<") or word == b",":
                self._bias[token] = hurry

    def answers(
        self, grammar: _core.Grammar | None, *, count: int = 1, seed: int = 0, max_tokens: int = 3000, **open_options: Any
    ) -> list[list[int]]:
        """The drawn ids of `count` sequences that run together, end token included."""
        scheduler = _core.Scheduler(num_blocks=4 + count * (max_tokens // 64 + 2), max_sequences=count)
        sampler = BatchSampler(len(self._bias))
        outputs = _core.OutputStreams(self.tokenizer)
        prompt = np.array([1], np.uint32)
        drawn: list[list[int]] = [[] for _ in range(count)]
        for sequence in range(count):
            outputs.open(
                sequence, request_id=0, choice=sequence, prompt_tokens=1, max_tokens=max_tokens, stop=(), end_ids=self.end_ids
            )
            sampler.open(sequence, SamplingParams(), seed + sequence, 0, prompt, grammar=grammar, **open_options)
            scheduler.submit(sequence, prompt, max_tokens)
        while (batch := scheduler.schedule()) is not None:
            logits = np.stack([self.logits(seed + row, len(drawn[row])) for row in batch.sequence_ids.tolist()])
            tokens = sampler.sample(logits, sampler.prepare(batch))
            assert not tokens.failed
            for sequence, token in zip(tokens.sequence_ids.tolist(), tokens.token_ids.tolist(), strict=True):
                drawn[sequence].append(token)
            scheduler.commit(batch, tokens, outputs.push(batch, tokens, scheduler))
        return drawn

    def logits(self, seed: int, position: int) -> NDArray[np.float32]:
        rng = np.random.default_rng((seed, position))
        noise: NDArray[np.float32] = rng.standard_normal(len(self._bias), np.float32)
        return noise * 2 + self._bias

    def texts(self, grammar: _core.Grammar | None, **options: Any) -> list[str]:
        """The answers as text; each must have ended with one end token."""
        return [self.text(ids) for ids in self.answers(grammar, **options)]

    def text(self, ids: list[int]) -> str:
        *words, end = ids
        assert end in self.end_ids, f"not ended after {len(ids)} tokens: {self.tokenizer.decode(ids)[-200:]}"
        return b"".join(_bytes(self.tokenizer, token) for token in words).decode()


def _bytes(tokenizer: _core.Tokenizer, token: int) -> bytes:
    return tokenizer.token_bytes(token)
