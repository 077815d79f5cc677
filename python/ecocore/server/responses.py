"""POST /v1/responses without a memory: items in, items out, streamed or plain.

Takes its JSON, gives a `ChatRequest` and the members of the answer that the request settles. Nothing is stored, so what
would need an earlier response is refused by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag
from starlette.types import Receive, Scope, Send

from ecocore.errors import InvalidParameter, UnsupportedParameter
from ecocore.regions.region import Region
from ecocore.request import ChatRequest
from ecocore.request.faults import named_errors
from ecocore.request.json_object import JsonObject, PlainObject, either, present
from ecocore.server.delivery import Desk, Ready, exchange
from ecocore.server.renamed import renamed
from ecocore.server.response_items import WORDS, Turns, turns_of
from ecocore.server.wire import Told

MAX_DESCRIPTION: Final = 4096

# What means the same here and in a chat.
SHARED: Final[tuple[str, ...]] = (
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "logit_bias",
    "seed",
    "stop",
    "min_tokens",
    "top_logprobs",
    "parallel_tool_calls",
    "chat_template_kwargs",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "cache_salt",
)

# The client's names of what a chat request calls otherwise.
FIELDS: Final = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text",
    "reasoning_effort": "reasoning",
    "verbosity": "text",
    "logprobs": "include",
    # The same names, but what is in them is spelled otherwise.
    "tools": "tools",
    "tool_choice": "tool_choice",
}

# Where in its field a member is that a chat has as a field.
_INSIDE: Final = {"response_format": ".format", "verbosity": ".verbosity", "reasoning_effort": ".effort"}

LOGPROBS: Final = "message.output_text.logprobs"

# They ask for a memory, for another place to run, or for tools of a provider.
_REFUSED: Final[Mapping[str, tuple[tuple[Any, ...], str]]] = {
    "previous_response_id": ((), "nothing is stored here; send the earlier items in input"),
    "conversation": ((), "nothing is stored here; send the earlier items in input"),
    "background": ((False,), "answers are not made in the background"),
    "prompt": ((), "prompt templates are not stored here; send instructions and input"),
    "max_tool_calls": ((), "bounds tools of a provider, and there are none"),
    "truncation": (("disabled",), 'a conversation is never shortened silently; leave it out or send "disabled"'),
    "context_management": (([],), "a conversation is never shortened silently"),
    # The names of chat completions: an answer without what they ask for would look like one with it.
    "messages": (([],), "is not for responses; send input"),
    "max_tokens": ((), "is not for responses; send max_output_tokens"),
    "max_completion_tokens": ((), "is not for responses; send max_output_tokens"),
    "response_format": (({"type": "text"},), "is not for responses; send text.format"),
    "n": ((1,), "is not for responses, which give one answer; use /v1/chat/completions"),
    "logprobs": ((False,), f'is not for responses; send include: ["{LOGPROBS}"]'),
    "functions": (([],), "is deprecated and not supported; send tools"),
}

# Extras of items that never appear in our answers: asking for them changes nothing.
_ABSENT_EXTRAS: Final = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)


class TextFormat(JsonObject):
    """The form of the answer; a schema's members stand beside the type."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION)] | None = None
    definition: Annotated[PlainObject | None, Field(alias="schema")] = None
    strict: bool | None = None

    def told(self) -> dict[str, Any]:
        """As the answer repeats it."""
        if self.type != "json_schema":
            return {"type": self.type}
        return self.model_dump(by_alias=True, exclude_none=True)

    def as_chat(self) -> dict[str, Any]:
        """As chat completions spell it."""
        if self.type != "json_schema":
            return {"type": self.type}
        schema = {"name": self.name, "description": self.description, "schema": self.definition, "strict": self.strict}
        return {"type": "json_schema", "json_schema": present(schema)}


class TextOptions(JsonObject):
    """How text is to be."""

    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningOptions(JsonObject):
    """How much to think. There are no summaries."""

    effort: str | None = None


class ResponseStreamOptions(JsonObject):
    """Accepted: nothing is hidden behind padding here."""

    include_obfuscation: bool = False


def _input_kind(value: Any) -> str:
    return "#string" if isinstance(value, str) else "#items"


class ResponseParameters(JsonObject):
    """What this endpoint has of its own, and where it puts what a chat puts elsewhere."""

    model: str
    input: Annotated[
        Annotated[str, Tag("#string")] | Annotated[list[dict[str, Any]], Tag("#items")],
        Discriminator(_input_kind),
        either("a string or an array of items", str, list),
    ]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    tools: list[dict[str, Any]] = Field(default_factory=list)
    tool_choice: Annotated[str | dict[str, Any], either("'none', 'auto', 'required' or an object", str, dict)] | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    include: list[str] = Field(default_factory=list)
    stream_options: ResponseStreamOptions | None = None
    store: bool = False


@dataclass(frozen=True, slots=True)
class ResponsesRequest:
    """The chat request that the items make, and what its answer says of the request."""

    request: ChatRequest
    turns: Turns
    settled: str
    """Members of the answer, as JSON text with a comma before each."""

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Checks a decoded JSON object. Raises InvalidRequest naming the field at fault."""
        sent = present(fields)
        for name, (neutral, reason) in _REFUSED.items():
            if name in sent and sent[name] not in neutral:
                raise UnsupportedParameter(name, reason)
        with named_errors():
            own = ResponseParameters.model_validate(sent)
        turns = turns_of(own.instructions, own.input)
        with renamed(FIELDS, partial(_place, turns), WORDS):
            request = ChatRequest.parse(_as_chat(own, sent, turns))
        return cls(request, turns, _settled(own, request))

    @property
    def model(self) -> str:
        """Which model is to run."""
        return self.request.model

    @property
    def stream(self) -> bool:
        """Whether the answer comes in pieces."""
        return self.request.stream

    @property
    def told(self) -> Told:
        """How the answer is told."""
        return Told(
            form="response",
            id_prefix="resp_",
            model=self.request.model,
            stream=self.request.stream,
            logprobs=self.request.logprobs,
            fields=self.settled,
        )


def _place(turns: Turns, field: str, place: str) -> str:
    """A place in a field of the chat request, where the client wrote it."""
    if field == "messages":
        return turns.place(place)
    for nested in (".json_schema", ".allowed_tools", ".function"):
        place = place.replace(nested, "", 1)
    return _INSIDE.get(field, "") + place


def _as_chat(own: ResponseParameters, sent: Mapping[str, Any], turns: Turns) -> dict[str, Any]:
    text = own.text or TextOptions()
    return {
        **{name: sent[name] for name in SHARED if name in sent},
        "messages": turns.messages,
        "max_completion_tokens": own.max_output_tokens,
        "tools": [_tool(number, tool) for number, tool in enumerate(own.tools)],
        "tool_choice": _tool_choice(own.tool_choice),
        "response_format": text.format and text.format.as_chat(),
        "verbosity": text.verbosity,
        "reasoning_effort": own.reasoning and own.reasoning.effort,
        "logprobs": _wants_logprobs(own, sent),
    }


def _wants_logprobs(own: ResponseParameters, sent: Mapping[str, Any]) -> bool:
    for name in own.include:
        if name != LOGPROBS and name not in _ABSENT_EXTRAS:
            raise InvalidParameter("include", f"there is nothing called {name[:40]!r}", "invalid_value")
    # As in the original, a number of alternatives is reason enough.
    return LOGPROBS in own.include or bool(sent.get("top_logprobs"))


def _tool(number: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function of the flat spelling in the nested one."""
    kind = tool.get("type")
    if kind != "function":
        raise UnsupportedParameter(
            "tools", f"tools of type {str(kind)[:40]!r} are not supported; send functions", place=f"[{number}]"
        )
    function = {name: tool[name] for name in ("name", "description", "parameters", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: str | dict[str, Any] | None) -> Any:
    if not isinstance(choice, dict):
        return choice
    if choice.get("type") == "function":
        return _named(choice)
    if choice.get("type") == "allowed_tools":
        tools = choice.get("tools")
        named = [_named(tool) if isinstance(tool, dict) else tool for tool in tools] if isinstance(tools, list) else tools
        return {"type": "allowed_tools", "allowed_tools": present({"mode": choice.get("mode"), "tools": named})}
    raise UnsupportedParameter("tool_choice", f"{str(choice.get('type'))[:40]!r} is not supported; name a function")


def _named(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": tool.get("type"), "function": present({"name": tool.get("name")})}


def _settled(own: ResponseParameters, request: ChatRequest) -> str:
    """Every member of a response object that tells what was asked, whether it was sent or not.

    A stream tells them three times: only what is checked, and bounded, is among them.
    """
    text = own.text or TextOptions()
    form = text.format or TextFormat(type="text")
    members = {
        "instructions": own.instructions,
        "max_output_tokens": own.max_output_tokens,
        "max_tool_calls": None,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": None,
        "background": False,
        "conversation": None,
        "prompt": None,
        "prompt_cache_key": request.prompt_cache_key,
        "reasoning": {"effort": own.reasoning and own.reasoning.effort, "summary": None},
        "safety_identifier": request.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": request.temperature,
        "text": {"format": form.told(), **present({"verbosity": text.verbosity})},
        "tool_choice": _told_choice(own.tool_choice),
        "tools": [_told_tool(tool) for tool in own.tools],
        "top_logprobs": request.top_logprobs,
        "top_p": request.top_p,
        "truncation": "disabled",
        "user": request.user,
    }
    return "," + json.dumps(members, ensure_ascii=False, separators=(",", ":"))[1:-1]


def _told_choice(choice: str | dict[str, Any] | None) -> Any:
    """In the flat spelling, without what nobody knows."""
    if not isinstance(choice, dict):
        return choice or "auto"
    if choice["type"] == "function":
        return {"type": "function", "name": choice["name"]}
    tools = [{"type": "function", "name": tool["name"]} for tool in choice["tools"]]
    return {"type": "allowed_tools", "mode": choice["mode"], "tools": tools}


def _told_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.get("name"),
        "description": tool.get("description"),
        "parameters": tool.get("parameters"),
        "strict": bool(tool.get("strict")),
    }


class Responses:
    """The endpoint, as an ASGI application: it must see the client leave, whatever it is doing."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One exchange. Raises what `error_table` tells."""
        await exchange(self._desk, ResponsesRequest.parse, _prepare, scope=scope, receive=receive, send=send)


async def _prepare(region: Region, asked: ResponsesRequest) -> Ready:
    with renamed(FIELDS, partial(_place, asked.turns), WORDS):
        admission = await region.prepare(asked.request)
    return Ready([admission], asked.told)
