"""A model-free engine: random logits through the scheduler and the sampler, until every answer has ended."""

from collections.abc import Mapping, Sequence
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
        self.preemptions = 0
        self.drawn: dict[int, list[int]] = {}
        self._bias = np.zeros(vocab_size, np.float32)
        self._bias[list(end_ids)] = hurry
        for token in range(tokenizer.vocab_size):
            word = _bytes(tokenizer, token)
            if word.strip()[:1] in (b'"', b"}", b"]", b"<") or word == b",":
                self._bias[token] = hurry

    def favor(self, characters: str, bias: float) -> None:
        """Adds `bias` to the tokens that are one of the characters."""
        for token in range(self.tokenizer.vocab_size):
            if _bytes(self.tokenizer, token).decode(errors="replace") in set(characters):
                self._bias[token] += bias

    def answers(self, grammar: _core.Grammar | None, *, count: int = 1, **options: Any) -> list[list[int]]:
        """The drawn ids of `count` sequences that run together, end token included; options of `run`."""
        ends = self.run(dict.fromkeys(range(count), grammar), **options)
        assert all(end == "finished" for end in ends.values()), ends
        return [self.drawn[sequence] for sequence in range(count)]

    def run(
        self,
        grammars: Mapping[int, _core.Grammar | None],
        *,
        seed: int = 0,
        max_tokens: int = 3000,
        num_blocks: int | None = None,
        params: SamplingParams | None = None,
        forced: Sequence[int] = (),
        **open_options: Any,
    ) -> dict[int, str]:
        """Runs one sequence for each grammar until all have ended, and tells by which event each did.

        Few `num_blocks` (of 64 tokens) make the scheduler preempt some of them. `forced`: what is drawn first, if
        the grammar allows it. `open_options` are the sampler's.
        """
        count = len(grammars)
        enough = 4 + count * (max_tokens // 64 + 2)
        scheduler = _core.Scheduler(num_blocks=num_blocks or enough, max_sequences=count, prefix_caching=False)
        sampler, outputs = BatchSampler(len(self._bias)), _core.OutputStreams(self.tokenizer)
        prompt = np.array([1], np.uint32)
        drawn = self.drawn = {sequence: [] for sequence in grammars}
        ends: dict[int, str] = {}
        for sequence, grammar in grammars.items():
            outputs.open(
                sequence, request_id=0, choice=sequence, prompt_tokens=1, max_tokens=max_tokens, stop=(), end_ids=self.end_ids
            )
            own = params or SamplingParams()
            sampler.open(sequence, own, seed + sequence, 0, prompt, grammar=grammar, **open_options)
            scheduler.submit(sequence, prompt, max_tokens)
        while (batch := scheduler.schedule()) is not None:
            last = np.cumsum(batch.lengths) - 1
            sampled = batch.sequence_ids[np.isin(last, batch.sample_indices)].tolist()
            logits = np.zeros((len(sampled), len(self._bias)), np.float32)
            for row, sequence in zip(logits, sampled, strict=True):
                position = len(drawn[sequence])
                row[:] = self.logits(seed + sequence, position)
                if position < len(forced):
                    row[forced[position]] += 1000
            tokens = sampler.sample(logits, sampler.prepare(batch))
            for sequence, token in zip(sampled, tokens.token_ids.tolist(), strict=True):
                drawn[sequence].append(token)
            events = outputs.push(batch, tokens)
            ends |= {event.choice: event.kind for event in events.rows() if event.kind != "text"}
            scheduler.commit(batch, tokens, events.finished_sequences)
        self.preemptions = scheduler.stats()["preemptions"]
        return ends

    def logits(self, seed: int, position: int) -> NDArray[np.float32]:
        rng = np.random.default_rng((seed, position))
        noise: NDArray[np.float32] = rng.standard_normal(len(self._bias), np.float32)
        return noise * 2 + self._bias

    def texts(self, grammar: _core.Grammar | None, **options: Any) -> list[str]:
        """The answers as text; each must have ended with one end token."""
        return [self.text(ids) for ids in self.answers(grammar, **options)]

    def forced(self, grammar: _core.Grammar, start: Sequence[int]) -> str:
        """The answer that begins with the tokens `start` as far as the grammar allows."""
        return self.text(self.answers(grammar, forced=start)[0])

    def text(self, ids: list[int]) -> str:
        *words, end = ids
        assert end in self.end_ids, f"not ended after {len(ids)} tokens: {self.tokenizer.decode(ids)[-200:]}"
        return b"".join(_bytes(self.tokenizer, token) for token in words).decode()


def _bytes(tokenizer: _core.Tokenizer, token: int) -> bytes:
    return tokenizer.token_bytes(token)
