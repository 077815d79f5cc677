"""From a request to a prompt: template, token ids, and how much of the context the answer may use."""

import numpy as np

from ecocore._core import Tokenizer
from ecocore.errors import ContextLengthExceeded, InvalidParameter, UnsupportedParameter
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
        _refuse_what_is_not_wired(request)
        text = self._template.render([_turn(message.role, message.text) for message in request.messages])
        token_ids = np.asarray(self._tokenizer.encode(text), dtype=np.uint32)
        remaining = self._context_length - len(token_ids)
        if remaining < 1:
            raise ContextLengthExceeded(
                "messages",
                f"these messages make {len(token_ids)} tokens, the model's context is {self._context_length} "
                "and the answer needs at least one: shorten them",
            )
        wanted = request.token_limit or remaining
        return Prompt(token_ids=token_ids, max_tokens=min(wanted, remaining))


def _refuse_what_is_not_wired(request: ChatRequest) -> None:
    """What the request model understands and the engine does not yet take."""
    if any(message.images for message in request.messages):
        raise UnsupportedParameter("messages", "this model reads text only; send no images")
    neutral = {
        "n": request.n == 1,
        "tools": not request.tools,
        "response_format": request.response_format is None or request.response_format.type == "text",
        "min_tokens": request.min_tokens == 0,
        "ignore_eos": not request.ignore_eos,
        "stop_token_ids": not request.stop_token_ids,
        "chat_template_kwargs": not request.chat_template_kwargs,
        "continue_final_message": not request.continue_final_message,
    }
    for name, is_neutral in neutral.items():
        if not is_neutral:
            raise UnsupportedParameter(name, "is not supported by this version")


def _turn(role: str, content: str) -> dict[str, str]:
    # Templates of this age know no developer role; its text is the system's.
    return {"role": "system" if role == "developer" else role, "content": content}
