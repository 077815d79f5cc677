"""From a request to a prompt: template, token ids, and how much of the context the answer may use."""

from dataclasses import replace
from typing import Any, Final

from ecocore._core import Tokenizer
from ecocore.errors import UnsupportedParameter
from ecocore.prompt.bounds import Bounds
from ecocore.prompt.continuation import marked, up_to_mark
from ecocore.prompt.images.view import Viewer
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
        viewer: Viewer | None = None,
        tool_template: ChatTemplate | None = None,
        thoughts: tuple[str, ...] = (),
    ) -> None:
        """`image_text`: what stands for an image where the template takes strings; None for a model that sees none.

        `viewer`: how the model looks at images, if it really does. `tool_template`: for conversations with tools, where the
        model has another one for them. `thoughts`: how templates open one that the model is to go on with.
        """
        self._tool_template = tool_template
        self._tool_traits = None if tool_template is None else TemplateTraits.of(tool_template)
        self._thoughts = thoughts
        self._viewer = viewer
        self._context_length = context_length
        self._tokenizer = tokenizer
        self._template = template
        self._bounds = Bounds(context_length, vocab_size)
        self._image_text = image_text
        self.traits: Final = TemplateTraits.of(template)

    def build(self, request: ChatRequest) -> Prompt:
        """Knows the places of the images and not what they show.

        Raises InvalidParameter where the template refuses the messages, and as `Bounds.check`; ContextLengthExceeded.
        """
        self._bounds.check(request)
        text = self.text(request)
        prompt = self._bounds.fitted(self._tokenizer.encode_chat(text), request, field="messages")
        if text.endswith(self._thoughts):
            prompt = replace(prompt, in_thought=True)
        return replace(prompt, viewer=self._viewer, context_length=self._context_length) if request.images else prompt

    def tool_syntax(self, usual: str) -> str:
        """How the model is told to write calls: as its template shows them, or in the text of `hermes`."""
        calls = (self._tool_traits or self.traits).calls
        return "hermes" if calls is None or calls.tagged else usual

    def text(self, request: ChatRequest) -> str:
        """The conversation as the model reads it. Raises InvalidParameter, UnsupportedParameter."""
        if self._image_text is None and request.images:
            raise UnsupportedParameter("messages", "this model reads text only; send no images")
        # Without a choice to call, a model that sees no tools calls none. `allowed_tools` leaves the prompt as it is.
        tools = () if request.tool_choice.mode == "none" else tuple(tool.as_sent() for tool in request.tools)
        template, traits = self._template, self.traits
        if self._tool_template is not None and self._tool_traits is not None and (tools or _has_calls(request)):
            template, traits = self._tool_template, self._tool_traits
        turns = turns_of(request.messages, tools, traits, image_text=self._image_text or "")
        generation = request.add_generation_prompt
        text = template.render(
            marked(turns) if request.continue_final_message else turns,
            tools=tools if traits.calls is not None else None,
            add_generation_prompt=not request.continue_final_message if generation is None else generation,
            switches=_switches(request),
        )
        return up_to_mark(text, request.messages[-1].text) if request.continue_final_message else text


def _has_calls(request: ChatRequest) -> bool:
    return any(message.role == "tool" or message.tool_calls for message in request.messages)


def _switches(request: ChatRequest) -> dict[str, Any]:
    switches = dict(request.chat_template_kwargs)
    if request.reasoning_effort is not None:
        switches.setdefault("enable_thinking", request.reasoning_effort not in _NO_EFFORT)
    return switches
