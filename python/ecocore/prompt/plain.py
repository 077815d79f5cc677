"""From a text or token ids to a prompt, without a template: what the older completions endpoint asks for."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ecocore._core import Tokenizer
from ecocore.errors import ContextLengthExceeded, InvalidParameter
from ecocore.prompt.prompt import Prompt
from ecocore.request import ChatRequest


class PlainPrompts:
    """Builds plain prompts for one model. Holds no state of a request; safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, *, start_ids: Sequence[int], context_length: int, vocab_size: int) -> None:
        """`start_ids`: what the model begins every text with."""
        self.start_ids: Final = tuple(start_ids)
        self._tokenizer = tokenizer
        self._context_length = context_length
        self._vocab_size = vocab_size

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of a text, with the start tokens before them if asked."""
        return [*(self.start_ids if add_special_tokens else ()), *self._tokenizer.encode(text)]

    def build(self, prompt: str | Sequence[int], request: ChatRequest, *, scores: bool = False) -> Prompt:
        """A prompt that `request` goes on from; its messages are not looked at. A text begins with the start tokens.

        `scores`: the log-probabilities of the prompt's own tokens are wanted too.

        Raises InvalidParameter("prompt"), InvalidParameter("logit_bias"), ContextLengthExceeded("prompt").
        """
        ids = self.encode(prompt, add_special_tokens=True) if isinstance(prompt, str) else prompt
        if not ids:
            raise InvalidParameter("prompt", "must hold at least one token", "invalid_value")
        self._check_ids("prompt", max(ids))
        self._check_ids("logit_bias", max(request.logit_bias, default=0))
        self._check_ids("stop_token_ids", max(request.stop_token_ids, default=0))
        remaining = self._context_length - len(ids)
        if remaining < 1:
            raise ContextLengthExceeded(
                "prompt",
                f"this prompt has {len(ids)} tokens, the model's context is {self._context_length} "
                "and the answer needs at least one: shorten it",
            )
        return Prompt(
            token_ids=np.asarray(ids, dtype=np.uint32),
            max_tokens=min(request.token_limit or remaining, remaining),
            scores=scores,
            cache_salt=(request.cache_salt or "").encode(),
        )

    def _check_ids(self, field: str, highest: int) -> None:
        if highest >= self._vocab_size:
            raise InvalidParameter(field, f"token id {highest} is outside the vocabulary of {self._vocab_size}", "invalid_value")
