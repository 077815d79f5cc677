"""A model without weights: readable text at a set rate, for tests and front-end benchmarks. Needs no torch."""

import time

import numpy as np
from numpy.typing import NDArray

from ecocore._core import Batch, mock_logits


class MockModel:
    """Gives logits of a byte vocabulary that spell an endless text.

    `tokens_per_second`: pace of each stream; 0 runs as fast as it can.
    """

    def __init__(self, vocab_size: int, *, max_sequences: int, tokens_per_second: float = 0.0) -> None:
        self._logits = np.zeros((max_sequences, vocab_size), np.float32)
        self._period = 1.0 / tokens_per_second if tokens_per_second > 0 else 0.0
        self._next = 0.0

    def forward(self, batch: Batch) -> NDArray[np.float32]:
        """Logits (batch.num_logits, vocab_size); the array is reused by the next step."""
        if batch.num_logits > len(self._logits):
            # Scoring a prompt takes a row for each of its tokens.
            self._logits = np.zeros((batch.num_logits, self._logits.shape[1]), np.float32)
        logits = self._logits[: batch.num_logits]
        mock_logits(batch, logits)
        self._keep_pace()
        return logits

    def _keep_pace(self) -> None:
        if not self._period:
            return
        now = time.monotonic()
        # After an idle time the pace starts anew instead of catching up.
        self._next = max(self._next + self._period, now)
        time.sleep(self._next - now)
