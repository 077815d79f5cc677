"""From a request to a prompt: template, token ids, and how much of the context the answer may use."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ecocore._core import Tokenizer
from ecocore.errors import ContextLengthExceeded, InvalidParameter, UnsupportedParameter
from ecocore.prompt.continuation import marked, up_to_mark
from ecocore.prompt.images.image import Image
from ecocore.prompt.prompt import Prompt
from ecocore.prompt.template import ChatTemplate
from ecocore.prompt.traits import TemplateTraits
from ecocore.prompt.turns import turns_of
from ecocore.request import ChatRequest

# Efforts that ask for no thinking where thinking is a switch.
_NO_EFFORT: Final = frozenset({"none", "minimal"})


class PromptBuilder:
    """Builds prompts for one model. Holds no state of a request; safe to call from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        context_length: int,
        vocab_size: int,
        image_text: str | None = None,
    ) -> None:
        """`image_text`: what stands for an image where the template takes strings; None for a model that sees none."""
        self._tokenizer = tokenizer
        self._template = template
        self._context_length = context_length
        self._vocab_size = vocab_size
        self._image_text = image_text
        self.traits: Final = TemplateTraits.of(template)

    def build(self, request: ChatRequest, images: Sequence[Image] = ()) -> Prompt:
        """`images`: those of the request, or none where only the text is to be judged.

        Raises InvalidParameter where the template refuses the messages; ContextLengthExceeded.
        """
        self._check_ids("logit_bias", request.logit_bias)
        self._check_ids("stop_token_ids", request.stop_token_ids)
        token_ids = np.asarray(self._tokenizer.encode(self.text(request)), dtype=np.uint32)
        remaining = self._context_length - len(token_ids)
        if remaining < 1:
            raise ContextLengthExceeded(
                "messages",
                f"these messages make {len(token_ids)} tokens, the model's context is {self._context_length} "
                "and the answer needs at least one: shorten them",
            )
        limit = min(request.token_limit or remaining, remaining)
        salt = (request.cache_salt or "").encode("utf-8", "surrogatepass")
        return Prompt(token_ids=token_ids, max_tokens=limit, image_digest=_digest(images), cache_salt=salt)

    def tool_syntax(self, usual: str) -> str:
        """How the model is told to write calls: as its template shows them, or in the text of `hermes`."""
        calls = self.traits.calls
        return "hermes" if calls is None or calls.tagged else usual

    def text(self, request: ChatRequest) -> str:
        """The conversation as the model reads it. Raises InvalidParameter, UnsupportedParameter."""
        if self._image_text is None and request.images:
            raise UnsupportedParameter("messages", "this model reads text only; send no images")
        # Without a choice to call, a model that sees no tools calls none. `allowed_tools` leaves the prompt as it is.
        tools = () if request.tool_choice.mode == "none" else tuple(tool.as_sent() for tool in request.tools)
        turns = turns_of(request.messages, tools, self.traits, image_text=self._image_text or "")
        generation = request.add_generation_prompt
        text = self._template.render(
            marked(turns) if request.continue_final_message else turns,
            tools=tools if self.traits.calls is not None else None,
            add_generation_prompt=not request.continue_final_message if generation is None else generation,
            switches=_switches(request),
        )
        return up_to_mark(text, request.messages[-1].text) if request.continue_final_message else text

    def _check_ids(self, field: str, ids: Mapping[int, float] | Sequence[int]) -> None:
        for token_id in ids:
            if not 0 <= token_id < self._vocab_size:
                raise InvalidParameter(
                    field, f"token id {token_id} is outside the vocabulary of {self._vocab_size}", "invalid_value"
                )


def _digest(images: Sequence[Image]) -> bytes:
    return hashlib.blake2b(b"".join(image.digest for image in images), digest_size=32).digest() if images else b""


def _switches(request: ChatRequest) -> dict[str, Any]:
    switches = dict(request.chat_template_kwargs)
    if request.reasoning_effort is not None:
        switches.setdefault("enable_thinking", request.reasoning_effort not in _NO_EFFORT)
    return switches
