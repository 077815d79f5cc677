"""From a text or token ids to a prompt, without a template: what the older completions endpoint asks for."""

from collections.abc import Sequence
from typing import Final

from ecocore._core import Tokenizer
from ecocore.prompt.bounds import Bounds
from ecocore.prompt.prompt import Prompt
from ecocore.request import ChatRequest


class PlainPrompts:
    """Builds plain prompts for one model. Holds no state of a request; safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, *, start_ids: Sequence[int], context_length: int, vocab_size: int) -> None:
        """`start_ids`: what the model begins every text with."""
        self.start_ids: Final = tuple(start_ids)
        self._tokenizer = tokenizer
        self._bounds = Bounds(context_length, vocab_size)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of a text, with the start tokens before them if asked."""
        return [*(self.start_ids if add_special_tokens else ()), *self._tokenizer.encode(text)]

    def build(self, prompt: str | Sequence[int], request: ChatRequest, *, scores: bool = False) -> Prompt:
        """A prompt that `request` goes on from; its messages are not looked at. A text begins with the start tokens.

        `scores`: the log-probabilities of the prompt's own tokens are wanted too.

        Raises InvalidParameter for the prompt, and as `Bounds.check`; ContextLengthExceeded("prompt").
        """
        self._bounds.check(request)
        if isinstance(prompt, str):
            return self._bounds.fitted(self.encode(prompt, add_special_tokens=True), request, field="prompt", scores=scores)
        self._bounds.check_ids("prompt", prompt)
        return self._bounds.fitted(prompt, request, field="prompt", scores=scores)
