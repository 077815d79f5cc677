"""What a model can take, and a prompt that fits it, however its token ids were made."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecocore.errors import ContextLengthExceeded, InvalidParameter
from ecocore.prompt.prompt import Prompt
from ecocore.request import ChatRequest


@dataclass(frozen=True, slots=True)
class Bounds:
    """Tokens that prompt and answer may have together, and how many token ids there are."""

    context_length: int
    vocab_size: int

    def check(self, request: ChatRequest) -> None:
        """Judges every field that names token ids. Raises InvalidParameter("logit_bias"), ("stop_token_ids")."""
        self.check_ids("logit_bias", request.logit_bias)
        self.check_ids("stop_token_ids", request.stop_token_ids)

    def check_ids(self, field: str, ids: Collection[int]) -> None:
        """Raises InvalidParameter(field) for an id that the model does not have."""
        for token_id in (min(ids, default=0), max(ids, default=0)):
            if not 0 <= token_id < self.vocab_size:
                raise InvalidParameter(
                    field, f"token id {token_id} is outside the vocabulary of {self.vocab_size}", "invalid_value"
                )

    def fitted(
        self, token_ids: Sequence[int] | NDArray[np.uint32], request: ChatRequest, *, field: str, scores: bool = False
    ) -> Prompt:
        """The prompt, its answer clamped to what remains of the context. `field`: where the ids come from.

        `scores`: as in `Prompt`.
        Raises InvalidParameter(field) for no ids at all, ContextLengthExceeded(field).
        """
        if not len(token_ids):
            raise InvalidParameter(field, "must hold at least one token", "invalid_value")
        remaining = self.context_length - len(token_ids)
        if remaining < 1:
            raise ContextLengthExceeded(
                field,
                f"{len(token_ids)} tokens are too many: the context here is {self.context_length} "
                "and the answer needs at least one; shorten it",
            )
        return Prompt(
            token_ids=np.asarray(token_ids, dtype=np.uint32),
            max_tokens=min(request.token_limit or remaining, remaining),
            cache_salt=(request.cache_salt or "").encode(),
            scores=scores,
        )
