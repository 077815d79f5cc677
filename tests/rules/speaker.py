"""A model that says what it is told to, behind the real server: for answers that the mock engine's own text cannot give."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from tests.live_server import MODEL, serving
from tests.rules.conftest import Api

from ecocore._core import Batch
from ecocore.runtime import Runtime

END = 256


class Speaker:
    """Logits that spell `says` after any prompt and then the end token: 30 for that token, 0 for all others.

    So whatever a grammar forbids is replaced by noise. With nothing to say it is all noise that wants to end: at temperature 1
    every token that a grammar allows is as likely as any other, but for the end, which comes as soon as it may.
    `heard`: the last prompt, whole if its first 64 bytes were new to the prefix cache.
    """

    def __init__(self, vocab_size: int, **_: Any) -> None:
        self.says = b""
        self._vocab_size = vocab_size
        self._prompt: dict[int, int] = {}

    @property
    def heard(self) -> str:
        assert sorted(self._prompt) == list(range(len(self._prompt))), "the prefix cache gave a part of this prompt"
        return bytes(self._prompt[place] for place in sorted(self._prompt)).decode()

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        ends = np.cumsum(batch.lengths)
        drawing = np.isin(ends - 1, batch.sample_indices)
        self._listen(batch, ends)
        logits = np.zeros((batch.num_samples, self._vocab_size), np.float32)
        said = batch.positions[batch.sample_indices] + 1 - batch.prompt_lengths[drawing]
        for row, place in enumerate(said.tolist()):
            logits[row, self.says[place] if place < len(self.says) else END] = 30
        return logits

    def _listen(self, batch: Batch, ends: NDArray[np.int64]) -> None:
        prompts = np.repeat(batch.prompt_lengths, batch.lengths)
        told = zip(batch.positions.tolist(), batch.token_ids.tolist(), prompts.tolist(), strict=True)
        for place, token_id, length in told:
            if place == 0:
                self._prompt = {}
            if place < length:
                self._prompt[place] = token_id


@contextmanager
def speaking(folder: Path, **settings: Any) -> Iterator[tuple[Api, Speaker]]:
    """A server over a speaker that is otherwise the mock engine: its tokenizer, its template, its tool syntax."""
    made: list[Speaker] = []

    def make(vocab_size: int, **options: Any) -> Speaker:
        made.append(Speaker(vocab_size, **options))
        return made[0]

    with patch("ecocore.model.mock.MockModel", make):
        runtime = Runtime.mock(MODEL)
    with runtime, serving(folder, model=runtime, **settings) as live:
        api = Api(live)
        with api.client:
            yield api, made[0]
