"""From a request to a prompt: template, token ids, and how much of the context the answer may use."""

import numpy as np

from ecocore._core import Tokenizer
from ecocore.errors import ContextLengthExceeded, InvalidParameter
from ecocore.prompt.prompt import Prompt
from ecocore.prompt.template import ChatTemplate
from ecocore.request import ChatRequest


class PromptBuilder:
    """Builds prompts for one model. Holds no state of a request; safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, *, context_length: int, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._context_length = context_length
        self._vocab_size = vocab_size

    def build(self, request: ChatRequest) -> Prompt:
        """Raises InvalidParameter where the template refuses the messages; ContextLengthExceeded."""
        for token_id in request.logit_bias:
            if not 0 <= token_id < self._vocab_size:
                raise InvalidParameter(
                    "logit_bias", f"token id {token_id} is outside the vocabulary of {self._vocab_size}", "invalid_value"
                )
        text = self._template.render([_turn(message.role, message.content) for message in request.messages])
        token_ids = np.asarray(self._tokenizer.encode(text), dtype=np.uint32)
        remaining = self._context_length - len(token_ids)
        if remaining < 1:
            raise ContextLengthExceeded(
                "messages",
                f"these messages make {len(token_ids)} tokens, the context here is {self._context_length} "
                "and the answer needs at least one: shorten them",
            )
        wanted = request.max_completion_tokens or request.max_tokens or remaining
        return Prompt(token_ids=token_ids, max_tokens=min(wanted, remaining))


def _turn(role: str, content: str) -> dict[str, str]:
    # Templates of this age know no developer role; its text is the system's.
    return {"role": "system" if role == "developer" else role, "content": content}
